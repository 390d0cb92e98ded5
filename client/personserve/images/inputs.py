"""Conversion of caller inputs to pixels, encoded images and boxes.

A caller's image is an array, a path, bytes or a PIL image. Inside the client it is one
of two types: `Encoded` (a JPEG, PNG or WebP, not decoded) or `Pixels` (raw BGR), never
an array whose shape has to be interpreted.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from personserve._errors import InvalidInputError
from personserve.images.crops import Pixels
from personserve.images.decoding import decode
from personserve.images.detections import boxes_from_result, to_host
from personserve.images.encoded import Encoded
from personserve.images.formats import MAX_IMAGE_BYTES, Buffer, ImageFormatError


class PilImage(Protocol):
    """The part of PIL.Image.Image that is used; Pillow itself is not imported."""

    def convert(self, mode: str, /) -> Any:
        """Return a copy in another mode, for example "RGB"."""

    def getbands(self) -> tuple[str, ...]:
        """Return the names of the channels."""


class HasXyxy(Protocol):
    """A detector's result with boxes [N, 4], such as supervision's Detections."""

    @property
    def xyxy(self) -> Any:
        """Boxes [N, 4] as (x0, y0, x1, y1) in pixels."""


class HasBoxes(Protocol):
    """A detector's result whose `boxes` have `xyxy`, such as ultralytics' Results."""

    @property
    def boxes(self) -> Any:
        """An object with `xyxy`."""


class HasArray(Protocol):
    """An array-like object: a NumPy array, or a torch tensor."""

    def __array__(self) -> npt.NDArray[Any]: ...


NumericArray = npt.NDArray[np.integer[Any] | np.floating[Any]]
"""The type that OpenCV's stubs give every image. Types other than UINT8 are refused
when the image is used, not by the type checker."""

WIDE_PIL_MODES = frozenset({"I", "F"})
"""PIL's modes of 32 bits; those of 16 bits have a semicolon, such as "I;16"."""

ImageInput = str | PathLike[str] | Buffer | NumericArray | PilImage
"""An image: UINT8 array [H, W, 3] in BGR order (as OpenCV reads; arrays of scikit-image
and of PIL images are in RGB order), a JPEG, PNG or WebP as a path or as bytes, or a PIL
image (converted from RGB; its EXIF orientation is not applied, so that boxes of a
detector that got the same image fit)."""

ImageInputs = Sequence[ImageInput] | NumericArray
"""Several images: a sequence of ImageInput, or one UINT8 array [N, H, W, 3]."""

Boxes = (
    Sequence[Sequence[float]]
    | Sequence[HasArray]
    | Sequence[HasXyxy]
    | Sequence[HasBoxes]
    | HasArray
    | HasXyxy
    | HasBoxes
)
"""Numbers [N, 4], (x0, y0, x1, y1) in pixels, or one result of a detector, which may be
in a list. A result that knows its classes must have persons only."""


def load_image(image: ImageInput, what: str) -> Encoded | Pixels:
    """Return an image as checked encoded bytes or as raw pixels, whichever it is.

    Args:
        image: See ImageInput. Paths are read; nothing is decoded.
        what: Name of the image in error messages, for example "frame".

    Returns:
        Encoded for a path or bytes, UINT8 [H, W, 3] in BGR order otherwise.

    Raises:
        InvalidInputError: Another type, shape, dtype or image format, a file that
            cannot be read, or an image over the limits.
    """
    if isinstance(image, str | PathLike):
        image = _read_file(Path(image), what)
    if isinstance(image, bytes | bytearray | memoryview):
        try:
            return Encoded.from_bytes(image)
        except ImageFormatError as exc:
            raise InvalidInputError(f"{what}: {exc}") from exc
    return _check_pixels(image, what)


def decode_image(image: Encoded, what: str) -> Pixels:
    """Decode an encoded image, rotated as its EXIF orientation says.

    Args:
        image: The encoded image.
        what: Name of the image in error messages.

    Returns:
        UINT8 [H, W, 3] in BGR order.

    Raises:
        InvalidInputError: The bytes are damaged, or there is no memory for the image.
    """
    try:
        return decode(image)
    except ImageFormatError as exc:
        raise InvalidInputError(f"{what}: {exc}") from exc


