"""What a protocol concludes from answers and labels, before it is written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Assessment:
    """`headline` is what runs are compared by; `numbers` everything, for JSON; `text`
    Markdown sections by title; `plots` and `pictures` (BGR) by file stem; `files` are
    further texts by file name.
    """

    headline: Mapping[str, float | None]
    numbers: Mapping[str, Any]
    text: Mapping[str, str]
    plots: Mapping[str, Figure] = field(default_factory=dict)
    pictures: Mapping[str, Pixels] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


def figure(width: float = 5.0, height: float = 4.2) -> Figure:
    """An empty figure of one plot, in inches, that needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
