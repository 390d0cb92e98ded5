"""Calls that send a frame and the boxes of its people."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from personserve._calls.batches import read_max_people, split_evenly
from personserve._calls.crops import CropCalls, concatenate_people
from personserve._calls.crops_form import crops_name, describe_crops_form
from personserve._calls.models import ModelCalls
from personserve._errors import (
    InvalidInputError,
    ModelLoadingError,
    ModelUnavailableError,
)
from personserve._results import People
from personserve._retry import Call
from personserve._types import Boxes, CropSide, ImageInput
from personserve.images.crops import BoxError, Pixels, cut_crops, pixel_boxes
from personserve.images.encoded import Encoded
from personserve.images.inputs import (
    array_from_boxes,
    decode_image,
    load_image,
    tensors_from_frame,
)
from personserve.images.thumbnails import ImageReference


@dataclass(frozen=True)
class _Frame:
    """A loaded frame, its boxes, and the model and the side that crop its people.

    `reference` is a weak reference to the caller's image.
    """

    image: Encoded | Pixels
    reference: ImageReference
    boxes: npt.NDArray[np.float32]
    crop_on: CropSide
    model: str


@dataclass
class FrameCalls:
    """Calls that send frames.

    Attributes:
        models: Calls about models.
        crops: Calls that send crops, for people that are cropped by the client.
        shares_memory: Whether frames are passed in shared memory, not over a wire.
    """

    models: ModelCalls
    crops: CropCalls
    shares_memory: bool = False

    def attributes(
        self, frame: ImageInput, boxes: Boxes, crop_on: CropSide, model: str
    ) -> Call[People]:
        """Implement Client.attributes.

        Args:
            frame: See Client.attributes.
            boxes: See Client.attributes.
            crop_on: See Client.attributes.
            model: See Client.attributes.

        Returns:
            The call.
        """
        if crop_on not in {"server", "client", "auto"}:
            raise InvalidInputError(
                f"crop_on={crop_on!r}: expected server, client or auto"
            )
        box_array = array_from_boxes(boxes)
        image = load_image(frame, "frame")
        if len(box_array) == 0:
            return (yield from self.crops.no_people(model))
        loaded = _Frame(image, ImageReference(frame), box_array, crop_on, model)
        return (
            yield from self.models.repeat_if_changed(
                (model, crops_name(model)), lambda: self._crop(loaded)
            )
        )

    def _crop(self, frame: _Frame) -> Call[People]:
        endpoint = self.models.choose_endpoint()
        crop_on = frame.crop_on
        if crop_on == "auto":
            crop_on = yield from self._choose_crop_side(frame, endpoint)
        if crop_on == "client":
            return (yield from self._crop_on_client(frame, endpoint))
        return (yield from self._crop_on_server(frame, endpoint))

    def _choose_crop_side(self, frame: _Frame, endpoint: str) -> Call[CropSide]:
        """Choose the side on which cropping costs less.

        Over a wire it is the side that sends fewer bytes. With shared memory it is the
        server, because it crops several people at once (measured: client/README.md).
        """
        if self.shares_memory:
            return "server"
        name = crops_name(frame.model)
        try:
            model = yield from self.models.describe_cached(name, endpoint)
        except ModelLoadingError:
            raise
        except ModelUnavailableError:  # not every model for frames has one for crops
            return "server"
        crop_bytes = sum(int(np.prod(tensor.shape)) for tensor in model.inputs)
        is_smaller = len(frame.boxes) * crop_bytes < frame.image.nbytes
        return "client" if is_smaller else "server"

    def _crop_on_server(self, frame: _Frame, endpoint: str) -> Call[People]:
        model = yield from self.models.describe_for("frames", frame.model, endpoint)
        tensors = tensors_from_frame(frame.image)
        images = itertools.repeat(frame.reference)
        people: list[People] = []
        for batch in split_evenly(frame.boxes, read_max_people(model)):
            inputs = {**tensors, "boxes": batch}
            try:
                call = self.crops.infer_people(model, inputs, len(batch), batch, images)
                people.append((yield from call))
            except InvalidInputError as exc:
                first = sum(len(each) for each in people)
                if first:  # the server counts boxes from the first of this request
                    raise InvalidInputError(f"after box {first - 1}: {exc}") from exc
                raise
        return concatenate_people(people)

    def _crop_on_client(self, frame: _Frame, endpoint: str) -> Call[People]:
        form = yield from describe_crops_form(self.models, frame.model, endpoint)
        image, images = frame.image, itertools.repeat(frame.reference)
        pixels = decode_image(image, "frame") if isinstance(image, Encoded) else image
        try:
            integer_boxes = pixel_boxes(frame.boxes, *pixels.shape[:2])
        except BoxError as exc:
            raise InvalidInputError(str(exc), model=form.model.name) from exc
        people = []
        for integer_batch, batch in zip(
            split_evenly(integer_boxes, form.max_people),
            split_evenly(frame.boxes, form.max_people),
            strict=True,
        ):
            crops = cut_crops(pixels, integer_batch, form.shapes, order="BGR")
            call = self.crops.infer_crops(form, crops, batch, images)
            people.append((yield from call))
        return concatenate_people(people)
