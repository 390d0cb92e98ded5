"""Problem: one finding of the doctor, with its severity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""Severities, the most severe first. Only errors decide the exit code."""


@dataclass(frozen=True)
class Problem:
    """One finding about a repository or a server.

    Attributes:
        subject: What has the problem, for example "person_gender/model.plan".
        fault: What is wrong with it; continues the subject as a sentence.
        remedy: What to do about it.
        severity: "error" if a deployed model will not load or answers wrongly;
            "warning" if that depends on how it is operated; "note" for what is not
            wrong and still good to know.
    """

    subject: str
    fault: str
    remedy: str
    severity: Severity = "error"

    def __str__(self) -> str:
        return f"{self.subject}: {self.fault}; {self.remedy}"
