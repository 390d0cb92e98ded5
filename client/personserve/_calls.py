"""Every call of the client as a generator that does no I/O.

A call yields requests and is sent their replies; its return value is the result. The
sync client carries them out with plain calls, the async one with `await`; neither knows
what a call does, so there is one implementation of everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, TypeVar
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from personserve._crops import (
    BoxError,
    CropShape,
    Pixels,
    cut,
    pixel_boxes,
    resized,
    swap_channels,
)
from personserve._delivery import Call
from personserve._errors import IncompatibleServerError, InvalidInputError
from personserve._pictures import (
    Boxes,
    Picture,
    Pictures,
    all_pixels,
    as_boxes,
    as_sent,
    decoded,
    is_encoded,
)
from personserve._requests import (
    Array,
    DescribeModel,
    DeviceArray,
    Infer,
    ListModels,
    ModelDescription,
    ModelState,
    OnGpu,
)
from personserve._results import (
    Class,
    Classification,
    Gender,
    Kinship,
    People,
    Person,
)

T = TypeVar("T")

Cut = Literal["server", "client", "auto"]
"""Where people are cut out of a frame."""

FRAME_MODEL = "person_attributes"
CROPS_MODEL = "person_attributes_crops"
FACE_MODEL = "kinship_embedding"
PAIR_MODEL = "kinship_pair"
CLASSIFIER = "se_resnet50"


@dataclass
class Calls:
    """The calls of one client, and what it has learnt about the server's models.

    `abstain_below` is the probability under which a gender is not decided;
    `shares_memory` says that frames do not go over a wire.
    """

    abstain_below: float = 0.0
    shares_memory: bool = False
    _known: dict[str, ModelDescription] = field(default_factory=dict)

    def attributes(self, frame: Picture, boxes: Boxes, crops: Cut) -> Call[People]:
        """See Client.attributes."""
        if crops not in {"server", "client", "auto"}:
            raise InvalidInputError(f"crops={crops!r}: expected server, client or auto")
        wanted = as_boxes(boxes)
        sent = as_sent(frame, "frame")
        if len(wanted) == 0:
            return _nobody()
        if crops == "auto":
            crops = yield from self._cheaper(sent, len(wanted))
        if crops == "client":
            return (yield from self._cut_here(sent, wanted))
        return (yield from self._cut_there(sent, wanted))

    def attributes_of_crops(self, crops: Pictures) -> Call[People]:
        """See Client.attributes_of_crops."""
        pictures = all_pixels(crops, "crop")
        if not pictures:
            return _nobody()
        model = yield from self.describe(CROPS_MODEL)
        people = []
        for part in _parts(pictures, _max_people(model)):
            inputs = {
                tensor.name: _resized(part, _crop_shape(model, tensor.name))
                for tensor in model.inputs
            }
            people.append((yield from self._people(model, inputs, None)))
        return _joined(people)

    def kinship_matrix(self, faces_a: Pictures, faces_b: Pictures) -> Call[Kinship]:
        """See Client.kinship_matrix."""
        trunk = yield from self.describe(FACE_MODEL)
        pair = yield from self.describe(PAIR_MODEL)
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

    def classify(
        self, pictures: Pictures, count: int, labels: Sequence[str] | None
    ) -> Call[list[Classification]]:
        """See Client.classify."""
        pixels = all_pixels(pictures, "picture")
        if not pixels:
            return []
        model = yield from self.describe(CLASSIFIER)
        (tensor,) = model.inputs
        shape = _crop_shape(model, tensor.name)
        found = []
        for part in _parts(pixels, model.max_batch_size):
            reply = yield Infer(
                model.name, {tensor.name: _resized(part, shape)}, uuid4().hex
            )
            logits = _required(reply, "logits", model)
            found += [_classified(row, count, labels, model) for row in logits]
        return found

    def infer(
        self, model: str, arrays: Mapping[str, Array | OnGpu]
    ) -> Call[dict[str, Array]]:
        """See Client.infer."""
        known = yield from self.describe(model)
        inputs = _checked_inputs(known, arrays)
        reply: dict[str, Array] = yield Infer(
            model, inputs, uuid4().hex, repeatable=not known.stateful
        )
        return reply

    def describe(self, model: str) -> Call[ModelDescription]:
        """See Client.describe."""
        if model not in self._known:
            self._known[model] = yield DescribeModel(model)
        return self._known[model]

    def models(self) -> Call[tuple[ModelState, ...]]:
        """See Client.models."""
        found: tuple[ModelState, ...] = yield ListModels()
        return tuple(sorted(found, key=lambda model: model.name))

    def _cheaper(self, sent: Pixels, people: int) -> Call[Cut]:
        """Where cutting costs less: over a wire, whichever way sends fewer bytes; in
        shared memory the server, because it cuts several at a time (client/README.md
        has the measurement).
        """
        if self.shares_memory:
            return "server"
        model = yield from self.describe(CROPS_MODEL)
        crop_bytes = sum(int(np.prod(tensor.shape)) for tensor in model.inputs)
        return "client" if people * crop_bytes < sent.nbytes else "server"

    def _cut_there(self, sent: Pixels, wanted: npt.NDArray[np.float32]) -> Call[People]:
        model = yield from self.describe(FRAME_MODEL)
        people: list[People] = []
        for part in _parts(wanted, _max_people(model)):
            inputs = {"frame": sent, "boxes": part}
            try:
                people.append((yield from self._people(model, inputs, part)))
            except InvalidInputError as exc:
                first = sum(len(answered) for answered in people)
                if first:  # the server counts boxes from the part's first
                    raise InvalidInputError(f"after box {first - 1}: {exc}") from exc
                raise
        return _joined(people)

    def _cut_here(self, sent: Pixels, wanted: npt.NDArray[np.float32]) -> Call[People]:
        model = yield from self.describe(CROPS_MODEL)
        pixels = decoded(sent, "frame") if is_encoded(sent) else sent
        try:
            whole = pixel_boxes(wanted, *pixels.shape[:2])
        except BoxError as exc:
            raise InvalidInputError(str(exc), model=CROPS_MODEL) from exc
        names = [tensor.name for tensor in model.inputs]
        shapes = [_crop_shape(model, name) for name in names]
        people = []
        maximum = _max_people(model)
        for part, boxes in zip(
            _parts(whole, maximum), _parts(wanted, maximum), strict=True
        ):
            crops = cut(pixels, part, shapes, order="BGR")
            inputs = dict(zip(names, crops, strict=True))
            people.append((yield from self._people(model, inputs, boxes)))
        return _joined(people)

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
                self._gender(float(probability), labels, threshold),
                embedding,
                None if boxes is None else _box(boxes[index]),
            )
            for index, (probability, embedding) in enumerate(
                zip(probabilities, embeddings, strict=True)
            )
        )
        return People(persons, probabilities, embeddings, _stand_ins(model))

    def _gender(
        self, probability: float, labels: Sequence[str], threshold: float
    ) -> Gender:
        decided = max(probability, 1.0 - probability) >= self.abstain_below
        return Gender(
            probability, labels[int(probability >= threshold)], abstained=not decided
        )

    def _face_embeddings(
        self, model: ModelDescription, faces: Pictures
    ) -> Call[npt.NDArray[np.float32]]:
        pixels = all_pixels(faces, "face")
        if not pixels:
            return np.empty((0, 0), np.float32)
        parts = []
        for part in _parts(pixels, model.max_batch_size):
            crops = _resized(part, _crop_shape(model, "face"))
            reply = yield Infer(model.name, {"face": crops}, uuid4().hex)
            parts.append(_required(reply, "embedding", model))
        return np.concatenate(parts)


def _classified(
    logits: npt.NDArray[np.float32],
    count: int,
    labels: Sequence[str] | None,
    model: ModelDescription,
) -> Classification:
    if labels is not None and len(labels) != len(logits):
        raise InvalidInputError(
            f"{len(labels)} labels; {model.name} has {len(logits)} classes"
        )
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    order = np.argsort(-shares, kind="stable")[:count]
    classes = (
        Class(int(i), float(shares[i]), None if labels is None else labels[i])
        for i in order
    )
    return Classification(tuple(classes), _stand_ins(model))


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


def _resized(crops: Sequence[Pixels], shape: CropShape) -> Pixels:
    """BGR crops of any size as RGB [N, height, width, 3]."""
    out = np.stack([resized(crop, shape) for crop in crops])
    swap_channels(out)
    return out


def _checked_inputs(
    model: ModelDescription, arrays: Mapping[str, Array | OnGpu]
) -> dict[str, Array | DeviceArray]:
    expected = {t.name: t for t in model.inputs}
    if set(arrays) != set(expected):
        raise InvalidInputError(
            f"expected inputs {sorted(expected)}, got {sorted(arrays)}",
            model=model.name,
        )
    return {name: _checked_input(model, name, arrays[name]) for name in arrays}


def _checked_input(
    model: ModelDescription, name: str, value: Any
) -> Array | DeviceArray:
    if isinstance(value, np.ndarray):
        return value
    try:
        on_gpu = DeviceArray.of(value)
    except (ValueError, TypeError, AttributeError) as exc:  # torch's, on the CPU
        raise InvalidInputError(f"{name}: {exc}", model=model.name) from exc
    if on_gpu is None:
        raise InvalidInputError(
            f"{name}: expected a NumPy array, got {type(value).__name__}",
            model=model.name,
        )
    return on_gpu


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
