"""Calls that send whole images: classification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from personserve._answers import read_max_batch, read_vectors
from personserve._calls.batches import resize_crops, split_evenly
from personserve._calls.models import ModelCalls
from personserve._errors import InvalidInputError
from personserve._results import Classification
from personserve._results.inference import top_classes
from personserve._retry import Call
from personserve._types import ImageInputs
from personserve._wire.requests import ModelDescription
from personserve.images.crops import Pixels
from personserve.images.inputs import read_all_pixels

CLASSIFIER = "se_resnet50"


@dataclass
class ImageCalls:
    """Calls that send whole images.

    Attributes:
        models: Calls about models.
    """

    models: ModelCalls

    def classify(
        self, images: ImageInputs, count: int, labels: Sequence[str] | None
    ) -> Call[list[Classification]]:
        """Implement Client.classify.

        Args:
            images: See Client.classify.
            count: See Client.classify.
            labels: See Client.classify.

        Returns:
            The call.
        """
        pixels = read_all_pixels(images, "image")
        if not pixels:
            return []
        return (
            yield from self.models.repeat_if_changed(
                (CLASSIFIER,), lambda: self._classify(pixels, count, labels)
            )
        )

    def _classify(
        self, pixels: Sequence[Pixels], count: int, labels: Sequence[str] | None
    ) -> Call[list[Classification]]:
        model = yield from self.models.describe_cached(CLASSIFIER)
        if len(model.inputs) != 1:
            raise model.unusable("inputs", "one", [each.name for each in model.inputs])
        name = model.inputs[0].name
        shape = model.crop_shape(name)
        classifications = []
        for batch in split_evenly(pixels, read_max_batch(model)):
            inputs = {name: resize_crops(batch, shape)}
            call = self.models.infer_checked(model, inputs, len(batch))
            model, outputs = yield from call
            classifications += [
                _classification_from_logits(row, count, labels, model)
                for row in read_vectors(model, outputs, "logits", len(batch))
            ]
        return classifications


def _classification_from_logits(
    logits: npt.NDArray[np.float32],
    count: int,
    labels: Sequence[str] | None,
    model: ModelDescription,
) -> Classification:
    if labels is not None and len(labels) != len(logits):
        raise InvalidInputError(
            f"{len(labels)} labels; {model.name} has {len(logits)} classes"
        )
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    return top_classes(probabilities, count, labels, model.stand_in_weights)
