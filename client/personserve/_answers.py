"""Verification of answers against the request and the model's description.

An answer with missing outputs, other shapes or other data types than described is an
IncompatibleServerError; one with impossible values is a ServerError.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.utils import triton_to_np_dtype

from personserve._defaults import FRAME_MODEL
from personserve._descriptions import CROPS_MODEL
from personserve._errors import ServerError
from personserve._results import EmbeddingSource, People, Role
from personserve._results.fields import fields_from_outputs
from personserve._results.roles import EMBEDDING_ROLE, GENDER_ROLE, kind_of_role
from personserve._types import Array
from personserve._wire.requests import ModelDescription, TensorDescription
from personserve.images.thumbnails import ImageReference

FloatArray = npt.NDArray[np.float32]

PROBABILITY_TOLERANCE = 1e-5
"""Rounding error for which a probability may exceed 0 or 1; it is clipped."""

REPLY_MARGIN = 2
REPLY_OVERHEAD_BYTES = 64 << 10
"""A reply may have this many times the bytes of its outputs, and this many more."""


def max_reply_bytes(model: ModelDescription, rows: int | None) -> int | None:
    """Return the largest plausible size of an answer.

    Args:
        model: Description of the model.
        rows: Number of rows of each output, or None if it is unknown.

    Returns:
        Size in bytes, or None if the description does not determine it.
    """
    total_bytes = 0
    for tensor in model.outputs:
        item_bytes = _item_bytes(tensor.data_type)
        shape = _batched_shape(model, tensor, rows)
        if item_bytes is None or min(shape, default=0) < 0:
            return None
        total_bytes += math.prod(shape) * item_bytes
    if not model.outputs:
        return None
    return REPLY_MARGIN * total_bytes + REPLY_OVERHEAD_BYTES


def read_vectors(
    model: ModelDescription, outputs: Mapping[str, Array], name: str, rows: int
) -> FloatArray:
    """Return an output of one finite vector for each row of the request.

    Args:
        model: Description of the model.
        outputs: The answer.
        name: Name of the output.
        rows: Number of rows of the request.

    Returns:
        FP32 [rows, D], with the D of the description.

    Raises:
        IncompatibleServerError: If the output is missing, or its shape or data type is
            not the described one.
        ServerError: If a value is NaN or infinite.
    """
    vectors = _read_output(model, outputs, name, rows)
    if not np.isfinite(vectors).all():
        row, column = np.argwhere(~np.isfinite(vectors))[0]
        raise _value_error(
            model, f"{name}[{row}, {column}]", "a finite number", vectors[row, column]
        )
    return vectors


def read_probabilities(
    model: ModelDescription, outputs: Mapping[str, Array], name: str, rows: int
) -> FloatArray:
    """Return an output of one probability for each row of the request.

    Args:
        model: Description of the model.
        outputs: The answer.
        name: Name of the output.
        rows: Number of rows of the request.

    Returns:
        FP32 [rows], each from 0 to 1.

    Raises:
        IncompatibleServerError: If the output is missing, or its shape or data type is
            not the described one.
        ServerError: If a value is NaN or not from 0 to 1.
    """
    values = _read_output(model, outputs, name, rows, width=1)
    return _check_probabilities(model, name, values)[:, 0]


def _read_values(
    model: ModelDescription, outputs: Mapping[str, Array], role: Role, rows: int
) -> FloatArray:
    """Return an output FP32 [rows, D], with values that are possible for its kind."""
    if role.kind == "gender":
        values = _read_output(model, outputs, role.name, rows, width=1)
    elif role.kind == "classes":
        values = _read_output(model, outputs, role.name, rows)
    else:
        return read_vectors(model, outputs, role.name, rows)
    return _check_probabilities(model, role.name, values)


def _check_probabilities(
    model: ModelDescription, name: str, values: FloatArray
) -> FloatArray:
    """Return values that are all from 0 to 1; rounding errors are clipped."""
    flat = values.ravel()
    low, high = np.minimum.reduce(flat), np.maximum.reduce(flat)
    if low >= 0.0 and high <= 1.0:  # false for NaN
        return values
    possible = (values >= -PROBABILITY_TOLERANCE) & (
        values <= 1.0 + PROBABILITY_TOLERANCE
    )
    if not possible.all():
        row, column = np.argwhere(~possible)[0]
        where = f"[{row}]" if values.shape[1] == 1 else f"[{row}, {column}]"
        expected = "a probability from 0 to 1"
        raise _value_error(model, name + where, expected, values[row, column])
    return np.clip(values, 0.0, 1.0)


def read_people(
    model: ModelDescription,
    outputs: Mapping[str, Array],
    rows: int,
    boxes: npt.NDArray[np.float32] | None,
    images: Iterable[ImageReference | None],
    abstain_below: float,
) -> People:
    """Return the people of an answer.

    Each output that the description states is read by its role.

    Args:
        model: Description of the model.
        outputs: The answer.
        rows: Number of people of the request.
        boxes: Their boxes, FP32 [rows, 4]; None for crops.
        images: The image of each person, for thumbnails.
        abstain_below: Probability below which a gender is marked as abstained.

    Returns:
        The people.

    Raises:
        IncompatibleServerError: See read_vectors and read_labels.
        ServerError: See read_vectors and read_probabilities.
    """
    roles = read_roles(model, abstain_below)
    values = {
        name: _read_values(model, outputs, role, rows) for name, role in roles.items()
    }
    all_boxes = itertools.repeat(None) if boxes is None else map(tuple, boxes.tolist())
    fields = fields_from_outputs(
        values, roles, all_boxes, images, model.stand_in_weights
    )
    return People(**fields)


def read_no_people(model: ModelDescription | None) -> People:
    """Return the people of a frame without any.

    Args:
        model: Description of the model, or None if it is unknown.

    Returns:
        No people, whose outputs are FP32 [0, D] with the D of the description. Those of
        an unknown model have embeddings [0, 0].
    """
    nothing = np.empty(0, np.float32)
    if model is None:
        return People((), nothing, nothing.reshape(0, 0))
    sizes = {each.name: max(each.shape[-1:], default=0) for each in model.outputs}
    outputs = {name: nothing.reshape(0, max(size, 0)) for name, size in sizes.items()}
    roles = read_roles(model, 0.0)
    fields = fields_from_outputs(outputs, roles, (), (), model.stand_in_weights)
    return People(**fields)


def read_roles(model: ModelDescription, abstain_below: float) -> dict[str, Role]:
    """Return the properties of the outputs that a model's description states.

    Args:
        model: Description of the model.
        abstain_below: Probability below which a gender is marked as abstained.

    Returns:
        Roles by the names of outputs, in the order of the description.

    Raises:
        IncompatibleServerError: If the model has no outputs, if the labels of a gender
            are missing (see read_labels), or if the default model lacks the gender or
            the embedding.
    """
    names = [tensor.name for tensor in model.outputs]
    if not names:
        raise model.unusable("outputs", "at least one", "none")
    if model.name in {
        FRAME_MODEL,
        CROPS_MODEL,
    }:  # code that names no model relies on both
        for name in (GENDER_ROLE, EMBEDDING_ROLE):
            if name not in names:
                raise model.lacks(name)
    roles = {}
    for tensor in model.outputs:
        name = tensor.name
        source, kind = read_source(model, name), kind_of_role(name)
        labels: Sequence[str] = ()
        threshold = 0.5
        if kind == "gender":
            labels, threshold = read_labels(model, name)
        elif kind == "classes" and (text := model.parameters.get(f"{name}.labels")):
            labels = text.split(",")
            if len(labels) != tensor.shape[-1] != -1:
                expected = f"{tensor.shape[-1]} labels"
                raise model.unusable(f"{name}.labels", expected, len(labels))
        roles[name] = Role(name, tuple(labels), threshold, abstain_below, source)
    return roles


def read_source(model: ModelDescription, output: str) -> EmbeddingSource | None:
    """Return the network and the weights that an output comes from.

    Args:
        model: Description of the ensemble or of the network.
        output: Name of the output.

    Returns:
        The source, or None if the description does not state it.
    """
    network = model.parameters.get(f"{output}.model", "")
    weights = model.parameters.get(f"{output}.weights", "")
    if "weights" in model.parameters:  # of a network itself
        network, weights = model.name, model.parameters["weights"]
    if not network or not weights:
        return None
    return EmbeddingSource(network, weights, network in model.stand_in_weights)


def read_threshold(model: ModelDescription, output: str) -> float | None:
    """Return the threshold between the two labels of a probability.

    Args:
        model: Description of the model.
        output: Name of the probability.

    Returns:
        The threshold, or None if the model has none.

    Raises:
        IncompatibleServerError: If it is not a number from 0 to 1.
    """
    if (name := f"{output}.threshold") not in model.parameters:
        return None
    text = model.parameter(name)
    try:
        threshold = float(text)
    except ValueError:
        threshold = math.nan
    if not 0.0 <= threshold <= 1.0:
        raise model.unusable(name, "a number from 0 to 1", text)
    return threshold


def read_labels(model: ModelDescription, output: str) -> tuple[list[str], float]:
    """Return the two labels of a probability, and the threshold between them.

    Args:
        model: Description of the model.
        output: Name of the probability.

    Returns:
        The label below the threshold and the one from it on, and the threshold.

    Raises:
        IncompatibleServerError: If the model has no two labels, or no threshold from 0
            to 1.
    """
    labels = model.parameter(f"{output}.labels").split(",")
    if len(labels) != 2 or not all(labels):
        raise model.unusable(f"{output}.labels", "two labels", labels)
    threshold = read_threshold(model, output)
    if threshold is None:
        raise model.lacks(f"{output}.threshold")
    return labels, threshold


def read_max_batch(model: ModelDescription) -> int:
    """Return the largest number of rows of one request to a model that batches.

    Args:
        model: Description of the model.

    Returns:
        The number, at least 1.

    Raises:
        IncompatibleServerError: If the model does not batch.
    """
    if model.max_batch_size < 1:
        raise model.unusable("max_batch_size", "at least 1", model.max_batch_size)
    return model.max_batch_size


def _read_output(
    model: ModelDescription,
    outputs: Mapping[str, Array],
    name: str,
    rows: int,
    width: int = -1,
) -> FloatArray:
    """Return an output FP32 [rows, width]; width -1 is that of the description."""
    expected = _describe_vectors(model, name, rows)
    array = outputs.get(name)
    if array is None:
        expected_text = f"FP32 {_shape_text(expected)}"
        raise model.unusable(name, expected_text, f"outputs {sorted(outputs)}")
    if width >= 0 and expected[1] != width:
        raise model.unusable(f"output {name}", f"{width} column", expected[1])
    if (
        not isinstance(array, np.ndarray)
        or array.dtype != np.float32
        or array.ndim != 2
        or array.shape[0] != rows
        or (array.shape[1] != expected[1] and expected[1] != -1)
        or array.shape[1] == 0
    ):
        value: Any = array
        dtype, shape = getattr(value, "dtype", type(value).__name__), np.shape(value)
        raise model.unusable(
            name, f"float32 {_shape_text(expected)}", f"{dtype} {list(shape)}"
        )
    return array


def _describe_vectors(model: ModelDescription, name: str, rows: int) -> tuple[int, ...]:
    """Return the described shape of an output of vectors, with the number of rows."""
    for tensor in model.outputs:
        if tensor.name == name:
            shape = _batched_shape(model, tensor, rows)
            if len(shape) != 2 or shape[0] != rows or tensor.data_type != "FP32":
                described = f"{tensor.data_type} {list(tensor.shape)}"
                raise model.unusable(f"output {name}", "FP32 [rows, D]", described)
            return shape
    raise model.lacks(name)


def _batched_shape(
    model: ModelDescription, tensor: TensorDescription, rows: int | None
) -> tuple[int, ...]:
    """Return an output's shape; a model without batches has the rows as first size."""
    first = -1 if rows is None else rows
    if model.max_batch_size > 0:
        return (first, *tensor.shape)
    if tensor.shape[:1] == (-1,):
        return (first, *tensor.shape[1:])
    return tuple(tensor.shape)


def _shape_text(shape: tuple[int, ...]) -> str:
    return f"[{', '.join('D' if size < 0 else str(size) for size in shape)}]"


def _item_bytes(data_type: str) -> int | None:
    if data_type == "BYTES":
        return None
    dtype = triton_to_np_dtype(data_type)
    return None if dtype is None else np.dtype(dtype).itemsize


def _value_error(
    model: ModelDescription, where: str, expected: str, value: object
) -> ServerError:
    return ServerError(
        f"{where}: expected {expected}, got {value}; the model's weights or its engine "
        "may be damaged",
        model=model.name,
    )
