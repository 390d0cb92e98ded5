"""Images of every accepted kind, made at run time, and mutations of them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from io import BytesIO

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)

FORMS = ("B", "B", "B", "<H", ">H", "<I", ">I")
VALUES = (0, 1, 2, 0x7F, 0x80, 0x7FFF, 0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFF)


def make_pixels(width: int = 67, height: int = 45) -> npt.NDArray[np.uint8]:
    """Make RGB pixels with smooth areas, edges and noise."""
    rng = np.random.default_rng(7)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    smooth = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    noise = rng.integers(-6, 7, smooth.shape)
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


def save(image: Image.Image, format_: str, **options: object) -> bytes:
    """Encode an image with Pillow."""
    file = BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def make_exif(orientation: int) -> bytes:
    """Make EXIF data that gives an orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Make a PNG chunk with its length and checksum."""
    crc = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + crc


def make_png(header: tuple[int, ...], data: bytes, *before: bytes) -> bytes:
    """Make a PNG of an IHDR's seven fields, raw image data and chunks before it."""
    return b"".join(
        (
            PNG_SIGNATURE,
            png_chunk(b"IHDR", struct.pack(">IIBBBBB", *header)),
            *before,
            png_chunk(b"IDAT", zlib.compress(data)),
            PNG_END,
        )
    )


def make_interlaced_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Make a PNG in Adam7 order, which neither OpenCV nor Pillow writes."""
    rows = [
        b"\0" + row.tobytes()
        for x, y, x_step, y_step in ADAM7
        for row in pixels[y::y_step, x::x_step]
        if row.size
    ]
    height, width = pixels.shape[:2]
    return make_png((width, height, 8, 2, 0, 0, 1), b"".join(rows))


def make_corpus() -> dict[str, bytes]:
    """Make an image of each kind that the gate accepts, by the name of its kind."""
    pixels = make_pixels()
    rgb = Image.fromarray(pixels)
    rgba = rgb.copy()
    rgba.putalpha(Image.fromarray(np.ascontiguousarray(pixels[..., 0])))
    palette = rgb.quantize(37)
    frames = [Image.fromarray(np.roll(pixels, 9 * i, axis=1)) for i in (1, 2, 3)]
    deep = cv2.imencode(".png", pixels.astype(np.uint16) * 257)[1].tobytes()
    jpeg = {"quality": 80}
    return {
        "jpeg": save(rgb, "JPEG", **jpeg),
        "jpeg progressive": save(rgb, "JPEG", progressive=True, **jpeg),
        "jpeg 4:4:4": save(rgb, "JPEG", subsampling=0, optimize=True, **jpeg),
        "jpeg grey": save(rgb.convert("L"), "JPEG", **jpeg),
        "jpeg cmyk": save(rgb.convert("CMYK"), "JPEG", **jpeg),
        "jpeg restarts": save(rgb, "JPEG", restart_marker_blocks=3, **jpeg),
        "jpeg exif": save(rgb, "JPEG", exif=make_exif(6), comment=b"x" * 99, **jpeg),
        "png": save(rgb, "PNG"),
        "png grey": save(rgb.convert("L"), "PNG"),
        "png bits": save(rgb.convert("1"), "PNG"),
        "png alpha": save(rgba, "PNG"),
        "png palette": save(palette, "PNG", transparency=3),
        "png 16 bits": deep,
        "png interlaced": make_interlaced_png(pixels),
        "png exif": save(rgb, "PNG", exif=make_exif(8), dpi=(72, 72)),
        "png animated": save(rgb, "PNG", save_all=True, append_images=frames),
        "png animated alpha": save(rgba, "PNG", save_all=True, append_images=frames),
        "webp": save(rgb, "WEBP", quality=75),
        "webp lossless": save(rgb, "WEBP", lossless=True),
        "webp alpha": save(rgba, "WEBP", quality=60),
        "webp exif": save(rgb, "WEBP", quality=60, exif=make_exif(3)),
    }


def make_refused_corpus() -> dict[str, bytes]:
    """Make images that the gate refuses and that are worth mutating."""
    pixels = make_pixels()
    rgb = Image.fromarray(pixels)
    frames = [Image.fromarray(np.roll(pixels, 9 * i, axis=1)) for i in (1, 2)]
    return {
        "webp animated": save(rgb, "WEBP", save_all=True, append_images=frames),
        "jpeg 2000": save(rgb, "JPEG2000"),
        "tiff": save(rgb, "TIFF", compression="tiff_lzw"),
        "gif": save(rgb, "GIF"),
        "bmp": save(rgb, "BMP"),
    }


def make_bombs() -> dict[str, bytes]:
    """Make small files of large images, of much work, and of several formats."""
    rgb = Image.fromarray(make_pixels())
    flat = Image.new("RGB", (2048, 1536), (9, 99, 199))
    jpeg, png = save(rgb, "JPEG", quality=80), save(rgb, "PNG")
    progressive = save(rgb, "JPEG", progressive=True)
    in_riff = b"JPEG" + struct.pack("<I", len(jpeg)) + jpeg
    return {
        "jpeg flat": save(flat, "JPEG"),
        "jpeg progressive flat": save(flat, "JPEG", progressive=True),
        "png flat": save(flat, "PNG"),
        "webp flat": save(flat, "WEBP", lossless=True),
        "jpeg scans": join_jpeg_scans(progressive, 20),
        "png claims": make_png((65535, 65535, 8, 2, 0, 0, 0), bytes(4096)),
        "jpeg then png": jpeg + png,
        "png then jpeg": png + jpeg,
        "jpeg in png": make_png((8, 8, 8, 2, 0, 0, 0), jpeg, png_chunk(b"juNk", jpeg)),
        "png in jpeg": insert_jpeg_segments(jpeg, [(0xE1, png), (0xFE, png)]),
        "jpeg in riff": b"RIFF"
        + struct.pack("<I", 4 + len(in_riff))
        + b"WEBP"
        + in_riff,
    }


class Mutator:
    """Mutations of a corpus; an index gives the same image in every process."""

    def __init__(self, seed: int) -> None:
        corpus = {**make_corpus(), **make_refused_corpus(), **make_bombs()}
        self._names = list(corpus)
        self._files = list(corpus.values())
        self._seed = seed

    def make(self, index: int) -> tuple[str, bytes]:
        """Return the kind and the bytes of a mutated image."""
        rng = np.random.default_rng((self._seed, index))
        choice = int(rng.integers(len(self._files)))
        data = self._files[choice]
        for _ in range(int(rng.integers(1, 4))):
            data = self._mutate(data, rng)
        if data.startswith(PNG_SIGNATURE) and rng.random() < 0.8:
            data = b"".join((PNG_SIGNATURE, *_repair_png(data)))
        return self._names[choice], data

    def _mutate(self, data: bytes, rng: np.random.Generator) -> bytes:
        if data.startswith(PNG_SIGNATURE) and rng.random() < 0.5:
            return _mutate_png(data, rng)
        # most of what a decoder decides is in the first bytes
        limit = len(data) if rng.random() < 0.5 else min(len(data), 256)
        start = int(rng.integers(limit)) if limit else 0
        if rng.random() < 0.7:
            field = _make_field(rng)
            return data[:start] + field + data[start + len(field) :]
        end = start + int(rng.integers(1, 200))
        other = self._files[int(rng.integers(len(self._files)))]
        position = int(rng.integers(len(other)))
        spliced = other[position : position + end - start]
        mutations = (
            data[:start] + data[end:],
            data[:end] + data[start:end] * int(rng.integers(1, 4)) + data[end:],
            data[:start] + spliced + data[start:],
            data[:end],
            data + rng.bytes(9),
        )
        return mutations[int(rng.integers(len(mutations)))]


def _make_field(rng: np.random.Generator) -> bytes:
    """Return a byte or a number to write over what is there."""
    form = FORMS[int(rng.integers(len(FORMS)))]
    size = struct.calcsize(form)
    if rng.random() < 0.5:
        return rng.bytes(size)
    value = VALUES[int(rng.integers(len(VALUES)))] & ((1 << 8 * size) - 1)
    return struct.pack(form, value)


def split_png(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (kind, body) of a PNG's chunks, up to the file's end."""
    offset = len(PNG_SIGNATURE)
    while offset + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, offset)
        yield kind, data[offset + 8 : offset + 8 + length]
        offset += 12 + length


