"""Published vulnerabilities of Triton since 24.10, with the release that fixes each.

From NVIDIA's security bulletins (github.com/NVIDIA/product-security, one folder for
each bulletin), without those of the DALI backend and the MLflow plugin, which are not
used here. `serve`, `doctor` and SECURITY.md show this table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

AS_OF = "2026-11-24"
"""Day on which the bulletins were read; later ones are missing."""

BULLETINS = {
    "25.05": ("2025/5687",),
    "25.06": ("2025/5687",),
    "25.07": ("2025/5687",),
    "25.08": ("2025/5691",),
    "25.10": ("2025/5734",),
    "26.02": ("2026/5816",),
    "26.03": ("2026/5828",),
    "26.04": ("2026/5848", "2026/5875"),
    "26.05": ("2026/5853",),
    "26.06": ("2026/5865",),
    "26.07": ("2026/5875",),
}
"""Folders of the bulletins by the release that fixes their vulnerabilities."""


@dataclass(frozen=True)
class Vulnerability:
    """A published vulnerability of Triton.

    Attributes:
        cve: Its CVE id.
        fixed_in: First release without it, as in the container's tag: "25.07".
        score: Base score, CVSS 3.1.
        summary: What an attacker can do, and through what.
    """

    cve: str
    fixed_in: str
    score: float
    summary: str


VULNERABILITIES = tuple(
    Vulnerability(*fields)
    for fields in (
        ("CVE-2025-23323", "25.05", 7.5, "crash: integer overflow in a request"),
        ("CVE-2025-23324", "25.05", 7.5, "crash: integer overflow in a request"),
        ("CVE-2025-23325", "25.05", 7.5, "crash: unbounded recursion in an input"),
        ("CVE-2025-23326", "25.05", 7.5, "crash: integer overflow in an input"),
        ("CVE-2025-23327", "25.05", 7.5, "crash, altered data: integer overflow"),
        ("CVE-2025-23335", "25.05", 4.4, "crash: TensorRT backend, underflow"),
        ("CVE-2025-23322", "25.06", 7.5, "crash: stream cancelled before its turn"),
        ("CVE-2025-23331", "25.06", 7.5, "crash: excessive allocation by a request"),
        ("CVE-2025-23310", "25.07", 9.8, "code execution: stack overflow by an input"),
        ("CVE-2025-23311", "25.07", 9.8, "code execution: stack overflow by HTTP"),
        ("CVE-2025-23317", "25.07", 9.1, "code execution: HTTP server"),
        ("CVE-2025-23318", "25.07", 8.1, "code execution: Python backend, write"),
        ("CVE-2025-23319", "25.07", 8.1, "code execution: Python backend, write"),
        ("CVE-2025-23320", "25.07", 7.5, "leak: Python backend, names of its memory"),
        ("CVE-2025-23321", "25.07", 7.5, "crash: division by zero in a request"),
        ("CVE-2025-23333", "25.07", 5.9, "leak: Python backend, shared memory"),
        ("CVE-2025-23334", "25.07", 5.9, "leak: Python backend, read out of bounds"),
        ("CVE-2025-23316", "25.08", 9.8, "code execution: Python backend, model name"),
        ("CVE-2025-23328", "25.08", 7.5, "crash: write out of bounds by an input"),
        ("CVE-2025-23329", "25.08", 7.5, "crash: Python backend, shared memory"),
        ("CVE-2025-23336", "25.08", 4.4, "crash: a misconfigured model is loaded"),
        ("CVE-2025-33201", "25.10", 7.5, "crash: very large payloads"),
        ("CVE-2025-33211", "25.10", 7.5, "crash: a quantity that is not checked"),
        ("CVE-2026-24146", "26.02", 7.5, "crash: many outputs in a request"),
        ("CVE-2026-24173", "26.02", 7.5, "crash: malformed request"),
        ("CVE-2026-24174", "26.02", 7.5, "crash: malformed request"),
        ("CVE-2026-24175", "26.02", 7.5, "crash: malformed request header"),
        ("CVE-2026-24147", "26.02", 4.8, "leak, crash: uploaded configuration"),
        ("CVE-2026-24207", "26.03", 9.8, "code execution: authentication bypass"),
        ("CVE-2026-24209", "26.03", 7.5, "crash: path traversal"),
        ("CVE-2026-24210", "26.03", 7.5, "crash: integer overflow"),
        ("CVE-2026-24206", "26.03", 7.3, "more rights, leak: authentication bypass"),
        ("CVE-2026-24208", "26.03", 5.3, "crash: path traversal"),
        ("CVE-2026-24264", "26.04", 7.5, "memory: highly compressed data"),
        ("CVE-2026-47625", "26.04", 7.5, "leak, altered data: missing authorization"),
        ("CVE-2026-24266", "26.04", 5.9, "crash: use after free"),
        ("CVE-2026-47476", "26.05", 7.5, "exhaustion of resources"),
        ("CVE-2026-47477", "26.05", 7.5, "crash: stack overflow"),
        ("CVE-2026-47478", "26.05", 7.5, "crash: expired file descriptor"),
        ("CVE-2026-47479", "26.05", 7.5, "exhaustion of resources"),
        ("CVE-2026-47480", "26.05", 7.5, "crash: uncaught exception"),
        ("CVE-2026-47482", "26.05", 7.5, "memory that is never released"),
        ("CVE-2026-47481", "26.05", 6.5, "code execution: authentication bypass"),
        ("CVE-2026-47627", "26.06", 9.8, "crash: path traversal"),
        ("CVE-2026-47628", "26.06", 7.5, "exhaustion of resources"),
        ("CVE-2026-47629", "26.06", 7.5, "crash: an input that is not checked"),
        ("CVE-2026-47606", "26.06", 6.5, "code execution, leak: absolute path"),
        ("CVE-2026-47630", "26.06", 5.5, "code execution: absolute path, local users"),
        ("CVE-2026-16497", "26.07", 7.5, "excessive iteration"),
    )
)
"""The vulnerabilities of these bulletins, by release."""

FREE_FROM = max(each.fixed_in for each in VULNERABILITIES)
"""First release without any of them."""

FIRST_RELEASE = (51, 24 * 12 + 9)
PATCH_RELEASE = (59, 1)
"""Minor version and patch of 25.07, the only month without a minor version since."""


def release_from_version(version: str) -> str | None:
    """Return the monthly release of a Triton version, for example "24.10" of "2.51.0".

    Args:
        version: Version as the server reports it.

    Returns:
        The release; None for a version before 2.51 or of another form.
    """
    match = re.match(r"2\.(\d+)(?:\.(\d+))?", version)
    first_minor, first_month = FIRST_RELEASE
    if match is None or int(match[1]) < first_minor:
        return None
    minor, patch = int(match[1]), int(match[2] or 0)
    months = first_month + minor - first_minor
    months += (minor, patch) >= PATCH_RELEASE
    return f"{months // 12}.{months % 12 + 1:02}"


def version_from_release(release: str) -> str:
    """Return a Triton version of a monthly release, for example "2.51.0" of "24.10".

    Args:
        release: Month of NVIDIA's container, 24.10 or later.
    """
    year, month = map(int, release.split("."))
    months = year * 12 + month - 1
    first_minor, first_month = FIRST_RELEASE
    minor = first_minor + months - first_month
    patched, patch = PATCH_RELEASE
    if minor <= patched:
        return f"2.{minor}.0"
    return f"2.{minor - 1}.{patch if minor == patched + 1 else 0}"


def known_vulnerabilities(version: str) -> Sequence[Vulnerability]:
    """Return the published vulnerabilities that a Triton version has.

    Args:
        version: Version as the server reports it, for example "2.51.0".

    Returns:
        The vulnerabilities that a later release fixes, the worst first; all of the
        table for a version whose release is unknown.
    """
    release = release_from_version(version) or "0"
    present = [each for each in VULNERABILITIES if release < each.fixed_in]
    return sorted(present, key=lambda each: -each.score)


def summarise_vulnerabilities(version: str) -> str:
    """Return one line on the published vulnerabilities of a Triton version.

    Args:
        version: Version as the server reports it.
    """
    release = release_from_version(version)
    name = f"Triton {version}" + (f" ({release})" if release else "")
    present = known_vulnerabilities(version)
    if not present:
        return f"{name}: no published vulnerability known as of {AS_OF}"
    critical = sum(each.score >= 9 for each in present)
    return (
        f"{name}: {len(present)} published vulnerabilities (as of {AS_OF}), {critical} "
        f"of them critical; release {FREE_FROM} is the first without them, see "
        "SECURITY.md"
    )


def render_table() -> str:
    """Return the table of SECURITY.md: one row for each release that fixes some."""
    lines = [
        "| fixed in | vulnerabilities (CVSS score) | bulletin |",
        "|---|---|---|",
    ]
    for release, folders in BULLETINS.items():
        fixed = [each for each in VULNERABILITIES if each.fixed_in == release]
        names = "; ".join(f"{e.cve} ({e.score:g}) {e.summary}" for e in fixed)
        lines.append(f"| {release} | {names} | {', '.join(folders)} |")
    return "\n".join(lines) + "\n"
