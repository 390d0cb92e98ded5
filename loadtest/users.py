"""Locust users of the client, usable directly or as base classes of further users.

    from locust import task
    from loadtest.users import PersonServeUser

    class Visitor(PersonServeUser):
        @task
        def look(self):
            with self.measure("my call", people=1) as response:
                people = self.client.attributes(frame, boxes)
                response.size_bytes = people.embeddings.nbytes

Importing this module lets gRPC cooperate with gevent, which Locust runs on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import grpc.experimental.gevent as grpc_gevent
import numpy as np
import numpy.typing as npt
from locust import User, constant, task

from loadtest.camera_series import EMPTY, count_due_frame, count_frame
from loadtest.scenes import Scenes
from personserve import Client, PersonServeError

# without this, calls wait for each other, and the figures look fine nevertheless
grpc_gevent.init_gevent()

DEFAULT_ADDRESS = "grpc://127.0.0.1:8001"

MAX_BEHIND_S = 1.0
"""A camera that is further behind skips frames, as live video does."""


@dataclass
class Response:
    """A response, for Locust's statistics.

    Attributes:
        size_bytes: Its size; 0 if not reported.
    """

    size_bytes: int = 0


class PersonServeUser(User):
    """A user with its own client and its own seeded source of randomness.

    Options of the command line (locust_options) override the class attributes.

    Attributes:
        model: Name of the model under load; a report has its server-side times.
        call_timeout_s: Deadline of each call, in seconds.
        shared_memory: Whether tensors travel in system shared memory.
        client: The client.
        rng: The source of randomness.
    """

    abstract = True
    wait_time = constant(0)

    model: ClassVar[str] = ""
    call_timeout_s: float = 30.0
    shared_memory: bool = False

    _seeds: ClassVar[Iterator[int]] = iter(range(1 << 30))

    def option(self, name: str) -> Any:
        """Return an option of the command line, or else the attribute of that name.

        Args:
            name: For example "call_timeout_s".
        """
        return getattr(self.environment.parsed_options, name, getattr(self, name))

    def on_start(self) -> None:
        """Open the client."""
        memory: Literal["system"] | None = None
        if self.option("shared_memory"):
            memory = "system"
        self.rng = np.random.default_rng([os.getpid(), next(self._seeds)])
        self.client = Client(
            self.host or DEFAULT_ADDRESS,
            timeout_s=self.option("call_timeout_s"),
            shared_memory=memory,
        )

    def on_stop(self) -> None:
        """Close the client."""
        self.client.close()

    @contextmanager
    def measure(self, name: str, people: int) -> Iterator[Response]:
        """Report the block to Locust as one request.

        Args:
            name: Name of Locust's entry.
            people: Number of people in the request.

        Yields:
            The response, to report its size.
        """
        response, error = Response(), None
        start_s = time.perf_counter()
        try:
            yield response
        except PersonServeError as exc:
            error = exc
        self.environment.events.request.fire(
            request_type=(self.host or DEFAULT_ADDRESS).partition(":")[0],
            name=name,
            response_time=(time.perf_counter() - start_s) * 1e3,
            response_length=response.size_bytes,
            exception=error,
            context={"people": people, "model": self.model},
        )


class CropsUser(PersonServeUser):
    """A closed-loop user that sends random crops of the model's size.

    Attributes:
        people: Number of crops in a call.
    """

    abstract = True
    people: int = 8

    def on_start(self) -> None:
        """Open the client."""
        super().on_start()
        self.people = self.option("people")
        self._inputs: dict[str, npt.NDArray[np.uint8]] = {}

    def draw_inputs(self) -> dict[str, npt.NDArray[np.uint8]]:
        """Draw random crops of the size that the server states."""
        tensors = self.client.describe(self.model).inputs
        return {
            tensor.name: self.rng.integers(
                0, 256, (self.people, *tensor.shape), dtype=np.uint8
            )
            for tensor in tensors
        }

    @task
    def infer(self) -> None:
        """Send the crops, which are drawn once."""
        crops = f"{self.people} crop{'s' * (self.people != 1)}"
        with self.measure(f"{self.model}, {crops}", self.people) as response:
            self._inputs = self._inputs or self.draw_inputs()
            outputs = self.client.infer(self.model, self._inputs)
            response.size_bytes = sum(array.nbytes for array in outputs.values())


class GenderCrops(CropsUser):
    """Crops to the gender network, each call when the previous one returns."""

    model = "person_gender"


class ReidCrops(CropsUser):
    """Crops to the ReID network, each call when the previous one returns."""

    model = "person_reid_kd_r18"


class FramesUser(PersonServeUser):
    """A user that sends JPEG frames with boxes.

    The option --model names another model than the default one (set_frame_model).

    Attributes:
        video: Video to take frames from; empty for a 1080p photograph.
    """

    abstract = True
    model = "person_attributes"
    video: str = ""

    _scenes: ClassVar[dict[str, Scenes]] = {}

    @property
    def scenes(self) -> Scenes:
        """The scenes that all users of this process share."""
        video = self.option("video")
        if video not in self._scenes:
            self._scenes[video] = Scenes.from_video(Path(video) if video else None)
        return self._scenes[video]

    def describe_frame(
        self, name: str, frame: bytes, boxes: npt.NDArray[np.float32]
    ) -> None:
        """Send a frame, and report it to Locust.

        Args:
            name: Name of Locust's entry.
            frame: A JPEG file.
            boxes: FP32 [people, 4] in pixels.
        """
        with self.measure(name, len(boxes)) as response:
            people = self.client.attributes(frame, boxes, model=self.model)
            response.size_bytes = sum(each.nbytes for each in people.outputs.values())


def set_frame_model(users: Sequence[type[User]], model: str) -> None:
    """Let the users that send frames ask another model; reports name it, too.

    Args:
        users: User classes of a run.
        model: Name of a model that takes frames.
    """
    for user in users:
        if issubclass(user, FramesUser):
            user.model = model


class FrameEnsemble(FramesUser):
    """Frames with a fixed number of people, each when the previous one returns.

    Attributes:
        people: Number of people in a frame.
    """

    people: int = 8

    @task
    def send_frame(self) -> None:
        """Send one frame."""
        people = self.option("people")
        frame, _ = self.scenes.draw(self.rng)
        boxes = self.scenes.draw_boxes(self.rng, people)
        noun = "person" if people == 1 else "people"
        self.describe_frame(f"frame, {people} {noun}", frame, boxes)


class Camera(FramesUser):
    """A fixed number of frames per second with a random number of people.

    Frames that are due, start late or show no person have series of their own
    (camera_series); the requests are those that the server answered.

    Attributes:
        fps: Frames per second.
    """

    fps: float = 5.0

    def on_start(self) -> None:
        """Open the client, and start at a random moment."""
        super().on_start()
        self.period_s = 1.0 / self.option("fps")
        self.due_s = time.perf_counter() + self.rng.uniform(0, self.period_s)

    @task
    def send_due_frame(self) -> None:
        """Wait for the next frame, skip frames if far behind, and send one."""
        time.sleep(max(0.0, self.due_s - time.perf_counter()))
        late_s = time.perf_counter() - self.due_s
        self._count_due_frame(late_s)
        while late_s > MAX_BEHIND_S:
            self._count_due_frame(late_s)
            late_s -= self.period_s
        frame, boxes = self.scenes.draw(self.rng)
        if len(boxes):
            self.describe_frame("camera frame", frame, boxes)
        else:  # the client makes no request for it
            count_frame(self.environment.stats, EMPTY, late_s)

    def _count_due_frame(self, late_s: float) -> None:
        self.due_s += self.period_s
        count_due_frame(self.environment.stats, late_s, self.period_s)
