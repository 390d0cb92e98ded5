"""Tensors, images, vectors and outputs of a declaration.

Shapes never include the batch dimension; -1 is a dimension of variable size.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from builders.errors import BuildersError
from personserve.images.crops import CropShape

IMAGENET_MEAN = (123.675, 116.28, 103.53)
"""Mean of ImageNet's pixels, RGB in 0..255 units, as in IBN-Net and FastReID."""

IMAGENET_STD = (58.395, 57.12, 57.375)
"""Standard deviation of ImageNet's pixels, RGB in 0..255 units."""

DataType = Literal["BOOL", "UINT8", "INT8", "INT32", "INT64", "FP16", "FP32", "FP64"]
"""Triton's names of the supported element types."""

ITEM_BYTES: Mapping[DataType, int] = {
    "BOOL": 1,
    "UINT8": 1,
    "INT8": 1,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "FP32": 4,
    "FP64": 8,
}
"""Size of one element in bytes."""

Interpolation = Literal["linear", "cubic", "linear_antialias", "cubic_antialias"]
"""Interpolation for resizing, as in personserve.images.crops: OpenCV's INTER_LINEAR or
INTER_CUBIC, or Pillow's BILINEAR or BICUBIC, which average where an image shrinks."""


class SpecError(BuildersError, ValueError):
    """A declaration that cannot work."""


def require(condition: bool, message: str) -> None:
    """Raise SpecError unless a condition holds.

    Args:
        condition: What a valid declaration satisfies.
        message: What was expected, what came and what to do.

    Raises:
        SpecError: If the condition is false.
    """
    if not condition:
        raise SpecError(message)


MAX_NAME = 100
"""Longest name: file systems allow 255 bytes, and names get endings."""


def require_name(name: str, what: str) -> None:
    """Raise SpecError unless a name has lower-case letters, digits and underscores.

    Args:
        name: The name.
        what: What the name belongs to, for the error message.

    Raises:
        SpecError: If the name has other characters, does not start with a letter, is
            longer than MAX_NAME, or is a keyword of Python.
    """
    require(
        re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None
        and len(name) <= MAX_NAME
        and not keyword.iskeyword(name),
        f"{what} name {name[:MAX_NAME]!r}: expected lower-case letters, digits and "
        f"underscores, starting with a letter, at most {MAX_NAME} and no keyword of "
        "Python, because it becomes a folder and a Python argument",
    )


@dataclass(frozen=True)
class Tensor:
    """A named tensor on the wire.

    Attributes:
        name: Name of the tensor.
        data_type: Type of its elements.
        shape: Shape without the batch dimension; -1 is a dimension of variable size.
        optional: Whether a request may leave the tensor out.
    """

    name: str
    data_type: DataType
    shape: tuple[int, ...]
    optional: bool = False

    def __post_init__(self) -> None:
        require(
            re.fullmatch(r"[A-Za-z_][\w.:/-]*", self.name) is not None,
            f"tensor name {self.name!r}: expected a letter first, then letters, "
            "digits and _ . : / -",
        )
        require(
            len(self.shape) > 0 and all(d > 0 or d == -1 for d in self.shape),
            f"tensor {self.name}: shape {self.shape} has a dimension that is neither "
            "positive nor -1 (variable)",
        )


@dataclass(frozen=True)
class Image:
    """An image input, UINT8 [N, height, width, 3] RGB on the wire.

    The network normalises the pixels as its first operation. The client and the
    preprocessing model resize images as stated here (personserve's CropShape).

    Attributes:
        height: Height in pixels.
        width: Width in pixels.
        mean: Mean of each channel in 0..255 units, in the order of `order`.
        std: Standard deviation of each channel in 0..255 units, in the same order.
        name: Name of the input tensor.
        order: Channel order of the network, which swaps the channels if it is BGR.
        interpolation: Interpolation that the model was evaluated with.
        shorter_edge: If given, images are resized so that their shorter edge has this
            many pixels, then the centre is cut out; otherwise the whole image is
            resized to (height, width).
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    name: str = "crops"
    order: Literal["RGB", "BGR"] = "RGB"
    interpolation: Interpolation = "linear"
    shorter_edge: int | None = None

    def __post_init__(self) -> None:
        require(
            self.shorter_edge is None
            or self.shorter_edge >= max(self.height, self.width),
            f"image {self.name}: shorter_edge {self.shorter_edge} is less than the "
            f"crop of {self.height}x{self.width}",
        )
        require(
            0 < self.height <= 4096 and 0 < self.width <= 4096,
            f"image {self.name}: {self.height}x{self.width} pixels; expected "
            "(height, width) within 1..4096",
        )
        require(
            all(value > 0 for value in self.std),
            f"image {self.name}: std {self.std} must be positive, in 0..255 units",
        )
        require(
            max(self.mean) <= 0 or max(self.mean) > 1,
            f"image {self.name}: mean {self.mean} looks like 0..1 units; multiply "
            "mean and std by 255",
        )

    @property
    def tensor(self) -> Tensor:
        """The input tensor on the wire."""
        return Tensor(self.name, "UINT8", (self.height, self.width, 3))

    @property
    def crop_shape(self) -> CropShape:
        """The resizing of images for this input."""
        return CropShape(self.height, self.width, self.interpolation, self.shorter_edge)


@dataclass(frozen=True)
class Vector:
    """An input of FP32 vectors [N, size], such as another network's embeddings.

    Attributes:
        name: Name of the input tensor.
        size: Number of values in a vector.
    """

    name: str
    size: int

    def __post_init__(self) -> None:
        require_name(self.name, "vector")

    @property
    def tensor(self) -> Tensor:
        """The input tensor on the wire."""
        return Tensor(self.name, "FP32", (self.size,))


@dataclass(frozen=True)
class Output:
    """An FP32 output [N, size] of a network.

    Attributes:
        name: Name of the output tensor.
        size: Number of values for each row.
        labels: For a probability, the label below the threshold and the label at or
            above it; None for other outputs.
        threshold: Threshold of a probability.
    """

    name: str
    size: int
    labels: tuple[str, str] | None = None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        require(
            self.labels is None or self.size == 1,
            f"output {self.name}: two labels describe one probability, not "
            f"{self.size} values; drop labels or set size=1",
        )
        require(
            0 < self.threshold < 1,
            f"output {self.name}: threshold {self.threshold} is not inside (0, 1)",
        )

    @property
    def tensor(self) -> Tensor:
        """The output tensor on the wire."""
        return Tensor(self.name, "FP32", (self.size,))


def sample_tensor(
    tensor: Tensor, count: int, rng: np.random.Generator
) -> npt.NDArray[Any]:
    """Draw values for a tensor from its type and shape alone.

    Args:
        tensor: The tensor.
        count: Number of rows.
        rng: Source of random values.

    Returns:
        [count, ...]; dimensions that vary are 1. Floats are normal; integers are 0 or
        1, which are valid as indices and flags.
    """
    shape = (count, *(max(dimension, 1) for dimension in tensor.shape))
    if tensor.data_type.startswith("FP"):
        return rng.normal(size=shape).astype(f"float{tensor.data_type[2:]}")
    kind = {"BOOL": "bool"}.get(tensor.data_type, tensor.data_type.lower())
    return rng.integers(0, 2, shape).astype(kind)
