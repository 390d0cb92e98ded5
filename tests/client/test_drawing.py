"""Annotated frames: labels that do not cover each other, and no numbers."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from personserve import (
    Client,
    InvalidInputError,
    MockTransport,
    annotate,
    describe_mock_models,
)
from personserve.images import drawing
from personserve.images.drawing import place_labels

IMAGE_WH = (1280, 720)


def _common_area(first: drawing.Corners, second: drawing.Corners) -> int:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(0, width) * max(0, height)


def _crowd(count: int, seed: int) -> list[drawing.Corners]:
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, [1200, 600], (count, 2))
    extent = rng.integers([20, 60], [80, 200], (count, 2))
    boxes = np.hstack([corner, corner + extent]).clip(0, [*IMAGE_WH, *IMAGE_WH])
    return [tuple(box) for box in boxes.tolist()]


@pytest.mark.parametrize("count", [2, 10, 40, 120])
def test_labels_of_a_crowd_do_not_overlap(count: int) -> None:
    for seed in range(3):
        boxes = _crowd(count, seed)
        note = (0, 700, *IMAGE_WH)
        labels = place_labels(boxes, [(88, 20)] * count, IMAGE_WH, [note])
        for first, second in itertools.combinations([note, *labels], 2):
            assert _common_area(first, second) == 0
        for x0, y0, x1, y1 in labels:
            assert 0 <= x0 < x1 <= IMAGE_WH[0]
            assert 0 <= y0 < y1 <= IMAGE_WH[1]


def test_a_single_label_is_above_its_box_or_inside_the_image() -> None:
    assert place_labels([(100, 100, 150, 300)], [(60, 20)], IMAGE_WH) == [
        (100, 80, 160, 100)
    ]
    for box in [(0, 0, 20, 40), (1270, 0, 1280, 30), (1270, 700, 1280, 720)]:
        ((x0, y0, x1, y1),) = place_labels([box], [(60, 20)], IMAGE_WH)
        assert (x0, y0) >= (0, 0)
        assert x1 <= IMAGE_WH[0]
        assert y1 <= IMAGE_WH[1]


def test_labels_in_a_full_image_are_drawn_all_the_same() -> None:
    labels = place_labels([(0, 0, 30, 30)] * 9, [(28, 14)] * 9, (30, 30))
    assert len(labels) == 9
    assert place_labels([], [], (30, 30)) == []


def test_people_are_drawn_into_a_copy(
    photograph: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str] = []
    draw_text = drawing.draw_text
    monkeypatch.setattr(
        drawing, "draw_text", lambda *args: (texts.append(args[1]), draw_text(*args))
    )
    boxes = [[20, 5, 300, 500], [310, 60, 500, 500]]
    people = Client(transport=MockTransport()).attributes(photograph, boxes)
    before = photograph.copy()
    image = annotate(photograph, people)
    np.testing.assert_array_equal(photograph, before)
    assert (image.shape, image.dtype) == (photograph.shape, np.uint8)
    assert (image != photograph).any()
    assert texts == ["female 0.64", "male 0.73"] == people.labels()
    assert not any(text[0].isdigit() or "#" in text for text in texts)

    texts.clear()
    path = tmp_path / "frame.png"
    cv2.imwrite(str(path), photograph)
    annotate(path, people, ["id 7", "id 9"])
    assert texts == ["id 7", "id 9"]


def test_an_image_of_untrained_weights_says_so(photograph: np.ndarray) -> None:
    models = describe_mock_models(stand_in_weights=["person_gender"])
    boxes = [[20, 5, 300, 500]]
    untrained = Client(transport=MockTransport(models=models))
    image = annotate(photograph, untrained.attributes(photograph, boxes))
    trained = Client(transport=MockTransport())
    other = annotate(photograph, trained.attributes(photograph, boxes))
    rows = np.flatnonzero((image != other).any(axis=(1, 2)))
    assert rows.min() > 480, "a note at the bottom"
    assert rows.max() == 511
    empty = annotate(photograph, untrained.attributes(photograph, []))
    np.testing.assert_array_equal(empty[-5:, 0], image[-5:, 0])


def test_what_cannot_be_drawn_is_refused(photograph: np.ndarray) -> None:
    client = Client(transport=MockTransport())
    people = client.attributes(photograph, [[20, 5, 300, 500]])
    with pytest.raises(InvalidInputError, match=r"expected 1 labels, .* got 2"):
        annotate(photograph, people, ["a", "b"])
    with pytest.raises(InvalidInputError, match="person 0 has no box"):
        annotate(photograph, client.attributes_of_crops([photograph]))
