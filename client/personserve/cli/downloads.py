"""Images from http:// and https:// addresses."""

from __future__ import annotations

import time
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from personserve._errors import InvalidInputError
from personserve.images.formats import ACCEPTED_FORMATS

MAX_DOWNLOAD_BYTES = 64 << 20
"""Limit on an image from a URL. A JPEG of 50 million pixels has 10 to 30 MB."""

CHUNK_BYTES = 1 << 16

WEB_SCHEMES = ("http", "https")

STREAM_TYPES = (
    "video/",
    "multipart/x-mixed-replace",
    "application/dash+xml",
    "application/vnd.apple.mpegurl",
    "application/x-mpegurl",
)
"""Beginnings of content types that OpenCV reads as a video or a camera's stream."""

IMAGE_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")


def download_image(url: str, timeout_s: float) -> bytes:
    """Download an image; its format is checked when it is decoded.

    Args:
        url: An http:// or https:// address.
        timeout_s: Deadline of the whole download in seconds.

    Returns:
        The bytes of the image.

    Raises:
        InvalidInputError: The address cannot be reached, its content is not an image
            or over MAX_DOWNLOAD_BYTES, or the deadline has passed.
    """
    deadline_s = time.monotonic() + timeout_s
    parts = []
    size_bytes = 0
    try:
        with _open(url, timeout_s) as response:
            kind = _content_type(response)
            if kind and not kind.startswith(IMAGE_TYPES):
                raise InvalidInputError(
                    f"{url}: expected {ACCEPTED_FORMATS}, got {kind}"
                )
            while chunk := response.read1(CHUNK_BYTES):
                parts.append(chunk)
                size_bytes += len(chunk)
                if size_bytes > MAX_DOWNLOAD_BYTES:
                    raise InvalidInputError(
                        f"{url}: over the limit of {MAX_DOWNLOAD_BYTES >> 20} MiB"
                    )
                if time.monotonic() > deadline_s:
                    raise TimeoutError
    except (OSError, HTTPException) as exc:
        raise _error_from(url, exc, timeout_s) from exc
    return b"".join(parts)


def is_stream(url: str, timeout_s: float) -> bool:
    """Ask a web server whether an address without a known suffix is a video.

    Args:
        url: An http:// or https:// address.
        timeout_s: Deadline in seconds.

    Returns:
        True for the content types of videos and of cameras' streams.

    Raises:
        InvalidInputError: The address cannot be reached.
    """
    try:
        with _open(url, timeout_s) as response:
            return _content_type(response).startswith(STREAM_TYPES)
    except (OSError, HTTPException) as exc:
        raise _error_from(url, exc, timeout_s) from exc


class _WebRedirects(HTTPRedirectHandler):
    """Redirections to http:// and https:// only; urllib also follows ftp://."""

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        if urlsplit(newurl).scheme not in WEB_SCHEMES:
            fp.close()
            raise InvalidInputError(
                f"{req.full_url}: redirects to {newurl}; expected http:// or https://"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str, timeout_s: float) -> Any:
    opener = build_opener(_WebRedirects)
    # some sites answer 403 to the name that urllib gives itself
    request = Request(url, headers={"User-Agent": "personserve"})  # noqa: S310 - http(s)
    return opener.open(request, timeout=timeout_s)


def _content_type(response: Any) -> str:
    kind = response.headers.get("Content-Type", "")
    return str(kind).partition(";")[0].strip().lower()


def _error_from(url: str, exc: Exception, timeout_s: float) -> InvalidInputError:
    reason = getattr(exc, "reason", exc)
    if isinstance(exc, TimeoutError) or isinstance(reason, TimeoutError):
        text = f"not downloaded within {timeout_s:g} s"
    elif isinstance(exc, HTTPError):
        exc.close()  # it is the response, too
        text = f"HTTP {exc.code} {exc.reason}"
    else:
        text = f"cannot be downloaded: {reason or type(exc).__name__}"
    return InvalidInputError(f"{url}: {text}")
