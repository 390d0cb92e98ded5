"""Drawing of boxes with labels that do not cover each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from personserve.images.crops import Pixels

Colour = tuple[int, int, int]
"""Blue, green and red, 0 to 255."""

Corners = tuple[int, int, int, int]
"""A rectangle (x0, y0, x1, y1) in whole pixels."""

FONT = cv2.FONT_HERSHEY_SIMPLEX
WHITE = (255, 255, 255)
PADDING = 2
"""Pixels between a text and the edge of its strip."""

GRID_STEPS = 24
"""Positions that are tried along each axis if a label's usual ones are taken."""


@dataclass(frozen=True)
class LabelledBox:
    """A box to be drawn.

    Attributes:
        corners: (x0, y0, x1, y1) in pixels.
        text: Text of the label; characters outside ASCII are drawn as question marks.
        colour: Colour of the box and of the label's background.
    """

    corners: tuple[float, float, float, float]
    text: str
    colour: Colour


def draw_labelled_boxes(
    image: Pixels, boxes: Sequence[LabelledBox], note: str = ""
) -> None:
    """Draw boxes into an image, each with a label.

    Args:
        image: UINT8 [H, W, 3] in BGR order; it is changed.
        boxes: The boxes.
        note: Text at the bottom of the image, over its whole width.
    """
    scale = max(0.4, min(image.shape[:2]) / 1100)
    thickness = max(1, round(scale * 2))
    rectangles = [_round(box.corners, image) for box in boxes]
    for box, (x0, y0, x1, y1) in zip(boxes, rectangles, strict=True):
        cv2.rectangle(image, (x0, y0), (x1, y1), box.colour, thickness)
    height, width = image.shape[:2]
    taken: list[Corners] = []
    if note:
        taken.append((0, height - measure_text(note, scale)[1], width, height))
    sizes = [measure_text(box.text, scale) for box in boxes]
    labels = place_labels(rectangles, sizes, (width, height), taken)
    for box, rectangle, label in zip(boxes, rectangles, labels, strict=True):
        if _is_apart(label, rectangle):
            start, stop = _nearest_points(label, rectangle)
            cv2.line(image, start, stop, box.colour, thickness, cv2.LINE_AA)
    for box, label in zip(boxes, labels, strict=True):
        draw_text(image, box.text, label, scale, box.colour)
    if note:
        draw_text(image, note, taken[0], scale, (30, 30, 200))


def measure_text(text: str, scale: float) -> tuple[int, int]:
    """Return width and height of a text with its padding in pixels.

    Args:
        text: The text.
        scale: Size of the font; 1 is a letter of about 22 pixels.

    Returns:
        (width, height).
    """
    (width, height), base = cv2.getTextSize(text, FONT, scale, _stroke(scale))
    return width + 2 * PADDING, height + base + PADDING


def draw_text(
    image: Pixels, text: str, strip: Corners, scale: float, colour: Colour
) -> None:
    """Draw white text on a coloured strip.

    Args:
        image: UINT8 [H, W, 3] in BGR order; it is changed.
        text: The text.
        strip: The strip, at least as large as measure_text returns.
        scale: Size of the font.
        colour: Colour of the strip.
    """
    x0, y0, x1, y1 = strip
    stroke = _stroke(scale)
    _, base = cv2.getTextSize(text, FONT, scale, stroke)
    cv2.rectangle(image, (x0, y0), (x1 - 1, y1 - 1), colour, cv2.FILLED)
    origin = (x0 + PADDING, y1 - base)
    cv2.putText(image, text, origin, FONT, scale, WHITE, stroke, cv2.LINE_AA)


