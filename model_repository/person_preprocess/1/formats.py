# Rendered by `python -m builders render` from client/personserve/images/formats.py; edit that file.
"""Image formats: the accepted ones, their limits, and the texts of refusals.

This module imports the standard library only.
"""

from __future__ import annotations

MAX_IMAGE_PIXELS = 50_000_000
"""Limit on width times height, on both sides. 8K video has 33 million pixels."""

MAX_IMAGE_BYTES = 512 << 20
"""Limit on an encoded image. Triton's gRPC messages end at 2 GiB."""

IMAGE_SUFFIXES = frozenset((".jpeg", ".jpg", ".png", ".webp"))
"""File suffixes of the accepted formats, in lower case."""

REFUSED_SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".heic", ".jp2", ".jxl", ".tif", ".tiff")
)
"""File suffixes of other image formats, in lower case, to name them in errors."""

ACCEPTED_FORMATS = "JPEG, PNG or WebP"

Buffer = bytes | bytearray | memoryview

_REFUSED_SIGNATURES = {
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "BigTIFF",
    b"MM\0+": "BigTIFF",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"%PDF": "PDF",
}

_REFUSED_BRANDS = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"hevc": "HEIC",
    b"mif1": "HEIC",
    b"msf1": "HEIC",
}
"""Major brands of the ISO base media file format, bytes 8 to 12 after "ftyp"."""


class ImageFormatError(ValueError):
    """Bytes that are not an accepted image, or an image over the limits."""

    @classmethod
    def for_damage(cls, data: Buffer, reason: str = "") -> ImageFormatError:
        """Return the error for bytes that do not decode.

        Args:
            data: The bytes that a decoder or the check of their structure refused.
            reason: What is wrong with them, where it is known.

        Returns:
            An error with their number, their beginning in hexadecimal, what was
            expected, and the reason.
        """
        start = bytes(data[:8]).hex(" ")
        text = (
            f"{len(data)} bytes starting {start} do not decode; expected a whole "
            f"{ACCEPTED_FORMATS}"
        )
        return cls(f"{text} ({reason})" if reason else text)

    @classmethod
    def for_other_format(cls, data: Buffer) -> ImageFormatError:
        """Return the error for bytes of a format that is not accepted.

        Args:
            data: The encoded image; its first 16 bytes are read.

        Returns:
            An error with the format's name where its signature is known, and with what
            is accepted.
        """
        name = _refused_format(bytes(data[:16]))
        if name is None:
            return cls.for_damage(data)
        return cls(f"{name} is not accepted; convert to {ACCEPTED_FORMATS}")


class ImageSizeError(ImageFormatError):
    """An image of more pixels than MAX_IMAGE_PIXELS."""


def check_image_size(width_px: int, height_px: int) -> None:
    """Check an image's size against MAX_IMAGE_PIXELS.

    Args:
        width_px: Width in pixels.
        height_px: Height in pixels.

    Raises:
        ImageSizeError: The image has more pixels than the limit.
    """
    pixels = width_px * height_px
    if pixels > MAX_IMAGE_PIXELS:
        raise ImageSizeError(
            f"{width_px}x{height_px} is {pixels:,} pixels, over the limit of "
            f"{MAX_IMAGE_PIXELS:,}"
        )


def _refused_format(start: bytes) -> str | None:
    if start[4:8] == b"ftyp":
        return _REFUSED_BRANDS.get(start[8:12])
    for signature, name in _REFUSED_SIGNATURES.items():
        if start.startswith(signature):
            return name
    return None
