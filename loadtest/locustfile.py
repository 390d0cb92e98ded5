r"""Locust configuration: users, load shapes, thresholds and a report.

    locust -f loadtest/locustfile.py --headless -H grpc://127.0.0.1:8001 \
        -u 2 -t 60 --fps 2 --shape ramp --max-p99-ms 800 Camera

Users: GenderCrops, ReidCrops and FrameEnsemble send the next request when the previous
one returns; Camera sends a fixed number of frames per second. The scheme of -H chooses
gRPC or HTTP. Exit code 1 if a threshold is exceeded. Without --headless, Locust serves
a live page; --master and --worker spread the load over processes. --report writes the
same report as `python -m loadtest perf`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from locust import events
from locust.env import Environment
from locust.runners import WorkerRunner

from loadtest.capacity import check_camera_rate, check_models
from loadtest.locust_options import add_options
from loadtest.locust_report import Recorder
from loadtest.shapes import Ramp, Soak, Spike, Steady, set_shape
from loadtest.thresholds import Thresholds
from loadtest.users import (
    Camera,
    FrameEnsemble,
    GenderCrops,
    ReidCrops,
    set_frame_model,
)
from personserve import PersonServeError

USERS = (Camera, FrameEnsemble, GenderCrops, ReidCrops)
SHAPES = (Ramp, Soak, Spike, Steady)

events.init_command_line_parser.add_listener(add_options)
events.test_start.add_listener(check_camera_rate)


@events.init.add_listener  # type: ignore[untyped-decorator]
def configure(environment: Environment, **_: Any) -> None:
    """Check the server, and apply --model, --shape and --report.

    Args:
        environment: Locust's environment.
    """
    options: Any = environment.parsed_options
    if options.model:
        set_frame_model(environment.user_classes, options.model)
    if options.headless and not isinstance(environment.runner, WorkerRunner):
        try:
            check_models(environment.host or "", environment.user_classes)
        except PersonServeError as exc:
            print(f"error: {exc}", file=sys.stderr, flush=True)  # noqa: T201
            sys.exit(1)
    set_shape(environment, options.shape)
    if options.report:
        Recorder(environment)


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def judge(environment: Environment, **_: Any) -> None:
    """Set the exit code by --max-p99-ms, --max-error-rate and --max-behind.

    Args:
        environment: Locust's environment at the end of the run.
    """
    options: Any = environment.parsed_options
    Thresholds(options.max_p99_ms, options.max_error_rate, options.max_behind).judge(
        environment
    )


@events.quit.add_listener  # type: ignore[untyped-decorator]
def exit_at_once(exit_code: int, **_: Any) -> None:
    """End the process: gRPC under gevent would keep it; all reports are written.

    Args:
        exit_code: Exit code of the process.
    """
    os._exit(exit_code)
