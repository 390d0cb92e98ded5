# Rendered by `python -m builders render` from client/personserve/images/layout.py; edit that file.
"""Layout of an encoded image: its format, size and the bytes that a decoder needs.

A decoder written in C trusts lengths and counts in the file. The modules jpeg_layout,
png_layout and webp_layout read them first, in Python, and refuse a file whose lengths
exceed its bytes, whose structure is ambiguous, or that costs a decoder work out of
proportion to its size. What a decoder does not need (metadata, animation, bytes after
the end) is left out of the layout, so no decoder sees it.

The readers are our own rather than a package because they are a guard: they have to
read the fields that the decoder will read, from bytes in memory, for exactly the three
formats that are accepted.

These modules import the standard library only.

Source of the EXIF orientation: CIPA DC-008 (Exif 2.3), sections 4.5 and 4.6.4.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

FormatName = Literal["JPEG", "PNG", "WebP"]
Span = tuple[int, int]

UPRIGHT = 1
"""EXIF orientation of an image that is shown as it is stored."""

EXIF_PREFIX = b"Exif\0\0"

MAX_EXIF_BYTES = 64 << 10
"""Limit on the EXIF data that is searched, as large as a segment of a JPEG."""

MAX_EXIF_ENTRIES = 512
"""Limit on the entries of an EXIF directory that are searched for the orientation."""

_ORIENTATION_TAG = 0x0112
_SHORT = 3
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}


@dataclass(frozen=True)
class Layout:
    """Format, size, orientation and essential bytes of an encoded image.

    Attributes:
        format: Name of the format.
        width_px: Width in pixels, as stored.
        height_px: Height in pixels, as stored.
        orientation: EXIF orientation, 1 to 8; 1 where the file gives none.
        spans: Byte ranges (start, end) of the file that a decoder needs, in order. Of
            a PNG, those before the image data.
        prefix: Bytes before those ranges, where the file's own do not fit them.
        compressed: Byte ranges of a PNG's zlib stream; empty for other formats.
        inflated_bytes: Size of that stream after decompression.
        is_common_jpeg: Whether it is a JPEG of one sequential scan with luma and
            chroma, as cameras write; decoders in hardware take no other.
    """

    format: FormatName
    width_px: int
    height_px: int
    orientation: int
    spans: tuple[Span, ...]
    prefix: bytes = b""
    compressed: tuple[Span, ...] = ()
    inflated_bytes: int = 0
    is_common_jpeg: bool = False


def join_spans(*spans: Span) -> tuple[Span, ...]:
    """Join byte ranges that touch.

    Args:
        *spans: Byte ranges (start, end) in ascending order.

    Returns:
        The same bytes in as few ranges as possible.
    """
    joined: list[Span] = []
    for start, end in spans:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return tuple(joined)


def read_orientation(data: bytes, start: int, end: int) -> int:
    """Return the orientation that EXIF data gives.

    Args:
        data: The file.
        start: First byte of the EXIF data: a TIFF structure, with or without "Exif" and
            two zero bytes before it.
        end: End of the EXIF data.

    Returns:
        1 to 8; 1 where the data gives none or is damaged, as viewers do.
    """
    exif = data[start : min(end, start + MAX_EXIF_BYTES)]
    tiff = exif.removeprefix(EXIF_PREFIX)
    order = _BYTE_ORDERS.get(tiff[:4])
    if order is None:
        return UPRIGHT
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, directory)
        for index in range(min(count, MAX_EXIF_ENTRIES)):
            tag, kind, _, value = struct.unpack_from(
                f"{order}HHIH", tiff, directory + 2 + 12 * index
            )
            if tag == _ORIENTATION_TAG:
                return value if kind == _SHORT and 1 <= value <= 8 else UPRIGHT
    except struct.error:
        pass
    return UPRIGHT
