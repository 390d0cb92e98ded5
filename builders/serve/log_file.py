"""Triton's log: its errors, its last words, and the copy that outlives a run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

HARMLESS = (
    "DCGM",
    "NVML",
    "CudaDriverHelper",
    "CUDA memory pool disabled",
    "CUDA driver version is insufficient",
    "falling back to non-pinned system memory",
)
"""Lines that Triton prints as errors on every machine without a GPU."""

ROUTINE_LINE = re.compile(r"I\d{4} |[|+]|\s*\d+# 0x|\s*$")
"""Information, tables, stack frames without names, and empty lines of Triton's log."""

ERROR_LINE = re.compile(
    r"E\d{4} |.*(error:|unrecognized option|option '.*' requires an argument)",
    re.IGNORECASE,
)

OPTIONS_HINT = (
    "serve passes options that it does not know to tritonserver; "
    "see python -m builders serve --help, and tritonserver --help"
)

LAST_LINES = 12
"""Lines of the log that are printed after a failure."""


def read_errors(path: Path) -> Iterator[str]:
    """Yield the error lines of a log, without the harmless ones.

    Args:
        path: File of the log, which may be missing.
    """
    for line in _read_lines(path):
        if ERROR_LINE.match(line) and not any(word in line for word in HARMLESS):
            yield line


def read_last_lines(path: Path, count: int = LAST_LINES) -> list[str]:
    """Return the last warnings, errors and messages of a crash in a log.

    Args:
        path: File of the log, which may be missing.
        count: Largest number of lines.
    """
    lines = [
        line
        for line in _read_lines(path)
        if not ROUTINE_LINE.match(line) and not any(word in line for word in HARMLESS)
    ]
    return lines[-count:]


def describe_failure(path: Path, copy: Path, *, at_start: bool) -> str:
    """Copy the log of a failed run, and return its last lines and the copy's name.

    Args:
        path: File of the log.
        copy: File for the copy, which the next run does not overwrite.
        at_start: Whether the server was starting: then its errors say more than its
            last lines, which may be the rest of a usage text.
    """
    errors = list(read_errors(path))[-LAST_LINES:] if at_start else []
    lines = errors or read_last_lines(path) or ["its log holds no error"]
    if any("unrecognized option" in line for line in errors):
        lines = [*lines, OPTIONS_HINT]
    try:
        shutil.copyfile(path, copy)
        where = f"log kept as {copy}"
    except OSError as exc:
        where = f"log not kept: {exc}"
    return "\n".join(f"  {line}" for line in (*lines, where))


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
