# Rendered by `python -m builders render` from ensembles/person_preprocess/gpu_decoding.py; edit that file.
"""JPEG decoding on a GPU by nvImageCodec, with the CPU's decoder for all that differs.

nvImageCodec runs on the JPEG engine of data-centre GPUs and on CUDA elsewhere. It gets
only what the gate of encoded images has passed, and of that only upright baseline
JPEGs: the CPU decodes the others, so that they have the same pixels on every target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nvidia import nvimgcodec

from gpu_crops import GpuFrame
from encoded import Encoded

CPU_THREADS = 1
"""Threads of nvImageCodec for each decoder; the engine does the work."""


class GpuDecoder:
    """Decodes batches of JPEGs on one GPU; one thread at a time.

    Args:
        device_id: Ordinal of the GPU.
        stream: Stream of the GPU on which the pixels are complete.
    """

    def __init__(self, device_id: int, stream: Any) -> None:
        self._stream = int(stream.handle)
        # as libjpeg-turbo does, by which the networks' accuracy is judged
        self._decoder = nvimgcodec.Decoder(
            device_id=device_id,
            max_num_cpu_threads=CPU_THREADS,
            options=":fancy_upsampling=1",
        )
        self._parameters = nvimgcodec.DecodeParams(
            apply_exif_orientation=False,
            color_spec=nvimgcodec.ColorSpec.SRGB,
            sample_format=nvimgcodec.SampleFormat.I_RGB,
        )
        self._images: list[Any] = []

    def decode(self, images: Sequence[Encoded]) -> list[GpuFrame | None]:
        """Decode JPEGs.

        Args:
            images: Images for which `frames.suits_gpu` holds.

        Returns:
            The frames, valid until the next call; None for those that the CPU should
            try.
        """
        streams = [nvimgcodec.CodeStream(image.decoder_input()) for image in images]
        decoded = self._decoder.decode(
            streams, params=self._parameters, cuda_stream=self._stream
        )
        self._images = decoded
        return [
            _frame_of(pixels, image)
            for pixels, image in zip(decoded, images, strict=True)
        ]

    def close(self) -> None:
        """Free the decoder and its last frames, while the stream still exists."""
        self._images = []
        del self._decoder


def _frame_of(pixels: Any, image: Encoded) -> GpuFrame | None:
    expected = (image.height_px, image.width_px, 3)
    if pixels is None or tuple(pixels.shape) != expected:
        return None
    interface = pixels.__cuda_array_interface__
    strides = interface.get("strides") or (image.width_px * 3, 3, 1)
    return GpuFrame(interface["data"][0], strides[0], is_bgr=False, owner=pixels)
