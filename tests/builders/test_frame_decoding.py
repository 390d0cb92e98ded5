"""Decoding of a batch of frames by a GPU that fails on some of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from builders.benchmarks.gpu_frames import encode_jpeg
from ensembles.person_preprocess.frames import decode_frame, decode_frames
from personserve.images.encoded import Encoded
from personserve.images.formats import ImageFormatError
from tests.image_corpus import make_corpus, make_pixels

GPU_PIXELS = "pixels of the GPU"


def _image(width: int) -> Encoded:
    return Encoded.from_bytes(encode_jpeg(make_pixels(width=width)))


class _Decoder:
    """Stand-in of a GPU's decoder: fails on images of one width, and counts images.

    Its answers for the others are never the right pixels, so that a test sees whether
    they were used.
    """

    def __init__(self, fails_on_width: int = 0) -> None:
        self._fails_on_width = fails_on_width
        self.images = 0

    def decode(self, images: Sequence[Encoded]) -> list[str | None]:
        self.images += len(images)
        return [
            None if image.width_px == self._fails_on_width else GPU_PIXELS
            for image in images
        ]


def test_a_failure_on_the_gpu_does_not_change_its_neighbours() -> None:
    frames = {3: _image(40), 5: _image(50), 8: _image(60)}
    decoded = decode_frames(frames, _Decoder(fails_on_width=50).decode)
    assert not decoded.on_gpu
    assert not decoded.errors
    assert decoded.on_cpu.keys() == frames.keys()
    for number, frame in frames.items():
        assert (decoded.on_cpu[number] == decode_frame(frame)).all()


def test_a_sound_batch_is_decoded_once_and_on_the_gpu() -> None:
    decoder = _Decoder()
    decoded = decode_frames({0: _image(40), 1: _image(50)}, decoder.decode)
    assert decoded.on_gpu == {0: GPU_PIXELS, 1: GPU_PIXELS}
    assert not decoded.on_cpu
    assert decoder.images == 2


def test_what_the_cpu_refuses_fails_alone() -> None:
    whole = encode_jpeg(make_pixels(width=50))
    frames = {
        0: _image(40),
        1: Encoded.from_bytes(whole[: len(whole) // 2] + b"\xff\xd9"),
    }
    decoded = decode_frames(frames, _Decoder(fails_on_width=50).decode)
    assert decoded.on_cpu.keys() == {0}
    assert isinstance(decoded.errors[1], ImageFormatError)


@pytest.mark.parametrize("kind", ["raw", "png"])
def test_frames_that_are_not_for_the_gpu_leave_the_others_there(kind: str) -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    other: Any = pixels if kind == "raw" else Encoded.from_bytes(make_corpus()[kind])
    decoder = _Decoder()
    decoded = decode_frames({0: other, 1: _image(40)}, decoder.decode)
    assert decoded.on_gpu.keys() == {1}
    assert decoded.on_cpu.keys() == {0}
    assert decoder.images == 1
