"""Locust's users, shapes and thresholds: `locust -f loadtest/locustfile.py --help`.

    locust -f loadtest/locustfile.py --headless -H grpc://127.0.0.1:8001 \\
        -u 8 -t 60 --shape ramp --max-p99-ms 800 Camera

Users: GenderCrops, ReidCrops, FrameEnsemble (each asks again when it is answered), and
Camera (a fixed number of frames a second, whatever the server does). The scheme of -H
chooses gRPC or HTTP. It ends by itself with exit code 1 where a threshold was passed.
Without --headless Locust's page shows it live; --master and --worker spread it over
processes. --report writes what `python -m loadtest perf` writes, a fifth of the time
being a round, and --against compares it with an earlier one.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import grpc.experimental.gevent as grpc_gevent
import numpy as np
from locust import LoadTestShape, User, constant, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import WorkerRunner

from loadtest.locust_report import Recorder
from loadtest.scenes import Scenes
from personserve import Client, PersonServeError

# without it calls wait for each other, and the figures look fine
grpc_gevent.init_gevent()

logging.getLogger("httpx").setLevel(logging.WARNING)

CROP_HW = {"person_gender": (224, 224), "person_reid_kd_r18": (384, 128)}
BEHIND = ("camera", "frames behind")
"""Locust's entry for frames that a camera could not start in time."""

MOST_BEHIND_S = 1.0
"""A camera that is further behind leaves frames out, as live video does."""


@dataclass(frozen=True)
class Stage:
    """Until this share of the time, this share of the users."""

    until: float
    users: float


SHAPES: dict[str, tuple[Stage, ...]] = {
    "steady": (Stage(1.0, 1.0),),
    "ramp": (Stage(0.25, 0.25), Stage(0.5, 0.5), Stage(0.75, 0.75), Stage(1.0, 1.0)),
    "spike": (Stage(0.4, 0.2), Stage(0.6, 1.0), Stage(1.0, 0.2)),
    "soak": (Stage(0.02, 0.2), Stage(1.0, 0.7)),
}


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def options(parser: LocustArgumentParser) -> None:
    """What this load takes beside Locust's own options."""
    own = parser.add_argument_group("personserve")
    own.add_argument("--shape", choices=list(SHAPES), default="steady")
    own.add_argument("--people", type=int, default=8, help="Crops in a call.")
    own.add_argument("--fps", type=float, default=5.0, help="Frames/s of a camera.")
    own.add_argument("--video", default="", help="Take frames from this video.")
    own.add_argument("--shared-memory", action="store_true", help="Not the wire.")
    own.add_argument("--call-timeout-s", type=float, default=30.0)
    own.add_argument("--max-p99-ms", type=float, default=0.0, help="0: no limit.")
    own.add_argument("--max-error-rate", type=float, default=0.01)
    own.add_argument("--max-behind", type=float, default=1.0, help="Share of frames.")
    own.add_argument("--report", default="", help="Write a report to this folder.")
    own.add_argument("--against", default="", help="An earlier report.json.")
    own.add_argument("--http", default="127.0.0.1:8000", help="For a report.")
    own.add_argument("--metrics", default="127.0.0.1:8002", help="For a report.")
    own.add_argument("--label", default="", help="What else a report should say.")


