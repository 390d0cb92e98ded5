# Rendered by `python -m builders render` from client/personserve/images/jpeg_layout.py; edit that file.
"""Layout of a JPEG file.

Baseline, extended and progressive Huffman JPEG of 8 bits are accepted, which is what
cameras write and browsers show. The file is read as libjpeg reads it: segment by
segment to the first scan, and where more scans may follow, marker by marker to the end.

Source: ITU-T T.81, annex B.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from formats import ImageFormatError
from layout import (
    EXIF_PREFIX,
    UPRIGHT,
    Layout,
    Span,
    join_spans,
    read_orientation,
)

SIGNATURE = b"\xff\xd8"

MAX_SCANS = 32
"""Limit on the scans. Each costs a decoder 1 ms for every million pixels even where it
is empty (measured, libjpeg-turbo 3.0). libjpeg writes 10 for a progressive file."""

MAX_SEGMENTS = 4096
"""Limit on the segments. An ICC profile takes up to 255, extended XMP one for 64 KB."""

MAX_PIXELS_PER_BYTE = 512
"""A block of 8x8 pixels takes at least one bit, the shortest Huffman code."""

_APP0, _APP1, _APP14 = 0xE0, 0xE1, 0xEE
_DHT, _DQT, _DRI, _SOS, _EOI, _COM = 0xC4, 0xDB, 0xDD, 0xDA, 0xD9, 0xFE
_FRAMES = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive"}
_REFUSED_FRAMES = {
    **dict.fromkeys((0xC3, 0xC7, 0xCB, 0xCF), "lossless"),
    **dict.fromkeys((0xC5, 0xC6, 0xCD, 0xCE, 0xDE, 0xDF), "hierarchical"),
    **dict.fromkeys((0xC9, 0xCA, 0xCC), "arithmetic-coded"),
}
_PROGRESSIVE = 0xC2
_TABLES = frozenset((_DHT, _DQT, _DRI))
_METADATA = frozenset((*range(0xE0, 0xF0), _COM))
_NEEDED_METADATA = frozenset((_APP0, _APP14))  # JFIF and Adobe: the colour space

_SEGMENTS = _TABLES | _METADATA | _FRAMES.keys() | {_SOS}

_AFTER_FILL = re.compile(rb"[^\xff]")
_END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""A marker in a scan: not a stuffed byte (0), a restart (D0 to D7) or a fill byte."""


class _Segment(NamedTuple):
    marker: int
    start: int
    body: int
    end: int


class _Frame(NamedTuple):
    marker: int
    width_px: int
    height_px: int
    components: int


def read_jpeg_layout(data: bytes) -> Layout:
    """Read the layout of a JPEG.

    Args:
        data: The file, starting with SIGNATURE.

    Returns:
        The layout, without metadata other than that of the colour space, and for a
        file of several scans without what comes after the end marker.

    Raises:
        ImageFormatError: A length over the file's end, another kind of JPEG, more
            than one frame, too many scans, or too little data for its size.
        IndexError: The file is cut short.
        struct.error: The same.
    """
    spans: list[Span] = [(0, len(SIGNATURE))]
    orientation: int | None = None
    frame: _Frame | None = None
    is_common = data.endswith(_END)
    offset = len(SIGNATURE)
    for count in range(MAX_SEGMENTS):
        segment = _read_segment(data, offset)
        offset = segment.end
        if segment.marker in _FRAMES:
            if frame is not None:
                raise ImageFormatError("JPEG: it has two frame headers")
            frame = _read_frame(data, segment)
        elif segment.marker == _SOS:
            if frame is None:
                raise ImageFormatError("JPEG: it has a scan before its frame header")
            end = _find_end(data, segment, frame, MAX_SEGMENTS - count)
            spans.append((segment.start, end))
            is_common = is_common and _is_common_scan(data, segment, frame)
            break
        elif segment.marker == _APP14:
            is_common = False  # Adobe's: the components may be RGB or CMYK
        elif orientation is None and _is_exif(data, segment):
            orientation = read_orientation(data, segment.body, segment.end)
        if segment.marker not in _METADATA or segment.marker in _NEEDED_METADATA:
            spans.append((segment.start, segment.end))
    else:
        raise _too_many_segments()
    return Layout(
        "JPEG",
        frame.width_px,
        frame.height_px,
        orientation or UPRIGHT,
        join_spans(*spans),
        is_common_jpeg=is_common,
    )