def read_pixels(image: ImageInput, what: str) -> Pixels:
    """Load an image and decode it where it is encoded.

    Args:
        image: See ImageInput.
        what: Name of the image in error messages.

    Returns:
        UINT8 [H, W, 3] in BGR order.

    Raises:
        InvalidInputError: As load_image and decode_image.
    """
    loaded = load_image(image, what)
    return decode_image(loaded, what) if isinstance(loaded, Encoded) else loaded


def read_all_pixels(images: ImageInputs, what: str) -> list[Pixels]:
    """Load and decode several images.

    Args:
        images: See ImageInputs.
        what: Name of one image in error messages; its index is appended.

    Returns:
        UINT8 [H, W, 3] in BGR order for each image; sizes may differ.

    Raises:
        InvalidInputError: As read_pixels.
    """
    return [read_pixels(image, f"{what} {i}") for i, image in enumerate(images)]


def tensors_from_frame(frame: Encoded | Pixels) -> dict[str, npt.NDArray[Any]]:
    """Return a frame as the inputs of the server's models for frames.

    Args:
        frame: What load_image returned.

    Returns:
        `encoded_frame` UINT8 [bytes], or `raw_frame` UINT8 [H * W * 3] and `frame_size`
        INT32 [2]. Contiguous pixels are not copied.
    """
    if isinstance(frame, Encoded):
        return {"encoded_frame": np.frombuffer(frame.data, np.uint8)}
    size = np.array(frame.shape[:2], np.int32)
    return {"raw_frame": frame.reshape(-1), "frame_size": size}


def array_from_boxes(boxes: Boxes) -> npt.NDArray[np.float32]:
    """Convert boxes or a detector's result to an array.

    Args:
        boxes: See Boxes. Tensors on a GPU are copied to the CPU.

    Returns:
        FP32 [N, 4], (x0, y0, x1, y1) in pixels; [0, 4] for no boxes.

    Raises:
        InvalidInputError: Not numbers, another shape, a list of several results, or a
            result with boxes of other classes than persons.
    """
    values = to_host(boxes_from_result(boxes))
    try:
        array = np.asarray(values, np.float32)
    except (TypeError, ValueError) as exc:
        raise InvalidInputError(
            f"boxes: expected numbers [N, 4] (x0, y0, x1, y1), or a detector's result "
            f"with xyxy: {exc}"
        ) from exc
    if array.size == 0:
        return np.empty((0, 4), np.float32)
    if array.ndim != 2 or array.shape[1] != 4:
        raise InvalidInputError(
            f"boxes: expected [N, 4] (x0, y0, x1, y1), got {list(array.shape)}"
        )
    return array


def _read_file(path: Path, what: str) -> bytes:
    try:
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise InvalidInputError(f"{what}: {path} is over {MAX_IMAGE_BYTES:,} bytes")
        return path.read_bytes()
    except OSError as exc:
        raise InvalidInputError(f"{what}: cannot read {path}: {exc}") from exc


def _check_pixels(image: Any, what: str) -> Pixels:
    if hasattr(image, "convert") and hasattr(image, "getbands"):
        image = _pixels_from_pil(image, what)
    if not isinstance(image, np.ndarray):
        raise InvalidInputError(
            f"{what}: expected a UINT8 array [H, W, 3] in BGR order, encoded bytes, a "
            f"path or a PIL image, got {type(image).__name__}"
        )
    if (
        image.dtype != np.uint8
        or image.ndim != 3
        or image.shape[2] != 3
        or image.size == 0
    ):
        raise InvalidInputError(
            f"{what}: expected a UINT8 array [H, W, 3] in BGR order, got "
            f"{image.dtype} {list(image.shape)}"
        )
    return image


def _pixels_from_pil(image: Any, what: str) -> Pixels:
    """Return a PIL image in BGR order; Pillow would clip more than 8 bits silently."""
    if (mode := getattr(image, "mode", "RGB")) in WIDE_PIL_MODES or ";" in mode:
        raise InvalidInputError(
            f"{what}: expected a PIL image of 8 bits, got mode {mode!r}; scale its "
            "values to 0 to 255 and convert it to RGB"
        )
    return np.ascontiguousarray(np.asarray(image.convert("RGB"), np.uint8)[..., ::-1])