def _repair_png(data: bytes) -> Iterator[bytes]:
    """Yield chunks with right checksums, so that decoders read on after a mutation."""
    for kind, body in split_png(data):
        yield png_chunk(kind, body)


def _mutate_png(data: bytes, rng: np.random.Generator) -> bytes:
    """Mutate the content of one chunk, or the order of the chunks."""
    chunks = list(split_png(data))
    if not chunks:
        return data
    at = int(rng.integers(len(chunks)))
    kind, body = chunks[at]
    choice = int(rng.integers(6))
    if choice == 0:
        del chunks[at]
    elif choice == 1:
        chunks.insert(int(rng.integers(len(chunks))), chunks[at])
    elif choice == 2:
        kinds = (b"IDAT", b"fdAT", b"fcTL", b"acTL", b"PLTE", b"tRNS", b"bKGD", b"iCCP")
        chunks[at] = (kinds[int(rng.integers(len(kinds)))], body)
    elif kind == b"IDAT" and choice == 3:
        chunks[at] = (kind, _mutate_inflated(body, rng))
    elif body:
        position = int(rng.integers(len(body)))
        count = int(rng.integers(1, 5))
        body = body[:position] + rng.bytes(count) + body[position + count :]
        chunks[at] = (kind, body)
    return b"".join((PNG_SIGNATURE, *(png_chunk(*chunk) for chunk in chunks)))


def _mutate_inflated(body: bytes, rng: np.random.Generator) -> bytes:
    try:
        data = bytearray(zlib.decompress(body))
    except zlib.error:
        return body
    for _ in range(int(rng.integers(1, 20))):
        if data:
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
    return zlib.compress(bytes(data), int(rng.integers(10)))


def join_jpeg_scans(data: bytes, count: int) -> bytes:
    """Repeat the last scan of a progressive JPEG, each time without image data."""
    last = data.rfind(b"\xff\xda")
    header = data[last : last + 2 + struct.unpack_from(">H", data, last + 2)[0]]
    return data[:-2] + header * count + data[-2:]


def insert_jpeg_segments(data: bytes, segments: Sequence[tuple[int, bytes]]) -> bytes:
    """Insert segments (marker, body) before all others of a JPEG."""
    inserted = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
        for marker, body in segments
    )
    return data[:2] + inserted + data[2:]
