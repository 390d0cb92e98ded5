"""How large an encoded picture says it is, before anything is decoded: a few bytes may
claim gigabytes.

Sources: PNG specification 11.2.2; JPEG, ITU-T T.81 B.2.2; WebP container and RFC 9649.
"""

from __future__ import annotations

import struct

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8"

FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Start-of-frame segments, which hold the size."""


def encoded_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """(width, height) of a PNG, JPEG or WebP; None for others and broken ones."""
    try:
        if data[: len(PNG)] == PNG:
            width, height = struct.unpack_from(">II", data, 16)
            return width, height
        if data[: len(JPEG)] == JPEG:
            return _jpeg_size(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_size(data)
    except (struct.error, IndexError):
        pass
    return None


def _jpeg_size(data: bytes | memoryview) -> tuple[int, int] | None:
    at = len(JPEG)
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        if marker in FRAME_MARKERS:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        (length,) = struct.unpack_from(">H", data, at + 2)
        at += 2 + length
    return None


def _webp_size(data: bytes | memoryview) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        sizes = (data[24:27], data[27:30])
        width, height = (1 + int.from_bytes(size, "little") for size in sizes)
        return width, height
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None
