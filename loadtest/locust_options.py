"""Options that our users, shapes, thresholds and reports add to Locust's own."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loadtest.errors import LoadTestError
from loadtest.measurements import Run
from loadtest.options import HTTP_ADDRESS, METRICS_ADDRESS
from loadtest.shapes import SHAPES


def add_options(parser: ArgumentParser) -> None:
    """Add the options to Locust's command line and web page.

    Args:
        parser: Locust's parser, or any other to print the help.
    """
    # Locust's page then offers the user classes and the shapes to choose from
    parser.set_defaults(class_picker=True)
    group = parser.add_argument_group("personserve")
    add = group.add_argument

    def add_to_page(*names: str, **settings: Any) -> None:
        _show_on_page(add(*names, **settings))

    _add_shape_option(add)
    _add_load_options(add_to_page)
    _add_threshold_options(add)
    _add_report_options(add)


def _show_on_page(action: Any) -> None:
    """Mark an option for Locust's page, as Locust's parser does outside of groups."""
    action.include_in_web_ui = True
    action.is_secret = action.is_required = action.is_multiple = False


def _add_shape_option(add: Callable[..., Any]) -> None:
    add(
        "--shape",
        choices=list(SHAPES),
        default="steady",
        help="Number of users over the run time: steady, ramp (up in four steps), "
        "spike (all users for a fifth of the time, else a fifth of them), soak (70 %% "
        "of them after a short start). Default: steady. The live page has a menu for "
        "it instead.",
    )


def _add_load_options(add: Callable[..., Any]) -> None:
    add(
        "--people",
        type=int,
        default=8,
        metavar="COUNT",
        help="People per call of every user class but Camera (default: 8).",
    )
    add(
        "--model",
        default="",
        metavar="NAME",
        help="Model that FrameEnsemble and Camera ask (default: person_attributes; "
        "`personserve models` lists those that take frames).",
    )
    add(
        "--fps",
        type=float,
        default=5.0,
        metavar="RATE",
        help="Frames per second of each Camera (default: 5).",
    )
    add(
        "--probe-s",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="Before cameras start, measure the server's throughput for this long, and "
        "warn if the cameras will send more (default: 2; 0 to skip).",
    )
    add(
        "--video",
        default="",
        metavar="FILE",
        help="Video to take frames from (default: a 1080p photograph).",
    )
    add(
        "--shared-memory",
        action="store_true",
        help="Hand tensors over in system shared memory; the server must be on this "
        "machine.",
    )
    add(
        "--call-timeout-s",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="Deadline of a call (default: 30).",
    )


def _add_threshold_options(add: Callable[..., Any]) -> None:
    add(
        "--max-p99-ms",
        type=float,
        default=0.0,
        metavar="MS",
        help="Fail if the p99 of an entry is above this (default 0: no limit).",
    )
    add(
        "--max-error-rate",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="Fail if a greater share of requests fails (default: 0.01).",
    )
    add(
        "--max-behind",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="Fail if a greater share of camera frames starts late (default 1: no "
        "limit).",
    )


def _add_report_options(add: Callable[..., Any]) -> None:
    add(
        "--report",
        default="",
        metavar="FOLDER",
        help="Write a report (JSON, Markdown, HTML) to this folder.",
    )
    add(
        "--against",
        type=_check_report,
        default="",
        metavar="FILE",
        help="report.json of an earlier run to compare with (needs --report).",
    )
    add(
        "--http",
        default=HTTP_ADDRESS,
        metavar="HOST:PORT",
        help=f"HTTP address, for server statistics in the report ({HTTP_ADDRESS}).",
    )
    add(
        "--metrics",
        default=METRICS_ADDRESS,
        metavar="HOST:PORT",
        help="Metrics address, for CPU and GPU utilisation in the report "
        f"({METRICS_ADDRESS}).",
    )
    add(
        "--label",
        default="",
        metavar="TEXT",
        help="Note for the report, for example a branch name.",
    )


def _check_report(path: str) -> str:
    """Refuse an unreadable report at the start, not after the run."""
    if path:
        try:
            Run.load(Path(path))
        except LoadTestError as exc:
            raise ArgumentTypeError(str(exc)) from exc
    return path
