"""Calls that send crops of people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from personserve._answers import read_no_people, read_people
from personserve._calls.batches import resize_crops, split_evenly
from personserve._calls.crops_form import CropsForm, crops_name, describe_crops_form
from personserve._calls.models import ModelCalls
from personserve._descriptions import ModelChangedError
from personserve._errors import InvalidInputError, PersonServeError
from personserve._results import People
from personserve._retry import Call
from personserve._types import Array, ImageInputs
from personserve._wire.requests import ModelDescription
from personserve.images.crops import Pixels
from personserve.images.inputs import read_all_pixels
from personserve.images.thumbnails import ImageReference


@dataclass
class CropCalls:
    """Calls that send crops of people.

    Attributes:
        models: Calls about models.
        abstain_below: Probability below which a gender is marked as abstained.
    """

    models: ModelCalls
    abstain_below: float = 0.0

    def attributes(self, crops: ImageInputs, model: str) -> Call[People]:
        """Implement Client.attributes_of_crops.

        Args:
            crops: See Client.attributes_of_crops.
            model: See Client.attributes_of_crops.

        Returns:
            The call.
        """
        pixels = read_all_pixels(crops, "crop")
        if not pixels:
            return (yield from self.no_people(crops_name(model), model))
        references = [ImageReference(crop) for crop in crops]
        return (
            yield from self.models.repeat_if_changed(
                (crops_name(model), model),
                lambda: self._resize_and_infer(model, pixels, references),
            )
        )

    def no_people(self, *models: str) -> Call[People]:
        """Return no people. The description gives the size of embeddings.

        No inference is made, so a server that does not answer is no reason to fail.

        Args:
            models: Names of models; the first one that the server describes is used.

        Returns:
            The call.
        """
        for name in models:
            try:
                description = yield from self.models.describe_cached(name)
                return read_no_people(description)
            except PersonServeError:
                continue
        for description in self.models.descriptions.requested_before(models, math.inf):
            with suppress(PersonServeError):
                return read_no_people(description)
        return read_no_people(None)

    def infer_people(
        self,
        model: ModelDescription,
        inputs: Mapping[str, Array],
        rows: int,
        boxes: npt.NDArray[np.float32] | None,
        images: Iterable[ImageReference | None],
    ) -> Call[People]:
        """Infer, and read the people of the answer.

        Args:
            model: Description of the model.
            inputs: Input tensors by name.
            rows: Number of people in the request.
            boxes: Their boxes, FP32 [rows, 4]; None for crops.
            images: The image of each person, for thumbnails.

        Returns:
            The call.
        """
        model, outputs = yield from self.models.infer_checked(model, inputs, rows)
        return read_people(model, outputs, rows, boxes, images, self.abstain_below)

    def infer_crops(
        self,
        form: CropsForm,
        crops: Sequence[Pixels],
        boxes: npt.NDArray[np.float32] | None,
        images: Iterable[ImageReference | None],
    ) -> Call[People]:
        """Infer from ready crops, and read the people of the answer.

        Args:
            form: The models that take the crops.
            crops: UINT8 [N, height, width, 3] of each of the form's shapes, in RGB
                order.
            boxes: Boxes of the people, FP32 [N, 4]; None for crops.
            images: The image of each person, for thumbnails.

        Returns:
            The call.
        """
        rows = len(crops[0])
        model, outputs = yield from form.infer(self.models, crops, rows)
        return read_people(model, outputs, rows, boxes, images, self.abstain_below)

    def _resize_and_infer(
        self, name: str, pixels: Sequence[Pixels], references: Sequence[ImageReference]
    ) -> Call[People]:
        endpoint = self.models.choose_endpoint()
        form = yield from describe_crops_form(self.models, name, endpoint)
        people = []
        for batch, images in zip(
            split_evenly(pixels, form.max_people),
            split_evenly(references, form.max_people),
            strict=True,
        ):
            crops = [resize_crops(batch, shape) for shape in form.shapes]
            people.append((yield from self.infer_crops(form, crops, None, images)))
        return concatenate_people(people)


def concatenate_people(parts: Sequence[People]) -> People:
    """Join the parts of one call; the call is repeated if the weights changed in it.

    Args:
        parts: The people of each request.

    Returns:
        All people.

    Raises:
        ModelChangedError: If the embeddings come from different weights.
    """
    try:
        return People.concatenate(parts)
    except InvalidInputError as exc:
        raise ModelChangedError(
            "the embedding network's weights were replaced during the call"
        ) from exc
