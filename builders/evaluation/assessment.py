"""Result of an evaluation protocol, ready to be written as a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from personserve.internal.sections import Section


@dataclass(frozen=True)
class Assessment:
    """Metrics, sections of the report, and files that a protocol computes.

    Attributes:
        headline: Metrics that runs are compared by; None where one is undefined.
        numbers: All results, as JSON values.
        sections: Tables, texts, plots and photographs of the report, in their order.
        files: Further text files by name.
    """

    headline: Mapping[str, float | None]
    numbers: Mapping[str, Any]
    sections: Sequence[Section]
    files: Mapping[str, str] = field(default_factory=dict)
