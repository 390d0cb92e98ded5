# Rendered by `python -m builders render` from client/personserve/images/encoded.py; edit that file.
"""The gate for encoded images, which every file passes before a decoder sees it.

Client, server, evaluation and calibration use it alike. The model repository holds a
copy of this file and of the modules that it imports, all of the standard library only.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from formats import (
    ACCEPTED_FORMATS,
    MAX_IMAGE_BYTES,
    Buffer,
    ImageFormatError,
    check_image_size,
)
from jpeg_layout import SIGNATURE as JPEG_SIGNATURE
from jpeg_layout import read_jpeg_layout
from layout import FormatName, Layout
from png_layout import SIGNATURE as PNG_SIGNATURE
from png_layout import read_png_layout, rewrite_png
from webp_layout import is_webp, read_webp_layout


@dataclass(frozen=True, eq=False)
class Encoded:
    """An encoded JPEG, PNG or WebP whose structure is sound and within the limits.

    Attributes:
        data: The bytes of the file, as they came.
        layout: Its format, size, orientation and essential bytes.
    """

    data: bytes
    layout: Layout

    @classmethod
    def from_bytes(cls, data: Buffer) -> Encoded:
        """Check an encoded image's format, structure and size without decoding it.

        Args:
            data: The bytes of a JPEG, PNG or WebP file. Anything but `bytes` is copied,
                so that what is decoded is what was checked.

        Returns:
            The image.

        Raises:
            ImageFormatError: Another format, a structure that is broken or that costs a
                decoder too much, or an image over a limit.
        """
        data = bytes(data)
        if not 0 < len(data) <= MAX_IMAGE_BYTES:
            raise ImageFormatError(
                f"{len(data)} bytes; expected a {ACCEPTED_FORMATS} of up to "
                f"{MAX_IMAGE_BYTES:,} bytes"
            )
        try:
            layout = _read_layout(data)
        except (struct.error, IndexError) as exc:
            raise ImageFormatError.for_damage(data) from exc
        if 0 in {layout.width_px, layout.height_px}:
            raise ImageFormatError.for_damage(data)
        check_image_size(layout.width_px, layout.height_px)
        return cls(data, layout)

    @property
    def format(self) -> FormatName:
        """Name of the format."""
        return self.layout.format

    @property
    def width_px(self) -> int:
        """Width in pixels, as stored (before an EXIF orientation is applied)."""
        return self.layout.width_px

    @property
    def height_px(self) -> int:
        """Height in pixels, as stored (before an EXIF orientation is applied)."""
        return self.layout.height_px

    @property
    def nbytes(self) -> int:
        """Size in bytes, as of an array."""
        return len(self.data)

    def decoder_input(self) -> bytes | bytearray:
        """Return the file that a decoder may see: the image without anything else.

        Returns:
            A file of the same format without metadata, animation and transparency;
            `data` itself where a JPEG has nothing of the kind.

        Raises:
            ImageFormatError: The image data of a PNG does not decompress to the size
                that its header gives.
        """
        if self.layout.format == "PNG":
            return rewrite_png(self.data, self.layout)
        spans = self.layout.spans
        if spans == ((0, len(self.data)),):
            return self.data
        view = memoryview(self.data)
        return b"".join((self.layout.prefix, *(view[s:e] for s, e in spans)))


def _read_layout(data: bytes) -> Layout:
    if data.startswith(JPEG_SIGNATURE):
        return read_jpeg_layout(data)
    if data.startswith(PNG_SIGNATURE):
        return read_png_layout(data)
    if is_webp(data):
        return read_webp_layout(data)
    raise ImageFormatError.for_other_format(data)
