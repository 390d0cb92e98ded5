"""Image inputs: headers, limits, refused formats, and the two wire forms of a frame."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from personserve import InvalidInputError
from personserve.images.encoded import Encoded
from personserve.images.formats import ImageFormatError
from personserve.images.inputs import (
    array_from_boxes,
    load_image,
    read_pixels,
    tensors_from_frame,
)

ENCODINGS = {
    "png": (".png", []),
    "jpeg": (".jpg", []),
    "progressive": (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    "webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 80]),
    "lossless webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),
}


def _read_size(data: bytes | memoryview) -> tuple[int, int]:
    image = Encoded.from_bytes(data)
    return image.width_px, image.height_px


def _size_or_none(data: bytes) -> tuple[int, int] | None:
    try:
        return _read_size(data)
    except ImageFormatError:
        return None


@pytest.mark.parametrize(("suffix", "options"), ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize("size_wh", [(3, 500), (640, 27)])
def test_sizes_are_read_without_decoding(
    suffix: str, options: list[int], size_wh: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size_wh[::-1], 3), dtype=np.uint8)
    data = cv2.imencode(suffix, image, options)[1].tobytes()
    assert _read_size(data) == size_wh
    assert _read_size(memoryview(data)) == size_wh
    assert read_pixels(data, "x").shape == image.shape
    for length in range(60):
        assert _size_or_none(data[:length]) in {None, size_wh}


def test_a_webp_of_several_parts(tmp_path: Path) -> None:
    path = tmp_path / "x.webp"
    Image.new("RGBA", (33, 44), (1, 2, 3, 4)).save(path, exif=b"Exif\0\0")
    assert _read_size(path.read_bytes()) == (33, 44)


def test_a_small_file_that_claims_gigabytes_is_not_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    small = cv2.imencode(".png", rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))[1]
    bomb = bytearray(small.tobytes())
    bomb[16:24] = struct.pack(">II", 60_000, 60_000)
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(
        InvalidInputError, match="60000x60000 is 3,600,000,000 pixels, over"
    ):
        read_pixels(bytes(bomb), "frame")


@pytest.mark.parametrize("data", [b"x", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF"])
def test_broken_images_are_reported(data: bytes) -> None:
    with pytest.raises(ImageFormatError, match="do not decode"):
        _read_size(data)
    with pytest.raises(InvalidInputError, match="do not decode"):
        read_pixels(data, "frame")


def _saved(image: Image.Image, format_: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


@pytest.mark.parametrize("format_", ["BMP", "GIF", "TIFF", "JPEG2000", "AVIF"])
def test_other_formats_are_refused_by_name_before_decoding(
    format_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = _saved(Image.new("RGB", (20, 30)), format_)
    monkeypatch.setattr(cv2, "imdecode", pytest.fail)
    name = "JPEG 2000" if format_ == "JPEG2000" else format_
    expected = f"frame: {name} is not accepted; convert to JPEG, PNG or WebP"
    for read in (load_image, read_pixels):
        with pytest.raises(InvalidInputError, match=expected):
            read(data, "frame")


def test_a_small_tiff_of_56_megapixels_is_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.tif"
    Image.new("RGB", (8000, 7000)).save(path, compression="tiff_adobe_deflate")
    assert path.stat().st_size < 2_000_000
    monkeypatch.setattr(cv2, "imdecode", pytest.fail)
    with pytest.raises(InvalidInputError, match="TIFF is not accepted; convert to"):
        read_pixels(path, "frame")


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\xff\x4f\xff\x51\0\0\0\0", "JPEG 2000"),
        (b"MM\0*\0\0\0\x08", "TIFF"),
        (b"II+\0\x08\0\0\0", "BigTIFF"),
        (b"%PDF-1.7", "PDF"),
    ],
)
def test_formats_are_named_by_their_signature(start: bytes, name: str) -> None:
    with pytest.raises(ImageFormatError, match=f"^{name} is not accepted"):
        _read_size(start)


def test_a_raw_image_of_one_pixel_is_not_taken_for_encoded_bytes() -> None:
    pixel = np.array([[[7, 8, 9]]], np.uint8)
    loaded = load_image(pixel, "crop")
    assert not isinstance(loaded, Encoded)
    assert read_pixels(pixel, "crop").tolist() == [[[7, 8, 9]]]
    assert tensors_from_frame(loaded)["raw_frame"].tolist() == [7, 8, 9]


def test_encoded_and_raw_frames_are_different_inputs() -> None:
    data = cv2.imencode(".png", np.zeros((5, 6, 3), np.uint8))[1].tobytes()
    encoded = load_image(data, "frame")
    assert isinstance(encoded, Encoded)
    assert (encoded.width_px, encoded.height_px, encoded.nbytes) == (6, 5, len(data))
    tensors = tensors_from_frame(encoded)
    assert list(tensors) == ["encoded_frame"]
    tensor = tensors["encoded_frame"]
    assert tensor.shape == (len(data),)
    assert tensor.tobytes() == data
    with pytest.raises(InvalidInputError, match=r"got uint8 \[\d+\]"):
        load_image(tensor, "frame")
    pixels = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3)
    raw = tensors_from_frame(pixels)
    assert list(raw) == ["raw_frame", "frame_size"]
    assert (raw["frame_size"].dtype, raw["frame_size"].tolist()) == (np.int32, [5, 6])
    assert raw["raw_frame"].tolist() == list(range(90))
    assert np.shares_memory(raw["raw_frame"], pixels), "no copy"


def test_a_list_of_one_detection_result_is_taken_and_of_several_explained() -> None:
    result = SimpleNamespace(boxes=SimpleNamespace(xyxy=np.ones((1, 4))))
    assert array_from_boxes(result).shape == (1, 4)
    assert array_from_boxes([result]).shape == (1, 4)
    with pytest.raises(InvalidInputError, match=r"list of 2 .* results\[0\]"):
        array_from_boxes([result, result])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "1", "LA"])
def test_pil_images_are_taken_in_their_own_order(mode: str) -> None:
    image = Image.new("RGB", (4, 3), (255, 0, 0)).convert(mode)
    pixels = read_pixels(image, "frame")
    assert (pixels.shape, pixels.dtype) == ((3, 4, 3), np.uint8)
    np.testing.assert_array_equal(
        pixels[..., ::-1], np.asarray(image.convert("RGB")), "BGR"
    )


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_pil_images_of_more_than_8_bits_are_refused(mode: str) -> None:
    with pytest.raises(InvalidInputError, match=f"8 bits, got mode '{mode}'; scale"):
        read_pixels(Image.new(mode, (4, 3)), "frame")


def test_the_orientation_of_a_pil_image_is_the_callers() -> None:
    """Boxes of a detector that got the same object fit its pixels."""
    file = BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(file, "JPEG", exif=exif)
    assert read_pixels(file.getvalue(), "frame").shape == (40, 30, 3)
    assert read_pixels(Image.open(file), "frame").shape == (30, 40, 3)
