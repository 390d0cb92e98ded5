# Rendered by `python -m builders render` from client/personserve/images/png_layout.py; edit that file.
"""Layout of a PNG file.

A decoder sees a file that is written anew from the chunks that hold the first image:
IHDR, PLTE and IDAT. OpenCV 4.11 allocates what a chunk claims before it reads it, and
crashes on some damaged animations. Transparency (tRNS) is left out because pixels are
read without it.

Source: PNG specification, third edition, sections 5 and 11.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from formats import ImageFormatError
from layout import (
    UPRIGHT,
    Layout,
    Span,
    join_spans,
    read_orientation,
)

SIGNATURE = b"\x89PNG\r\n\x1a\n"

MAX_CHUNKS = 100_000
"""Limit on the chunks. libpng writes image data in chunks of 8 KB."""

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Channels by colour type."""

_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Bits per channel by colour type."""

_CRC_BYTES = 4
_ANCILLARY_BIT = 0x20
"""Bit of a chunk's first letter: decoders may ignore the chunk."""

_IEND = b"\0\0\0\0IEND\xaeB`\x82"

_PALETTE_TYPE = 3
_MAX_PALETTE_BYTES = 3 * 256

_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
"""Passes of an interlaced image: x and y of the first pixel, and the steps."""

_INFLATE_SLICE_BYTES = 4 << 10
"""Input of one call of zlib, whose output is up to 1032 times as long and becomes a
chunk. OpenCV warns of chunks over 8 MB."""

_IDAT_CRC = zlib.crc32(b"IDAT")


class _Chunk(NamedTuple):
    kind: bytes
    start: int
    body: int
    end: int


class _Header(NamedTuple):
    width_px: int
    height_px: int
    depth: int
    colour_type: int
    compression: int
    filtering: int
    interlaced: int


def read_png_layout(data: bytes) -> Layout:
    """Read the layout of a PNG.

    Args:
        data: The file, starting with SIGNATURE.

    Returns:
        The layout of its first image. Its spans hold IHDR and PLTE.

    Raises:
        ImageFormatError: A length over the file's end, a chunk that is missing, twice
            there or in the wrong place, or a header that the specification excludes.
        struct.error: The file is cut short.
    """
    chunks = _read_chunks(data)
    start = next(chunks)
    header = _read_header(data, start)
    palette: list[_Chunk] = []
    compressed: list[Span] = []
    orientation: int | None = None
    for chunk in chunks:
        if chunk.kind == b"PLTE":
            _check_palette(chunk, is_misplaced=bool(palette or compressed))
            palette.append(chunk)
        elif chunk.kind == b"IDAT":
            compressed.append((chunk.body, chunk.end - _CRC_BYTES))
        elif chunk.kind == b"eXIf" and orientation is None:
            orientation = read_orientation(data, chunk.body, chunk.end - _CRC_BYTES)
        elif chunk.kind != b"IEND" and not chunk.kind[0] & _ANCILLARY_BIT:
            raise ImageFormatError(f"PNG: unexpected chunk {_name(chunk.kind)}")
    if not compressed:
        raise ImageFormatError("PNG: it has no image data (IDAT)")
    if header.colour_type != _PALETTE_TYPE:
        palette = []  # a suggestion for screens of 256 colours
    elif not palette:
        raise ImageFormatError("PNG: it has no palette (PLTE)")
    return Layout(
        "PNG",
        header.width_px,
        header.height_px,
        orientation or UPRIGHT,
        join_spans((0, len(SIGNATURE)), *((c.start, c.end) for c in (start, *palette))),
        compressed=join_spans(*compressed),
        inflated_bytes=_count_inflated_bytes(header),
    )


def rewrite_png(data: bytes, layout: Layout) -> bytearray:
    """Write a PNG anew, with image data that is stored rather than compressed.

    libpng decompresses all image data, whatever size the header gives: 2 MB can cost
    7 s. Here it is decompressed up to that size, and the decoder copies what is stored.
    Reading a 1080p PNG takes 1.4 times as long as without this, and 1.8 times where the
    data is decompressed once to be checked and once more by the decoder.

    Args:
        data: The file.
        layout: What read_png_layout returned for it.

    Returns:
        The file without metadata, animation and transparency.

    Raises:
        ImageFormatError: The image data is damaged, too short or too long.
    """
    png = bytearray()
    for start, end in layout.spans:
        png += data[start:end]
    for block in filter(None, _store_data(data, layout)):
        png += struct.pack(">I4s", len(block), b"IDAT")
        png += block
        png += struct.pack(">I", zlib.crc32(block, _IDAT_CRC))
    png += _IEND
    return png


