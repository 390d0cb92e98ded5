"""Every call of the client as a generator that does no I/O.

A call yields requests and is sent their replies; its return value is the result. The
sync client drives it with plain calls, an async one can with `await`; neither knows
what a call does, so there is one implementation of everything.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from personserve._crops import CropShape, Pixels, resized, swap_channels
from personserve._errors import IncompatibleServerError, InvalidInputError
from personserve._results import Gender, Kinship, People, Person
from personserve._transport import (
    Array,
    DescribeModel,
    Infer,
    ModelDescription,
    Request,
)

T = TypeVar("T")
Call = Generator[Request, Any, T]
"""A call in progress: yields requests, is sent replies, returns its result."""

Frame = npt.NDArray[np.uint8] | bytes | str | PathLike[str]
Boxes = npt.ArrayLike

Pictures = Sequence[Pixels] | Pixels

FRAME_MODEL = "person_attributes"
CROPS_MODEL = "person_attributes_crops"
FACE_MODEL = "kinship_embedding"
PAIR_MODEL = "kinship_pair"

MAX_FRAME_BYTES = 512 << 20
"""Triton's gRPC messages end at 2 GiB; no picture worth sending comes near this."""


@dataclass
class Calls:
    """The calls of one client, and what it has learnt about the server's models."""

    _known: dict[str, ModelDescription] = field(default_factory=dict)

    def attributes(self, frame: Frame, boxes: Boxes) -> Call[People]:
        """See Client.attributes."""
        wanted = _boxes(boxes)
        pixels = _frame(frame)
        if len(wanted) == 0:
            return _nobody()
        model = yield from self._describe(FRAME_MODEL)
        people: list[People] = []
        for part in _parts(wanted, _max_people(model)):
            inputs = {"frame": pixels, "boxes": part}
            try:
                people.append((yield from self._people(model, inputs, part)))
            except InvalidInputError as exc:
                first = sum(len(answered) for answered in people)
                if first:  # the server counts boxes from the part's first
                    raise InvalidInputError(f"after box {first - 1}: {exc}") from exc
                raise
        return _joined(people)

    def attributes_of_crops(self, crops: Pictures) -> Call[People]:
        """See Client.attributes_of_crops."""
        _check_pictures(crops, "crop")
        if len(crops) == 0:
            return _nobody()
        model = yield from self._describe(CROPS_MODEL)
        people = []
        for part in _parts(crops, _max_people(model)):
            inputs = {
                tensor.name: _resized(part, _crop_shape(model, tensor.name))
                for tensor in model.inputs
            }
            people.append((yield from self._people(model, inputs, None)))
        return _joined(people)

    def kinship_matrix(self, faces_a: Pictures, faces_b: Pictures) -> Call[Kinship]:
        """See Client.kinship_matrix."""
        trunk = yield from self._describe(FACE_MODEL)
        pair = yield from self._describe(PAIR_MODEL)
        a = yield from self._face_embeddings(trunk, faces_a)
        b = yield from self._face_embeddings(trunk, faces_b)
        related = np.empty(len(a) * len(b), np.float32)
        for start in range(0, len(related), pair.max_batch_size):
            part = np.arange(start, min(start + pair.max_batch_size, len(related)))
            inputs = {
                "embedding_a": a[part // len(b)],
                "embedding_b": b[part % len(b)],
            }
            reply = yield Infer(pair.name, inputs, uuid4().hex)
            related[part] = _required(reply, "related_probability", pair)[:, 0]
        return Kinship(
            related.reshape(len(a), len(b)), (*_stand_ins(trunk), *_stand_ins(pair))
        )

    def _face_embeddings(
        self, model: ModelDescription, faces: Pictures
    ) -> Call[npt.NDArray[np.float32]]:
        _check_pictures(faces, "face")
        if len(faces) == 0:
            return np.empty((0, 0), np.float32)
        parts = []
        for part in _parts(faces, model.max_batch_size):
            crops = _resized(part, _crop_shape(model, "face"))
            reply = yield Infer(model.name, {"face": crops}, uuid4().hex)
            parts.append(_required(reply, "embedding", model))
        return np.concatenate(parts)

    def infer(self, model: str, arrays: Mapping[str, Array]) -> Call[dict[str, Array]]:
        """See Client.infer."""
        known = yield from self._describe(model)
        _check_inputs(known, arrays)
        reply: dict[str, Array] = yield Infer(model, arrays, uuid4().hex)
        return reply

    def describe(self, model: str) -> Call[ModelDescription]:
        """See Client.describe."""
        return (yield from self._describe(model))

    def _describe(self, model: str) -> Call[ModelDescription]:
        if model not in self._known:
            self._known[model] = yield DescribeModel(model)
        return self._known[model]

    def _people(
        self,
        model: ModelDescription,
        inputs: Mapping[str, Array],
        boxes: npt.NDArray[np.float32] | None,
    ) -> Call[People]:
        reply = yield Infer(model.name, inputs, uuid4().hex)
        probabilities = _required(reply, "female_probability", model)[:, 0]
        embeddings = _required(reply, "embedding", model)
        labels = _required(model.parameters, "female_probability.labels", model).split(
            ","
        )
        threshold = float(
            _required(model.parameters, "female_probability.threshold", model)
        )
        persons = tuple(
            Person(
                Gender(float(probability), labels[int(probability >= threshold)]),
                embedding,
                None if boxes is None else _box(boxes[index]),
            )
            for index, (probability, embedding) in enumerate(
                zip(probabilities, embeddings, strict=True)
            )
        )
        return People(persons, probabilities, embeddings, _stand_ins(model))


def _frame(frame: Frame) -> Pixels:
    """`frame` as the server takes it: raw [H, W, 3], or encoded [1, 1, bytes]."""
    if isinstance(frame, str | PathLike):
        path = Path(frame)
        try:
            frame = path.read_bytes()
        except OSError as exc:
            raise InvalidInputError(f"frame: cannot read {path}: {exc}") from exc
    if isinstance(frame, bytes | bytearray | memoryview):
        if not 0 < len(frame) <= MAX_FRAME_BYTES:
            raise InvalidInputError(
                f"frame: {len(frame)} bytes; expected a JPEG, PNG or WebP of up to "
                f"{MAX_FRAME_BYTES:,} bytes"
            )
        return np.frombuffer(frame, np.uint8).reshape(1, 1, -1)
    _check_picture(frame, "frame")
    return frame


def _check_picture(picture: Any, what: str) -> None:
    if not isinstance(picture, np.ndarray):
        raise InvalidInputError(
            f"{what}: expected a UINT8 array [H, W, 3] in BGR order, got "
            f"{type(picture).__name__}"
        )
    if (
        picture.dtype != np.uint8
        or picture.ndim != 3
        or picture.shape[2] != 3
        or picture.size == 0
    ):
        raise InvalidInputError(
            f"{what}: expected a UINT8 array [H, W, 3] in BGR order, got "
            f"{picture.dtype} {list(picture.shape)}"
        )


def _check_pictures(pictures: Pictures, what: str) -> None:
    for index, picture in enumerate(pictures):
        _check_picture(picture, f"{what} {index}")


def _boxes(boxes: Boxes) -> npt.NDArray[np.float32]:
    try:
        array = np.asarray(boxes, np.float32)
    except (TypeError, ValueError) as exc:
        raise InvalidInputError(
            f"boxes: expected numbers [N, 4] (x0, y0, x1, y1): {exc}"
        ) from exc
    if array.size == 0:
        return np.empty((0, 4), np.float32)
    if array.ndim != 2 or array.shape[1] != 4:
        raise InvalidInputError(
            f"boxes: expected [N, 4] (x0, y0, x1, y1), got {list(array.shape)}"
        )
    return array


def _box(box: npt.NDArray[np.float32]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(value) for value in box)
    return x0, y0, x1, y1


def _parts(items: Any, maximum: int) -> list[Any]:
    """`items` in order, in as few parts as `maximum` allows, of like size."""
    count = -(-len(items) // maximum)
    bounds = np.linspace(0, len(items), count + 1).round().astype(int)
    return [items[a:b] for a, b in pairwise(bounds)]


def _max_people(model: ModelDescription) -> int:
    return int(_required(model.parameters, "max_people", model))


def _crop_shape(model: ModelDescription, tensor: str) -> CropShape:
    (shape,) = (t.shape for t in model.inputs if t.name == tensor)
    edge = model.parameters.get(f"{tensor}.shorter_edge")
    return CropShape(
        shape[-3],
        shape[-2],
        _required(model.parameters, f"{tensor}.interpolation", model),
        None if edge is None else int(edge),
    )


def _required(values: Mapping[str, T], name: str, model: ModelDescription) -> T:
    if name not in values:
        raise IncompatibleServerError(
            f"the server's model has no {name}; this client needs the model "
            "repository of its own version",
            model=model.name,
        )
    return values[name]


def _stand_ins(model: ModelDescription) -> tuple[str, ...]:
    names = model.parameters.get("stand_in_weights", "")
    return tuple(names.split(",")) if names else ()


def _resized(crops: Pictures, shape: CropShape) -> Pixels:
    """BGR crops of any size as RGB [N, height, width, 3]."""
    out = np.stack([resized(crop, shape) for crop in crops])
    swap_channels(out)
    return out


def _check_inputs(model: ModelDescription, arrays: Mapping[str, Array]) -> None:
    expected = {t.name: t for t in model.inputs}
    if set(arrays) != set(expected):
        raise InvalidInputError(
            f"expected inputs {sorted(expected)}, got {sorted(arrays)}",
            model=model.name,
        )
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise InvalidInputError(
                f"{name}: expected a NumPy array, got {type(array).__name__}",
                model=model.name,
            )


def _nobody() -> People:
    return People((), np.empty(0, np.float32), np.empty((0, 0), np.float32))


def _joined(parts: Sequence[People]) -> People:
    if len(parts) == 1:
        return parts[0]
    return People(
        tuple(person for part in parts for person in part),
        np.concatenate([part.female_probabilities for part in parts]),
        np.concatenate([part.embeddings for part in parts]),
        parts[0].stand_in_weights,
    )
