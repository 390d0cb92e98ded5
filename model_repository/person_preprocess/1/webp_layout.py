# Rendered by `python -m builders render` from client/personserve/images/webp_layout.py; edit that file.
"""Layout of a WebP file.

The layout is that of a simple file: one lossy (VP8) or lossless (VP8L) image, without
the separate transparency, animation, colour profile and metadata of the extended form.

Sources: RFC 9649 (container and VP8L), RFC 6386 section 9.1 (VP8).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from formats import ACCEPTED_FORMATS, ImageFormatError
from layout import UPRIGHT, Layout, read_orientation

RIFF_HEADER_BYTES = 12

MAX_CHUNKS = 1000
"""Limit on the chunks. A file that is not animated has up to seven known ones."""

_ANIMATION_FLAG = 0x02
_ANIMATION_CHUNKS = frozenset((b"ANIM", b"ANMF"))
_IMAGE_CHUNKS = frozenset((b"VP8 ", b"VP8L"))
_VP8_START_CODE = b"\x9d\x01\x2a"
_VP8L_SIGNATURE = 0x2F


class _Chunk(NamedTuple):
    kind: bytes
    start: int
    body: int
    end: int


def is_webp(data: bytes) -> bool:
    """Return whether bytes have the signature of a WebP file.

    Args:
        data: The file, or its first 12 bytes.
    """
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def read_webp_layout(data: bytes) -> Layout:
    """Read the layout of a WebP.

    Args:
        data: The file, for which is_webp is true.

    Returns:
        The layout of its one image.

    Raises:
        ImageFormatError: A length over the file's end, an animation, no image or more
            than one, or a canvas of another size than the image.
        IndexError: The file is cut short.
        struct.error: The same.
    """
    canvas: tuple[int, int] | None = None
    image: _Chunk | None = None
    orientation: int | None = None
    for chunk in _read_chunks(data):
        if chunk.kind == b"VP8X":
            canvas = _read_canvas(data, chunk)
        elif chunk.kind in _ANIMATION_CHUNKS:
            raise _refused_animation()
        elif chunk.kind in _IMAGE_CHUNKS:
            if image is not None:
                raise ImageFormatError("WebP: it has two images")
            image = chunk
        elif chunk.kind == b"EXIF" and orientation is None:
            orientation = read_orientation(data, chunk.body, chunk.end)
    if image is None:
        raise ImageFormatError("WebP: it has no image")
    size_wh = _read_size(data, image)
    if canvas not in {None, size_wh}:
        raise ImageFormatError(
            f"WebP: its canvas is {canvas}, its image {size_wh} pixels wide and high"
        )
    end = min(image.end + (image.end - image.body) % 2, len(data))
    riff_bytes = len(b"WEBP") + end - image.start
    prefix = struct.pack("<4sI4s", b"RIFF", riff_bytes, b"WEBP")
    return Layout(
        "WebP", *size_wh, orientation or UPRIGHT, ((image.start, end),), prefix
    )


def _read_chunks(data: bytes) -> Iterator[_Chunk]:
    """Yield the chunks, each with an honest length."""
    (riff_bytes,) = struct.unpack_from("<I", data, 4)
    file_end = 8 + riff_bytes
    if file_end > len(data):
        raise ImageFormatError.for_damage(
            data, f"WebP: it claims {file_end:,} bytes and has {len(data):,}"
        )
    offset = RIFF_HEADER_BYTES
    for _ in range(MAX_CHUNKS):
        if offset >= file_end:
            return
        kind, length = struct.unpack_from("<4sI", data, offset)
        body = offset + 8
        end = body + length
        if end > file_end:
            raise ImageFormatError.for_damage(
                data,
                f"WebP: the chunk at byte {offset:,} claims {length:,} bytes; "
                f"{max(file_end - body, 0):,} are left",
            )
        yield _Chunk(kind, offset, body, end)
        offset = end + length % 2
    raise ImageFormatError(f"WebP of more than {MAX_CHUNKS:,} chunks is not accepted")


def _read_canvas(data: bytes, chunk: _Chunk) -> tuple[int, int]:
    if chunk.end - chunk.body < 10:
        raise ImageFormatError("WebP: its header (VP8X) is shorter than 10 bytes")
    if data[chunk.body] & _ANIMATION_FLAG:
        raise _refused_animation()
    width, height = (
        1 + int.from_bytes(data[start : start + 3], "little")
        for start in (chunk.body + 4, chunk.body + 7)
    )
    return width, height


def _read_size(data: bytes, image: _Chunk) -> tuple[int, int]:
    if image.kind == b"VP8L":
        signature, bits = struct.unpack_from("<BI", data, image.body)
        is_valid = signature == _VP8L_SIGNATURE and bits >> 29 == 0
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        tag, start_code, width, height = struct.unpack_from(
            "<B2x3sHH", data, image.body
        )
        is_valid = tag & 1 == 0 and start_code == _VP8_START_CODE  # a key frame
        width, height = width & 0x3FFF, height & 0x3FFF
    if not is_valid:
        raise ImageFormatError("WebP: its image is damaged at the beginning")
    return width, height


def _refused_animation() -> ImageFormatError:
    return ImageFormatError(
        f"animated WebP is not accepted; convert an image of it to {ACCEPTED_FORMATS}"
    )
