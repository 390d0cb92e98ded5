"""Options of the commands about galleries that choose people by camera and time."""

from __future__ import annotations

import re
import time
from datetime import datetime

import typer

from personserve.cli.options import WHEN_HELP
from personserve.gallery import Filter

SECONDS_PER_UNIT = {"s": 1, "m": 60, "h": 3600, "d": 86400}

AGE = re.compile(r"(\d+(?:\.\d+)?)([smhd])")

FIRST_UNIX_TIME_S = 1e8
"""Times from here on (1973) are dates; smaller ones are seconds of a video."""


def seconds_from_text(text: str) -> float:
    """Convert the value of an option to seconds.

    Args:
        text: See WHEN_HELP.

    Returns:
        A Unix time; or the seconds themselves.

    Raises:
        typer.BadParameter: If the text is not a time.
    """
    age = AGE.fullmatch(text)
    if age is not None:
        return time.time() - float(age[1]) * SECONDS_PER_UNIT[age[2]]
    if re.fullmatch(r"\d{1,12}(\.\d*)?", text):
        return float(text)
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError) as exc:
        raise typer.BadParameter(
            f"{text!r} is not a time; expected {WHEN_HELP}"
        ) from exc


def text_from_seconds(time_s: float) -> str:
    """Format a time of a gallery for a table.

    Args:
        time_s: A Unix time, or seconds of a video.

    Returns:
        Date and time in this machine's time zone; or seconds.
    """
    if time_s < FIRST_UNIX_TIME_S:
        return f"{time_s:.1f} s"
    return datetime.fromtimestamp(time_s).astimezone().isoformat(" ", "seconds")


def filter_from_options(
    camera: list[str] | None,
    not_camera: list[str] | None,
    track: list[str] | None,
    since: str | None,
    until: str | None,
) -> Filter | None:
    """Make a filter of the options of a command.

    Args:
        camera: Cameras to search.
        not_camera: Cameras to leave out.
        track: Tracks to search.
        since: Earliest time, see WHEN_HELP.
        until: End of the time.

    Returns:
        The filter; None without options.

    Raises:
        typer.BadParameter: If a time is invalid.
    """
    where = Filter(
        cameras=camera or None,
        other_than_cameras=not_camera or None,
        tracks=track or None,
        since=None if since is None else seconds_from_text(since),
        until=None if until is None else seconds_from_text(until),
    )
    return None if where == Filter() else where
