"""The figures about following people, from answers that are known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from loadtest.tracks import (
    TrackedVideo,
    ask_about_all,
    ask_with_policy,
    compare_runs,
    count_flips,
    tabulate,
)
from personserve import Client, Infer, MockTransport

FRAMES = 24


@pytest.fixture
def people(tmp_path: Path) -> TrackedVideo:
    """Two people who do not move; boxes of different people are the same in turns."""
    path = tmp_path / "v.avi"
    fourcc = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), fourcc, 10, (128, 128))
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    for _ in range(FRAMES):
        writer.write(noise)
    writer.release()
    boxes = np.float32([[4, 8, 60, 120], [70, 8, 120, 120]])
    numbers = [[1, 2]] * (FRAMES // 2) + [[3, 4]] * (FRAMES // 2)
    return TrackedVideo(path, 10.0, [boxes] * FRAMES, numbers)


def test_people_flips_and_agreement_are_counted(people: TrackedVideo) -> None:
    answers = 0

    def answer(request: Infer) -> dict[str, np.ndarray]:
        """Answer right for the first person; change with each answer for the second."""
        nonlocal answers
        boxes = np.asarray(request.inputs["boxes"])
        answers += 1
        second = 0.6 if answers % 2 else 0.3
        vectors = np.zeros((len(boxes), 512), np.float32)
        vectors[:, answers % 2] = 1
        return {
            "female_probability": np.float32(
                [[0.9 if box[0] < 10 else second] for box in boxes]
            ),
            "embedding": vectors,
        }

    with Client(transport=MockTransport(answer), abstain_below=0.6) as client:
        chosen = ask_with_policy(client, people)
        everything = ask_about_all(client, people)
    figures = compare_runs(people, chosen, everything)
    assert (figures.frames, figures.boxes, figures.tracks) == (FRAMES, 48, 4)
    assert (figures.people, figures.requests) == (8, 4)
    assert figures.requests_for_all == FRAMES
    assert figures.flips_for_all == 2 * (FRAMES // 2 - 1)
    assert figures.flips == 2, "the second answer of each second person"
    # the mean of 0.6 and 0.3 is 0.445: both are undecided about the second person
    assert (figures.agreement, figures.decided) == (1, 0.5)
    assert figures.decided_agreement == 1
    assert figures.similarity == pytest.approx(1)
    rows = {row[0]: row for row in tabulate(figures).rows}
    assert rows["people asked about"][1:] == ["48", "8", "6.0 x fewer"]


def test_unknown_labels_are_no_flips() -> None:
    assert count_flips([None, "a", "a", None, "a", "b", None, "a"]) == 2
    assert count_flips([]) == 0
