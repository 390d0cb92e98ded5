"""Counters and gauges of the supervisor, in the text format of Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Callable

PREFIX = "personserve_"

Labels = tuple[tuple[str, str], ...]

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Metrics:
    """Values by name and labels. Threads may use it concurrently.

    Attributes:
        sources: Functions whose text is appended to the page, for values that live
            elsewhere. Each must return quickly; one that raises OSError is left out.
    """

    def __init__(self) -> None:
        self.sources: list[Callable[[], str]] = []
        self._lock = threading.Lock()
        self._families: dict[str, tuple[str, str]] = {}
        self._values: dict[str, dict[Labels, float]] = {}

    def count(self, name: str, text: str, amount: float = 1, **labels: str) -> None:
        """Increase a counter.

        Args:
            name: Name of the counter without prefix and suffix, for example "restarts".
            text: What it counts, for the page.
            amount: What to add; 0 makes the counter appear on the page.
            labels: Labels of the value.
        """
        with self._lock:
            values = self._family(f"{PREFIX}{name}_total", "counter", text)
            key = tuple(sorted(labels.items()))
            values[key] = values.get(key, 0) + amount

    def set(self, name: str, text: str, value: float, **labels: str) -> None:
        """Set a gauge.

        Args:
            name: Name of the gauge without prefix, for example "ready".
            text: What it measures, for the page.
            value: The new value.
            labels: Labels of the value.
        """
        with self._lock:
            values = self._family(f"{PREFIX}{name}", "gauge", text)
            values[tuple(sorted(labels.items()))] = value

    def render(self) -> str:
        """Return the page."""
        lines = []
        with self._lock:
            for name, (kind, text) in self._families.items():
                lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
                lines += [
                    f"{name}{_braces(labels)} {value:g}"
                    for labels, value in self._values[name].items()
                ]
        pages = ["\n".join([*lines, ""])]
        for source in self.sources:
            try:
                pages.append(source())
            except OSError:
                continue
        return "".join(pages)

    def _family(self, name: str, kind: str, text: str) -> dict[Labels, float]:
        self._families.setdefault(name, (kind, text))
        return self._values.setdefault(name, {})


def _braces(labels: Labels) -> str:
    if not labels:
        return ""
    inner = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels)
    return f"{{{inner}}}"
