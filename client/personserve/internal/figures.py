"""Matplotlib figures of reports: their form, their series, and marks on images."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Pixels = npt.NDArray[np.uint8]

WARNING_RGB = (0.75, 0.1, 0.1)
MARK_RGB = (0.4, 0.4, 0.4)
STRIP_PX = 18


def can_draw() -> bool:
    """Return whether matplotlib is installed; reports without it have no plots."""
    return find_spec("matplotlib") is not None


def new_figure(width_in: float = 6.5, height_in: float = 4.2) -> Figure:
    """Return an empty figure that needs no display.

    Args:
        width_in: Width in inches.
        height_in: Height in inches.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained")


def draw_series(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    label: str,
    *,
    low: Sequence[float] = (),
    high: Sequence[float] = (),
    notes: Sequence[str] = (),
    colour: str | None = None,
) -> None:
    """Draw measured points: with a line if there are several, with their spread.

    Args:
        axes: Where to draw.
        x: Positions.
        y: Values.
        label: Name of the series in the legend.
        low: Lower ends of the spread; empty without spread.
        high: Upper ends of the spread; empty without spread.
        notes: Text at each point; empty for none.
        colour: Colour of the series; None for the next one of these axes.
    """
    line = "-" if len(x) > 1 else "none"
    (drawn,) = axes.plot(x, y, linestyle=line, marker="o", label=label, color=colour)
    drawn_colour = drawn.get_color()
    if low and high:
        spread = [np.subtract(y, low).tolist(), np.subtract(high, y).tolist()]
        axes.errorbar(
            x, y, yerr=spread, fmt="none", ecolor=drawn_colour, alpha=0.5, capsize=3
        )
    for position, value, note in zip(x, y, notes, strict=False):
        axes.annotate(
            note,
            (position, value),
            textcoords="offset points",
            xytext=(4, 4),
            fontsize="small",
            color=drawn_colour,
        )


def place_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """Put one legend for all panels beside the data, so that it covers none.

    Args:
        figure: The figure.
        panels: The axes whose series are listed, each series once.
    """
    entries: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
        own_legend = axes.get_legend()
        if own_legend is not None:
            own_legend.remove()
    if entries:
        figure.legend(
            entries.values(), entries, loc="outside right upper", fontsize="small"
        )


def mark_figure(figure: Figure, text: str, *, is_warning: bool) -> None:
    """Write one line below a figure: its subject and its data.

    Args:
        figure: The figure.
        text: The line; empty for none.
        is_warning: Whether the line is a warning.
    """
    if text:
        colour = WARNING_RGB if is_warning else MARK_RGB
        weight = "bold" if is_warning else "normal"
        figure.supxlabel(text, fontsize=7, color=colour, weight=weight)


def mark_pixels(pixels: Pixels, text: str, *, is_warning: bool) -> Pixels:
    """Return an image with one line of text below it.

    Args:
        pixels: BGR pixels, UINT8 [height, width, 3].
        text: The line; empty for none.
        is_warning: Whether the line is a warning.

    Returns:
        BGR pixels, UINT8 [height + STRIP_PX, width, 3], or the same ones without text.
    """
    if not text:
        return pixels
    import cv2

    strip = np.full((STRIP_PX, pixels.shape[1], 3), 255, np.uint8)
    red, green, blue = WARNING_RGB if is_warning else MARK_RGB
    cv2.putText(
        strip,
        text,
        (3, STRIP_PX - 5),
        cv2.FONT_HERSHEY_SIMPLEX,
        0.4,
        (blue * 255, green * 255, red * 255),
        1,
        cv2.LINE_AA,
    )
    return np.concatenate([pixels, strip])
