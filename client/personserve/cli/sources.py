"""Arguments that name images, videos and cameras, and the images behind them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from personserve._errors import InvalidInputError
from personserve.cli.downloads import WEB_SCHEMES, download_image, is_stream
from personserve.images.crops import Pixels
from personserve.images.formats import (
    ACCEPTED_FORMATS,
    IMAGE_SUFFIXES,
    REFUSED_SUFFIXES,
)
from personserve.images.inputs import read_pixels
from personserve.images.videos import VIDEO_SUFFIXES

STREAM_SUFFIXES = VIDEO_SUFFIXES | {".m3u8", ".mjpeg", ".mjpg", ".mpd"}
"""Suffixes of web addresses that OpenCV reads as a video."""

GLOB_CHARACTERS = frozenset("*?[")


class Kind(Enum):
    """What an argument of the command line names."""

    IMAGE = "image"
    VIDEO = "video"
    CAMERA = "camera"


@dataclass(frozen=True)
class Source:
    """One image, video, camera or stream.

    Attributes:
        name: The file, address or camera's number as the user typed or will find it.
        kind: What it is. A stream is a VIDEO without a known end.
        relative: Path below the folder that was named, or below the fixed part of a
            pattern; the name of the file otherwise.
    """

    name: str
    kind: Kind
    relative: str

    def read_image(self, timeout_s: float) -> Pixels:
        """Read or download an image and decode it.

        Args:
            timeout_s: Deadline of a download in seconds.

        Returns:
            UINT8 [H, W, 3] in BGR order.

        Raises:
            InvalidInputError: The image cannot be read, downloaded or decoded; the
                message names it.
        """
        if is_web_address(self.name):
            return read_pixels(download_image(self.name, timeout_s), self.name)
        if not Path(self.name).is_file():
            raise InvalidInputError(f"cannot read {self.name}: no such file")
        return read_pixels(self.name, self.name)


def resolve_sources(arguments: Sequence[str], timeout_s: float) -> list[Source]:
    """Find the images, videos and cameras that the arguments of a command name.

    Args:
        arguments: Files, folders, patterns, addresses and cameras' numbers.
        timeout_s: Deadline in seconds of a question to a web server about an address
            whose suffix does not tell what it is.

    Returns:
        The sources in the order of the arguments; those of a folder are sorted.

    Raises:
        InvalidInputError: A file or folder does not exist, a pattern matches nothing,
            or a folder has no images, or images in a format that is not accepted.
    """
    return [
        source
        for argument in arguments
        for source in _resolve_source(argument, timeout_s)
    ]


def resolve_images(arguments: Sequence[str], timeout_s: float) -> list[Source]:
    """Find the images that the arguments of a command name.

    Args:
        arguments: As of resolve_sources, without videos and cameras.
        timeout_s: As of resolve_sources.

    Returns:
        The images.

    Raises:
        InvalidInputError: As resolve_sources; or an argument is a video or a camera.
    """
    sources = resolve_sources(arguments, timeout_s)
    for source in sources:
        if source.kind is not Kind.IMAGE:
            raise InvalidInputError(
                f"{source.name}: expected an image ({ACCEPTED_FORMATS}), got a "
                f"{source.kind.value}"
            )
    return sources


def is_web_address(text: str) -> bool:
    """Return whether a text is an http:// or https:// address.

    Args:
        text: An argument of the command line.
    """
    return "://" in text and urlsplit(text).scheme.lower() in WEB_SCHEMES


def find_images(folder: Path) -> list[Path]:
    """Find the images in a folder, at any depth.

    Args:
        folder: The folder.

    Returns:
        Paths of the JPEG, PNG and WebP files by suffix, sorted.

    Raises:
        InvalidInputError: The folder has no images, or has images in a format that is
            not accepted, which would otherwise be left out silently.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    _refuse_other_formats(files)
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise InvalidInputError(
            f"{folder}: no images ({', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return images


def _resolve_source(argument: str, timeout_s: float) -> Iterator[Source]:
    path = Path(argument)
    if argument.isdigit() and not path.exists():
        yield Source(argument, Kind.CAMERA, f"camera {argument}")
    elif "://" in argument:
        yield _resolve_address(argument, timeout_s)
    elif path.is_dir():
        for image in find_images(path):
            relative = image.relative_to(path).as_posix()
            yield Source(str(image), Kind.IMAGE, relative)
    elif not path.exists() and GLOB_CHARACTERS & set(argument):
        yield from _resolve_pattern(argument)
    else:
        kind = _kind_of_file(path)
        if not path.exists() and kind is Kind.VIDEO:
            raise InvalidInputError(f"cannot read {argument}: no such file")
        yield Source(argument, kind, path.name)


def _resolve_pattern(pattern: str) -> Iterator[Source]:
    parts = Path(pattern).parts
    depth = next(i for i, part in enumerate(parts) if GLOB_CHARACTERS & set(part))
    root = Path(*parts[:depth])
    files = [path for path in root.glob(str(Path(*parts[depth:]))) if path.is_file()]
    if not files:
        raise InvalidInputError(f"{pattern}: no file matches this pattern")
    for path in sorted(files):
        relative = path.relative_to(root).as_posix()
        yield Source(str(path), _kind_of_file(path), relative)


def _resolve_address(address: str, timeout_s: float) -> Source:
    path = PurePosixPath(unquote(urlsplit(address).path))
    suffix = path.suffix.lower()
    kind = Kind.VIDEO
    if is_web_address(address) and (
        suffix in IMAGE_SUFFIXES
        or (suffix not in STREAM_SUFFIXES and not is_stream(address, timeout_s))
    ):
        kind = Kind.IMAGE
    return Source(address, kind, path.name or "image")


def _kind_of_file(path: Path) -> Kind:
    return Kind.VIDEO if path.suffix.lower() in VIDEO_SUFFIXES else Kind.IMAGE


def _refuse_other_formats(files: Iterable[Path]) -> None:
    for path in files:
        if path.suffix.lower() in REFUSED_SUFFIXES:
            raise InvalidInputError(
                f"{path}: {path.suffix} is not accepted; convert to {ACCEPTED_FORMATS}"
            )
