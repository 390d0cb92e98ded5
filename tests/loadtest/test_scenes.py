"""The distribution of people, and boxes inside the frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loadtest import scenes


def test_people_are_drawn_as_stated() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([scenes.draw_people_count(rng) for _ in range(20_000)])
    assert np.mean(drawn == 0) == pytest.approx(scenes.EMPTY_SHARE, abs=0.01)
    assert np.mean(drawn >= scenes.CROWD[0]) == pytest.approx(
        scenes.CROWD_SHARE, abs=0.005
    )
    some = drawn[(drawn > 0) & (drawn < scenes.CROWD[0])]
    assert some.mean() == pytest.approx(scenes.MEAN_PEOPLE, abs=0.05)


def test_boxes_lie_in_the_frame(video: Path) -> None:
    frames = scenes.Scenes.from_video(video)
    assert len(frames.frames) == scenes.VIDEO_FRAMES
    assert (frames.height, frames.width) == (576, 768)
    boxes = frames.draw_boxes(np.random.default_rng(0), 500)
    assert boxes.shape == (500, 4)
    assert boxes.min() >= 0
    assert (boxes[:, 2] <= frames.width).all()
    assert (boxes[:, 3] <= frames.height).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