class Shape(LoadTestShape):
    """--shape over the whole time (-t), scaled to -u users."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        runner: Any = self.runner
        given = runner.environment.parsed_options
        passed_s = float(self.get_run_time())  # type: ignore[no-untyped-call]
        share = passed_s / given.run_time if given.run_time else 0.0
        for stage in SHAPES[given.shape]:
            if share < stage.until:
                peak = given.num_users or 1
                # at once: a slow start is what the ramp is for
                return max(1, round(peak * stage.users)), peak
        return None


class PersonServeUser(User):
    """A client of its own, and a seeded source of load."""

    abstract = True
    wait_time = constant(0)
    _seeds: ClassVar[Iterator[int]] = iter(range(1 << 30))

    def on_start(self) -> None:
        given: Any = self.environment.parsed_options
        memory = "system" if given.shared_memory else None
        self.rng = np.random.default_rng([os.getpid(), next(self._seeds)])
        self.people: int = given.people
        self.client = Client(
            self.host or "grpc://127.0.0.1:8001",
            timeout_s=given.call_timeout_s,
            shared_memory=memory,  # type: ignore[arg-type]
        )

    def on_stop(self) -> None:
        self.client.close()

    @contextmanager
    def timed(self, name: str, people: int) -> Iterator[Callable[[int], None]]:
        """Report what happens inside as one request of `name` for so many `people`;
        told how many bytes of answers there were.
        """
        length = 0

        def answered(size: int) -> None:
            nonlocal length
            length = size

        began, error = time.perf_counter(), None
        try:
            yield answered
        except PersonServeError as exc:
            error = exc
        self.environment.events.request.fire(
            request_type=(self.host or "grpc").partition(":")[0],
            name=name,
            response_time=(time.perf_counter() - began) * 1e3,
            response_length=length,
            exception=error,
            context={"people": people},
        )


class _Crops(PersonServeUser):
    abstract = True
    model = ""

    def on_start(self) -> None:
        super().on_start()
        shape = (self.people, *CROP_HW[self.model], 3)
        self.crops = self.rng.integers(0, 256, shape, dtype=np.uint8)

    @task
    def ask(self) -> None:
        with self.timed(f"{self.model}, {self.people} crops", self.people) as answered:
            found = self.client.infer(self.model, crops=self.crops)
            answered(sum(array.nbytes for array in found.values()))


class GenderCrops(_Crops):
    """Ready crops to the gender network."""

    model = "person_gender"


class ReidCrops(_Crops):
    """Ready crops to the ReID network."""

    model = "person_reid_kd_r18"


class _Frames(PersonServeUser):
    abstract = True
    _scenes: ClassVar[Scenes | None] = None

    @property
    def scenes(self) -> Scenes:
        if _Frames._scenes is None:
            given: Any = self.environment.parsed_options
            video = Path(given.video) if given.video else None
            _Frames._scenes = Scenes.of_video(video)
        return _Frames._scenes


class FrameEnsemble(_Frames):
    """A JPEG with --people boxes, both networks, as fast as it is answered."""

    @task
    def ask(self) -> None:
        frame, _ = self.scenes.draw(self.rng)
        boxes = self.scenes.boxes(self.rng, self.people)
        with self.timed(f"frame, {self.people} people", self.people) as answered:
            answered(self.client.attributes(frame, boxes).embeddings.nbytes)


class Camera(_Frames):
    """--fps frames a second with as many people as scenes.py draws."""

    def on_start(self) -> None:
        super().on_start()
        given: Any = self.environment.parsed_options
        self.period_s = 1.0 / given.fps
        self.due = time.perf_counter() + self.rng.uniform(0, self.period_s)

    @task
    def look(self) -> None:
        time.sleep(max(0.0, self.due - time.perf_counter()))
        late_s = time.perf_counter() - self.due
        self._started(late_s)
        self.due += self.period_s
        while late_s > MOST_BEHIND_S:  # left out
            self._started(late_s)
            self.due += self.period_s
            late_s -= self.period_s
        frame, boxes = self.scenes.draw(self.rng)
        with self.timed("camera frame", len(boxes)) as answered:
            answered(self.client.attributes(frame, boxes).embeddings.nbytes)

    def _started(self, late_s: float) -> None:
        behind = late_s > self.period_s
        self.environment.events.request.fire(
            request_type=BEHIND[0],
            name=BEHIND[1],
            response_time=max(0.0, late_s) * 1e3,
            response_length=0,
            exception=TimeoutError("behind by a frame or more") if behind else None,
            context={},
        )


@events.init.add_listener  # type: ignore[untyped-decorator]
def watch(environment: Environment, **_: Any) -> None:
    """Count for a report, if one is wanted."""
    given: Any = environment.parsed_options
    if given and given.report:
        Recorder(environment)


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def judge(environment: Environment, **_: Any) -> None:
    """Set the exit code by the thresholds, on whoever has the statistics."""
    if isinstance(environment.runner, WorkerRunner):
        environment.process_exit_code = 0
        return
    broken = list(_broken(environment))
    for words in broken:
        # flushed, because `leave` ends the process at once
        print(f"threshold: {words}", flush=True)  # noqa: T201 - as Locust's reports
    environment.process_exit_code = 1 if broken else 0


@events.quit.add_listener  # type: ignore[untyped-decorator]
def leave(exit_code: int, **_: Any) -> None:
    """gRPC under gevent does not let the process end; all reports are written."""
    os._exit(exit_code)


def _broken(environment: Environment) -> Iterator[str]:
    given: Any = environment.parsed_options
    found = list(environment.stats.entries.values())
    entries = [entry for entry in found if (entry.method, entry.name) != BEHIND]
    behind = [entry for entry in found if (entry.method, entry.name) == BEHIND]
    requests = sum(entry.num_requests for entry in entries)
    failures = sum(entry.num_failures for entry in entries)
    if not requests:
        yield "there was not one request"
        return
    if failures / requests > given.max_error_rate:
        yield (
            f"error rate {failures / requests:.2%} of {requests}, over "
            f"{given.max_error_rate:.2%}"
        )
    for entry in entries:
        p99_ms = entry.get_response_time_percentile(0.99)
        if given.max_p99_ms and p99_ms > given.max_p99_ms:
            yield f"{entry.name}: p99 {p99_ms:.0f} ms, over {given.max_p99_ms:.0f}"
    for entry in behind:
        if entry.fail_ratio > given.max_behind:
            yield (
                f"{entry.fail_ratio:.1%} of {entry.num_requests} frames behind, over "
                f"{given.max_behind:.1%}"
            )