def _is_common_scan(data: bytes, scan: _Segment, frame: _Frame) -> bool:
    components = data[scan.body]
    return frame.marker != _PROGRESSIVE and components == frame.components == 3


def _is_exif(data: bytes, segment: _Segment) -> bool:
    is_app1 = segment.marker == _APP1
    return is_app1 and data.startswith(EXIF_PREFIX, segment.body, segment.end)


def _read_segment(data: bytes, offset: int) -> _Segment:
    if data[offset] != 0xFF:
        raise ImageFormatError.for_damage(
            data, f"JPEG: no marker at byte {offset:,}, where one must be"
        )
    after_fill = _AFTER_FILL.search(data, offset)
    if after_fill is None:
        raise ImageFormatError.for_damage(data)
    position = after_fill.start()
    marker = data[position]
    if marker in _REFUSED_FRAMES:
        raise ImageFormatError(
            f"{_REFUSED_FRAMES[marker]} JPEG is not accepted; convert to baseline or "
            "progressive JPEG"
        )
    if marker not in _SEGMENTS:
        raise ImageFormatError(
            f"JPEG: unexpected marker FF {marker:02X} at byte {position - 1:,}"
        )
    (length,) = struct.unpack_from(">H", data, position + 1)
    end = position + 1 + length
    if length < 2 or end > len(data):
        raise ImageFormatError.for_damage(
            data,
            f"JPEG: the segment FF {marker:02X} at byte {position - 1:,} claims "
            f"{length:,} bytes; {len(data) - position - 1:,} are left",
        )
    return _Segment(marker, position - 1, position + 3, end)


def _read_frame(data: bytes, segment: _Segment) -> _Frame:
    precision, height, width, components = struct.unpack_from(
        ">BHHB", data, segment.body
    )
    if precision != 8:
        raise ImageFormatError(
            f"JPEG of {precision} bits is not accepted; convert to 8 bits"
        )
    if components not in {1, 3, 4} or segment.end - segment.body != 6 + 3 * components:
        raise ImageFormatError(
            f"JPEG: a frame of {components} components in {segment.end - segment.body} "
            "bytes; expected 1, 3 or 4 components of 3 bytes after a header of 6"
        )
    for position in range(segment.body + 7, segment.end, 3):
        if not (1 <= data[position] >> 4 <= 4 and 1 <= data[position] & 15 <= 4):
            raise ImageFormatError(
                f"JPEG: a sampling factor of {data[position]:#04x}; expected 1 to 4 "
                "each way"
            )
    if width * height > MAX_PIXELS_PER_BYTE * len(data):
        raise ImageFormatError(
            f"JPEG: {width}x{height} pixels do not fit into {len(data):,} bytes"
        )
    return _Frame(segment.marker, width, height, components)


def _find_end(data: bytes, first: _Segment, frame: _Frame, most_segments: int) -> int:
    """Return where the image ends, following every scan that a decoder would read."""
    if frame.marker != _PROGRESSIVE and data[first.body] == frame.components:
        return len(data)  # libjpeg reads this one scan and refuses another
    offset, scans = first.end, 1
    for _ in range(most_segments):
        match = _MARKER.search(data, offset)
        if match is None:
            raise ImageFormatError.for_damage(
                data, "JPEG: no end marker; the file is cut short"
            )
        if data[match.end() - 1] == _EOI:
            return match.end()
        segment = _read_segment(data, match.start())
        if segment.marker in _FRAMES:
            raise ImageFormatError("JPEG: it has two frame headers")
        scans += segment.marker == _SOS
        if scans > MAX_SCANS:
            raise ImageFormatError(
                f"JPEG of more than {MAX_SCANS} scans is not accepted; convert to "
                "baseline JPEG"
            )
        offset = segment.end
    raise _too_many_segments()


def _too_many_segments() -> ImageFormatError:
    return ImageFormatError(
        f"JPEG of more than {MAX_SEGMENTS:,} segments is not accepted; remove its "
        "metadata"
    )
