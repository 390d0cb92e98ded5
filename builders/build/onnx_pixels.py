"""Normalisation of pixels, put in front of an imported ONNX file.

Files of re-identification networks usually take FP32 pixels that their caller has
normalised, channels first, and do not say how. This project's models take UINT8 RGB
crops [height, width, 3] and normalise them inside. So the user states the form of the
pixels at the import, and the file is served behind the same operations that the
declared networks begin with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

from builders.spec.model import OnnxModel
from builders.tensors import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Image,
    Interpolation,
    SpecError,
    Tensor,
)

if TYPE_CHECKING:
    import onnx

RGB = tuple[float, float, float]
"""A value for each channel."""


@dataclass(frozen=True)
class PixelFormat:
    """The form of the pixels that an ONNX file takes, as its user states it.

    Attributes:
        mean: Mean of each channel in 0..255 units, in the order of `order`.
        std: Standard deviation of each channel in 0..255 units, in the same order.
        order: Channel order of the file's input.
        interpolation: Interpolation that crops are resized with.
        size_hw: Height and width, for files whose size varies; None for the others.
    """

    mean: RGB = (0.0, 0.0, 0.0)
    std: RGB = (1.0, 1.0, 1.0)
    order: Literal["RGB", "BGR"] = "RGB"
    interpolation: Interpolation = "linear"
    size_hw: tuple[int, int] | None = None


AsIs = Literal["as_is"]
Pixels = PixelFormat | AsIs | None
"""What a user states about a file's pixels: their form; that the input is served as it
is, so that clients normalise; or nothing."""

PIXEL_FORMATS: Mapping[str, tuple[PixelFormat, str]] = {
    "unit": (PixelFormat(std=(255.0,) * 3), "0..1, RGB: ultralytics"),
    "imagenet": (
        PixelFormat(IMAGENET_MEAN, IMAGENET_STD),
        "0..1, less ImageNet's mean, over its std, RGB: torchreid, boxmot",
    ),
    "bytes": (
        PixelFormat(),
        "0..255, RGB, normalised inside: FastReID's onnx_export.py",
    ),
}
"""Forms that published files have, by name, and the exporters that write them."""


def describe_pixel_formats() -> str:
    """Return the named forms with their exporters, for messages and help."""
    return "; ".join(f"{name} ({use})" for name, (_, use) in PIXEL_FORMATS.items())


def images_from_pixels(
    model: OnnxModel, pixels: Pixels, file_name: str
) -> tuple[Image, ...]:
    """Return the images whose normalisation belongs in front of a file.

    Args:
        model: Declaration of the file as it is.
        pixels: What the user states.
        file_name: Name of the file, for messages.

    Raises:
        SpecError: The file takes pixels and nothing is stated, or the statement does
            not fit the file.
    """
    tensors = [tensor for tensor in model.inputs if _channel_axis(tensor) is not None]
    if pixels == "as_is" or (pixels is None and not tensors):
        return ()
    if pixels is None:
        raise SpecError(_explain_unstated(tensors[0], file_name))
    if not tensors:
        takes = ", ".join(f"{t.name} {t.data_type} {[*t.shape]}" for t in model.inputs)
        raise SpecError(
            f"{file_name} takes {takes}; expected FP32 or FP16 pixels [3, height, "
            "width] or [height, width, 3] to normalise. Leave out the options of the "
            "pixels"
        )
    return tuple(_image(tensor, pixels, file_name) for tensor in tensors)


def _explain_unstated(tensor: Tensor, file_name: str) -> str:
    return (
        f"{file_name} takes pixels, {tensor.name} {tensor.data_type} "
        f"{[*tensor.shape]}, and does not say how they are normalised. State it with "
        f"--pixels: {describe_pixel_formats()}; or with --scale, --mean, --std and "
        "--order. With --pixels as_is the input is served as it is, and clients "
        "normalise"
    )


def _channel_axis(tensor: Tensor) -> int | None:
    """Return the axis of the channels of float pixels, and None for other tensors."""
    if tensor.data_type not in {"FP32", "FP16"} or len(tensor.shape) != 3:
        return None
    return next((axis for axis in (0, 2) if tensor.shape[axis] == 3), None)


def _image(tensor: Tensor, pixels: PixelFormat, file_name: str) -> Image:
    shape = tensor.shape[1:] if _channel_axis(tensor) == 0 else tensor.shape[:2]
    height, width = shape if pixels.size_hw is None else pixels.size_hw
    if min(height, width) < 1:
        raise SpecError(
            f"{file_name}: height and width of {tensor.name} vary, {[*tensor.shape]}; "
            "state those that the network was trained with: --size 256x128"
        )
    if any(d not in (-1, s) for d, s in zip(shape, (height, width), strict=True)):
        raise SpecError(
            f"{file_name}: {tensor.name} is {shape[0]}x{shape[1]}, got --size "
            f"{height}x{width}; leave out --size"
        )
    return Image(
        height,
        width,
        pixels.mean,
        pixels.std,
        name=tensor.name,
        order=pixels.order,
        interpolation=pixels.interpolation,
    )


def pixels_of(model: OnnxModel) -> Pixels:
    """Return the statement that an imported model was declared with.

    Args:
        model: The declaration.
    """
    if not model.wrapped_images:
        return "as_is"
    image = model.wrapped_images[0]
    size_hw = image.height, image.width
    return PixelFormat(image.mean, image.std, image.order, image.interpolation, size_hw)


def text_from_pixels(pixels: Pixels) -> str:
    """Return a statement as JSON, for another process.

    Args:
        pixels: The statement.
    """
    return json.dumps(asdict(pixels) if isinstance(pixels, PixelFormat) else pixels)


def pixels_from_text(text: str) -> Pixels:
    """Return the statement that `text_from_pixels` wrote.

    Args:
        text: JSON.
    """
    value = json.loads(text)
    if not isinstance(value, dict):
        return "as_is" if value == "as_is" else None
    lists = {key: tuple(v) for key, v in value.items() if isinstance(v, list)}
    return PixelFormat(**value | lists)


def wrap_pixels(
    proto: onnx.ModelProto, images: Sequence[Image], file_name: str
) -> onnx.ModelProto:
    """Put the normalisation of images in front of a graph.

    Args:
        proto: The file; it is changed in place.
        images: Images, named like inputs of the graph.
        file_name: Name of the file, for messages.

    Returns:
        The same graph with inputs UINT8 [N, height, width, 3] of the same names.

    Raises:
        SpecError: The graph has names that the new nodes need.
    """
    for image in images:
        _wrap_input(proto, image, file_name)
    # older versions list every constant among the inputs
    proto.ir_version = max(proto.ir_version, 4)
    return proto


def _wrap_input(proto: onnx.ModelProto, image: Image, file_name: str) -> None:
    from onnx import TensorProto, numpy_helper

    from builders.ops.onnx import OnnxOps

    graph = proto.graph
    (value,) = (v for v in graph.input if v.name == image.name)
    kind = value.type.tensor_type
    ops = OnnxOps({})
    x = ops.image(image)
    if kind.shape.dim[1].dim_value != 3:
        x = ops.add_node("Transpose", [x], f"{image.name}.to_nhwc", perm=[0, 2, 3, 1])
    if kind.elem_type != TensorProto.FLOAT:
        name = f"{image.name}.to_file"
        x = ops.add_node("Cast", [x], name, to=kind.elem_type)
    names = {name for node in graph.node for name in node.output}
    names |= {tensor.name for tensor in graph.initializer}
    clash = names & {*ops.initializers, *(n for node in ops.nodes for n in node.output)}
    if clash:
        raise SpecError(
            f"{file_name} has tensors {sorted(clash)}, which are the names of the "
            "normalisation in front of it; export it with other names"
        )
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == image.name:
                node.input[index] = x
    nodes = [*ops.nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in ops.initializers.items()
    )
    kind.elem_type = TensorProto.UINT8
    for dimension, size in zip(
        kind.shape.dim[1:], (image.height, image.width, 3), strict=True
    ):
        dimension.Clear()
        dimension.dim_value = size


def declare_wrapped(model: OnnxModel, images: Sequence[Image]) -> OnnxModel:
    """Return the declaration of a file behind the normalisation of its images.

    Args:
        model: Declaration of the file as it is.
        images: Images, named like its inputs.
    """
    tensors = {image.name: image.tensor for image in images}
    inputs = tuple(tensors.get(tensor.name, tensor) for tensor in model.inputs)
    return replace(model, inputs=inputs, wrapped_images=tuple(images))