def _store_data(data: bytes, layout: Layout) -> Iterator[bytes]:
    """Yield a zlib stream of stored blocks with the content of a compressed one."""
    inflater, storer = zlib.decompressobj(), zlib.compressobj(level=0)
    missing = layout.inflated_bytes
    for start, end in _slice_spans(layout.compressed):
        try:
            block = inflater.decompress(data[start:end], missing + 1)
        except zlib.error as exc:
            raise ImageFormatError("PNG: its image data (IDAT) is damaged") from exc
        missing -= len(block)
        if missing < 0:
            break
        yield storer.compress(block)
        if inflater.eof:
            break  # zlib would copy all that follows at every further call
    if missing or not inflater.eof:
        raise ImageFormatError(
            f"PNG: its image data (IDAT) is not the {layout.inflated_bytes:,} bytes of "
            f"{layout.width_px}x{layout.height_px} pixels"
        )
    yield storer.flush()


def _slice_spans(spans: tuple[Span, ...]) -> Iterator[Span]:
    for start, end in spans:
        for position in range(start, end, _INFLATE_SLICE_BYTES):
            yield position, min(position + _INFLATE_SLICE_BYTES, end)


def _read_chunks(data: bytes) -> Iterator[_Chunk]:
    """Yield the chunks up to IEND, each with an honest length."""
    offset = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        length, kind = struct.unpack_from(">I4s", data, offset)
        body = offset + 8
        end = body + length + _CRC_BYTES
        if end > len(data):
            raise ImageFormatError.for_damage(
                data,
                f"PNG: the chunk {_name(kind)} at byte {offset:,} claims {length:,} "
                f"bytes; {max(len(data) - body - _CRC_BYTES, 0):,} are left",
            )
        if (kind == b"IHDR") != (offset == len(SIGNATURE)):
            raise ImageFormatError("PNG: expected one IHDR, as the first chunk")
        yield _Chunk(kind, offset, body, end)
        if kind == b"IEND":
            return
        offset = end
    raise ImageFormatError(f"PNG of more than {MAX_CHUNKS:,} chunks is not accepted")


def _read_header(data: bytes, chunk: _Chunk) -> _Header:
    if chunk.end - chunk.start != 25:
        raise ImageFormatError(
            f"PNG: an IHDR of {chunk.end - chunk.start - 12:,} bytes; expected 13"
        )
    header = _Header(*struct.unpack_from(">IIBBBBB", data, chunk.body))
    if (
        header.depth not in _DEPTHS.get(header.colour_type, ())
        or header.compression != 0
        or header.filtering != 0
        or header.interlaced not in {0, 1}
    ):
        raise ImageFormatError(
            "PNG: depth, colour type, compression, filter and interlacing are "
            f"{', '.join(map(str, header[2:]))}, which no PNG may have"
        )
    return header


def _check_palette(chunk: _Chunk, *, is_misplaced: bool) -> None:
    length = chunk.end - chunk.start - 12
    if is_misplaced:
        raise ImageFormatError("PNG: expected one palette (PLTE), before image data")
    if length % 3 or not 3 <= length <= _MAX_PALETTE_BYTES:
        raise ImageFormatError(
            f"PNG: a palette (PLTE) of {length:,} bytes; expected 3 for each of 1 to "
            "256 colours"
        )


def _count_inflated_bytes(header: _Header) -> int:
    bits = header.depth * _CHANNELS[header.colour_type]
    passes = _ADAM7 if header.interlaced else ((0, 0, 1, 1),)
    size = 0
    for x, y, x_step, y_step in passes:
        columns = -(-(header.width_px - x) // x_step)
        rows = -(-(header.height_px - y) // y_step)
        if columns > 0 and rows > 0:
            size += rows * (1 + -(-columns * bits // 8))  # one filter byte a row
    return size


def _name(kind: bytes) -> str:
    return kind.decode("ascii") if kind.isalpha() else kind.hex(" ")
