"""Encoded pictures: what they claim is believed only as far as the limit."""

from __future__ import annotations

import struct
import time

import cv2
import numpy as np
import pytest
from PIL import Image

from personserve import InvalidInputError
from personserve._picture_size import encoded_size
from personserve._pictures import as_pixels

WAYS = {
    "png": (".png", []),
    "jpeg": (".jpg", []),
    "progressive": (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    "webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 80]),
    "lossless webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),
}


@pytest.mark.parametrize(("suffix", "how"), WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("size_wh", [(3, 500), (640, 27)])
def test_sizes_are_read_without_decoding(
    suffix: str, how: list[int], size_wh: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (*size_wh[::-1], 3), dtype=np.uint8)
    data = cv2.imencode(suffix, picture, how)[1].tobytes()
    assert encoded_size(data) == size_wh
    assert as_pixels(data, "x").shape == picture.shape
    for length in range(60):
        assert encoded_size(data[:length]) in {None, size_wh}


def test_a_webp_of_several_parts(tmp_path) -> None:
    path = tmp_path / "x.webp"
    Image.new("RGBA", (33, 44), (1, 2, 3, 4)).save(path, exif=b"Exif\0\0")
    assert encoded_size(path.read_bytes()) == (33, 44)


def test_a_small_file_that_claims_gigabytes_is_not_decoded() -> None:
    rng = np.random.default_rng(0)
    small = cv2.imencode(".png", rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))[1]
    bomb = bytearray(small.tobytes())
    bomb[16:24] = struct.pack(">II", 60_000, 60_000)
    began = time.monotonic()
    with pytest.raises(InvalidInputError, match="60000x60000 is over the limit"):
        as_pixels(bytes(bomb), "frame")
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("data", [b"x", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF"])
def test_broken_pictures_are_said_so(data: bytes) -> None:
    assert encoded_size(data) is None
    with pytest.raises(InvalidInputError, match="do not decode"):
        as_pixels(data, "frame")