def place_labels(
    boxes: Sequence[Corners],
    sizes: Sequence[tuple[int, int]],
    image_wh: tuple[int, int],
    taken: Sequence[Corners] = (),
) -> list[Corners]:
    """Place labels near their boxes, inside the image, and not over each other.

    Labels are placed from the top of the image to its bottom: at the first free
    position of some around the box, otherwise at the nearest free position of a grid.
    If there is none, because the image is full, labels overlap as little as possible.

    Args:
        boxes: The boxes in pixels.
        sizes: Width and height of each label in pixels.
        image_wh: Width and height of the image in pixels.
        taken: Rectangles that labels must not cover.

    Returns:
        The rectangle of each label, in the order of the boxes.
    """
    placed = list(taken)
    labels: dict[int, Corners] = {}
    for index in sorted(range(len(boxes)), key=lambda i: (boxes[i][1], boxes[i][0])):
        near = _clip_all(_positions_near(boxes[index], sizes[index]), image_wh)
        label = _first_free(near, placed)
        if label is None:
            grid = _grid_by_distance(near[0], sizes[index], image_wh)
            label = _first_free(grid, placed)
        if label is None:
            label = min(near, key=lambda each: _overlap_areas([each], placed).sum())
        placed.append(label)
        labels[index] = label
    return [labels[index] for index in range(len(boxes))]


def _positions_near(box: Corners, size: tuple[int, int]) -> Iterator[Corners]:
    """Yield positions of a label around a box, the best first."""
    x0, y0, x1, y1 = box
    width, height = size
    for x, y in (
        (x0, y0 - height),  # above
        (x1 - width, y0 - height),
        (x0, y0),  # inside, at the top
        (x1 - width, y0),
        (x0, y1),  # below
        (x1 - width, y1),
        (x0, y1 - height),  # inside, at the bottom
        (x1 - width, y1 - height),
        (x1, y0),  # at the right and at the left
        (x0 - width, y0),
    ):
        yield x, y, x + width, y + height


def _clip_all(labels: Iterator[Corners], image_wh: tuple[int, int]) -> list[Corners]:
    """Move labels into the image; one that is wider starts at the left edge."""
    clipped = []
    for x0, y0, x1, y1 in labels:
        width, height = x1 - x0, y1 - y0
        x = max(0, min(x0, image_wh[0] - width))
        y = max(0, min(y0, image_wh[1] - height))
        clipped.append((x, y, x + width, y + height))
    return clipped


def _grid_by_distance(
    anchor: Corners, size: tuple[int, int], image_wh: tuple[int, int]
) -> list[Corners]:
    width, height = size
    steps = [
        np.unique(np.linspace(0, max(0, whole - part), GRID_STEPS).round().astype(int))
        for whole, part in zip(image_wh, size, strict=True)
    ]
    # rows of labels below each other use the space better than any other grid
    rows = np.unique(np.append(np.arange(0, steps[1][-1] + 1, height), steps[1]))
    x, y = (axis.ravel() for axis in np.meshgrid(steps[0], rows))
    order = np.argsort((x - anchor[0]) ** 2 + (y - anchor[1]) ** 2, kind="stable")
    points = zip(x[order].tolist(), y[order].tolist(), strict=True)
    return [(left, top, left + width, top + height) for left, top in points]


def _first_free(labels: list[Corners], placed: list[Corners]) -> Corners | None:
    free = _overlap_areas(labels, placed).sum(axis=1) == 0
    return labels[int(free.argmax())] if free.any() else None


def _overlap_areas(first: list[Corners], second: list[Corners]) -> npt.NDArray[Any]:
    """Return the common area of all pairs of rectangles in pixels, [N, M]."""
    a = np.array(first, np.int64).reshape(-1, 1, 4)
    b = np.array(second, np.int64).reshape(1, -1, 4)
    edges = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    areas: npt.NDArray[Any] = np.maximum(edges, 0).prod(axis=-1)
    return areas


def _round(corners: tuple[float, float, float, float], image: Pixels) -> Corners:
    height, width = image.shape[:2]
    x0, y0, x1, y1 = np.clip(corners, 0, (width, height, width, height)).round()
    return int(x0), int(y0), int(x1), int(y1)


def _is_apart(label: Corners, box: Corners) -> bool:
    """Return whether a label neither touches nor covers its box."""
    return bool(
        label[2] < box[0] or label[0] > box[2] or label[3] < box[1] or label[1] > box[3]
    )


def _nearest_points(
    first: Corners, second: Corners
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return points of two rectangles that are apart, close to each other."""
    x, y = (first[0] + first[2]) // 2, (first[1] + first[3]) // 2
    stop_x = max(second[0], min(x, second[2]))
    stop_y = max(second[1], min(y, second[3]))
    return (x, y), (stop_x, stop_y)


def _stroke(scale: float) -> int:
    return max(1, round(scale * 1.5))
