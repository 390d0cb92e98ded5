"""The jobs that every baseline is given: crops, and the people in a frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.baselines.in_process import CROPS, GENDER, Bytes, Floats, Networks
from loadtest.baselines.work import FRAME_JOB, GENDER_JOB, pack_frame
from loadtest.errors import LoadTestError
from loadtest.frames import encoded_tensor, make_jpeg_frame, place_boxes
from personserve.images.crops import CropShape

Result = tuple[Floats, ...]
"""Probabilities [N, 1]; for a frame also embeddings [N, dimension]."""

Send = Callable[["Job"], Result]
"""Sends a job to a server, and returns its result."""

RTOL, ATOL = 1e-3, 1e-4


@dataclass(frozen=True)
class Job:
    """One request: crops, or a frame with boxes.

    Attributes:
        name: Its name in reports.
        people: Number of people in it.
        crops: UINT8 [people, height, width, 3], or None for a frame.
        jpeg: The frame; empty for crops.
    """

    name: str
    people: int
    crops: Bytes | None = None
    jpeg: bytes = b""

    @property
    def boxes(self) -> Floats:
        """Boxes of the people in the frame, FP32 [people, 4]."""
        return place_boxes(self.people)

    @property
    def body_name(self) -> str:
        """Name of the job at a baseline server."""
        return FRAME_JOB if self.crops is None else GENDER_JOB

    def run(self, networks: Networks) -> Result:
        """Run the job in this process.

        Args:
            networks: The networks to run.
        """
        if self.crops is not None:
            return (networks.classify_gender(self.crops),)
        return networks.describe_people(self.jpeg, self.boxes)

    def to_body(self) -> bytes:
        """Return the body of a baseline server's request."""
        if self.crops is not None:
            return self.crops.tobytes()
        return pack_frame(self.jpeg, self.boxes)

    def result_from_body(self, body: bytes) -> Result:
        """Return the result in a baseline server's response.

        Args:
            body: The response.
        """
        values = np.frombuffer(body, np.float32)
        gender = values[: self.people].reshape(-1, 1)
        if self.crops is not None:
            return (gender,)
        return gender, values[self.people :].reshape(self.people, -1)

    def to_tensors(self) -> dict[str, Any]:
        """Return the inputs of a Triton model; an encoded frame is UINT8 [bytes]."""
        if self.crops is not None:
            return {CROPS: self.crops}
        return {"encoded_frame": encoded_tensor(self.jpeg), "boxes": self.boxes}


def make_jobs(people: int, networks: Networks) -> list[Job]:
    """Return one crop, eight crops, and a frame.

    Args:
        people: Number of people in the frame.
        networks: The networks, whose crop size is used.
    """
    crops = _random_crops(8, networks.specs[GENDER].crop)
    return [
        Job("one crop", 1, crops[:1]),
        Job("8 crops", 8, crops),
        Job(f"frame of {people}", people, jpeg=make_jpeg_frame()),
    ]


def _random_crops(count: int, shape: CropShape) -> Bytes:
    rng = np.random.default_rng(0)
    size = (count, shape.height, shape.width, 3)
    return rng.integers(0, 256, size, dtype=np.uint8)


def find_difference(system: str, job: Job, result: Result, expected: Result) -> float:
    """Return the largest difference of a result from the networks' own.

    Args:
        system: Name of the system for the error message.
        job: The job.
        result: What the system returned.
        expected: What the networks return in this process.

    Raises:
        LoadTestError: If the shapes differ.
    """
    shapes, wanted = ([array.shape for array in each] for each in (result, expected))
    if shapes != wanted:
        raise LoadTestError(
            f"{system} returns shapes {shapes} for {job.name}, expected {wanted}: is "
            "it the same network?"
        )
    return max(
        float(np.abs(values - right).max())
        for values, right in zip(result, expected, strict=True)
    )


def check_result(system: str, job: Job, result: Result, expected: Result) -> None:
    """Check a system's result against the networks' own.

    Args:
        system: Name of the system for the error message.
        job: The job.
        result: What the system returned.
        expected: What the networks return in this process.

    Raises:
        LoadTestError: If the results differ.
    """
    for values, wanted in zip(result, expected, strict=True):
        same_shape = values.shape == wanted.shape
        if not same_shape or not np.allclose(values, wanted, RTOL, ATOL):
            raise LoadTestError(
                f"{system} returns another result than the networks for {job.name}; "
                "are its models built from the same files?"
            )
