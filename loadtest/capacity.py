"""The capacity of a server, compared with the frames that cameras will send.

A camera sends its frames whatever the server does, so a rate that the server does not
reach makes every frame late, and the figures say nothing but that. A short closed loop
of frames before the run tells.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from locust import User
from locust.env import Environment
from locust.runners import WorkerRunner

from loadtest.measurements import count_noun
from loadtest.scenes import MEAN_SCENE_PEOPLE, Scenes
from loadtest.users import DEFAULT_ADDRESS, Camera, PersonServeUser
from personserve import Client, PersonServeError, Retry
from personserve.internal.closed_loop import run_closed_loop

PROBE_PEOPLE = 4
PROBE_CALLERS = 4
"""Frames in flight during the probe, enough for a few cores or one GPU."""

BUSY_SHARE = 0.8
"""Above this share of the capacity, frames queue: crowds come at random."""

log = logging.getLogger(__name__)


def check_models(address: str, users: Sequence[type[User]]) -> None:
    """Check that a server runs the models of these user classes.

    Args:
        address: Address of the server, with its scheme.
        users: User classes; only those of `loadtest.users` are looked at.

    Raises:
        PersonServeError: If the server does not answer or does not run a model.
    """
    models = {u.model for u in users if issubclass(u, PersonServeUser) and u.model}
    with Client(address or DEFAULT_ADDRESS, retry=Retry(attempts=1)) as client:
        for model in sorted(models):
            client.describe(model)


def check_camera_rate(environment: Environment, **_: Any) -> None:
    """Log whether the cameras of a run fit the server; a listener of `test_start`.

    Does nothing without cameras, in a worker process, or with --probe-s 0.

    Args:
        environment: Locust's environment.
    """
    options: Any = environment.parsed_options
    cameras = _count_cameras(environment.user_classes, options.num_users or 1)
    is_worker = isinstance(environment.runner, WorkerRunner)
    if is_worker or not cameras or not options.probe_s:
        return
    try:
        with Client(environment.host or DEFAULT_ADDRESS) as client:
            model = options.model or Camera.model
            people_per_s = measure_capacity(client, options.probe_s, model)
    except PersonServeError as exc:
        log.error("no capacity known, because the probe failed: %s", exc)  # noqa: TRY400
        return
    message, fits = compare_with_capacity(cameras, options.fps, people_per_s)
    log.log(logging.INFO if fits else logging.WARNING, message)
    # the time of the probe is not part of the run
    environment.stats.clear_all()
    if environment.shape_class is not None:
        environment.shape_class.reset_time()


def measure_capacity(
    client: Client, seconds: float, model: str = Camera.model
) -> float:
    """Return the people/s that a server answers in frames of PROBE_PEOPLE people.

    Args:
        client: A client of the server.
        seconds: How long to measure.
        model: Name of the model that takes the frames.

    Raises:
        PersonServeError: If the server does not answer.
    """
    scenes, rng = Scenes.from_video(None), np.random.default_rng(0)
    frame, boxes = scenes.frames[0], scenes.draw_boxes(rng, PROBE_PEOPLE)

    def send() -> None:
        client.attributes(frame, boxes, model=model)

    times_s, elapsed_s = run_closed_loop(send, PROBE_CALLERS, seconds)
    return len(times_s) * PROBE_PEOPLE / elapsed_s


def compare_with_capacity(
    cameras: int, fps: float, people_per_s: float
) -> tuple[str, bool]:
    """Return a message about cameras and a server's capacity, and whether they fit.

    Args:
        cameras: Number of cameras.
        fps: Frames per second of each.
        people_per_s: What the server answers (measure_capacity).
    """
    demand = cameras * fps * MEAN_SCENE_PEOPLE
    total_fps = BUSY_SHARE * people_per_s / MEAN_SCENE_PEOPLE
    message = (
        f"{count_noun(cameras, 'camera', 'cameras')} with {fps:g} frames/s will send "
        f"{demand:.0f} people/s; this server answers about {people_per_s:.0f} people/s"
    )
    fits = demand <= BUSY_SHARE * people_per_s
    if not fits:
        message += (
            f". Frames will be late: let all cameras together send at most "
            f"{total_fps:.1f} frames/s, for example -u 1 --fps {total_fps:.1f}"
        )
    return message, fits


def _count_cameras(users: Sequence[type[User]], count: int) -> int:
    """Return how many of `count` users are cameras, by the weights of their classes."""
    weights = {user: user.fixed_count or user.weight for user in users}
    share = sum(w for user, w in weights.items() if issubclass(user, Camera))
    return round(count * share / max(1, sum(weights.values()))) if share else 0
