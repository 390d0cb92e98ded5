"""Published vulnerabilities of the tritonserver that would serve, or that serves."""

from __future__ import annotations

from collections.abc import Iterator

from builders.doctor.problem import Problem
from builders.serve.vulnerabilities import (
    AS_OF,
    FREE_FROM,
    known_vulnerabilities,
    release_from_version,
    version_from_release,
)
from builders.serve.wheel import find_triton_version


def find_vulnerabilities(container: str | None = None) -> Iterator[Problem]:
    """List the published vulnerabilities of a Triton release.

    Args:
        container: Month of NVIDIA's Triton container, for example "26.08"; None for the
            tritonserver of this machine.

    Yields:
        One problem that names them all; none for a release without any, and where no
        tritonserver is found.
    """
    version = version_from_release(container) if container else find_triton_version()
    if version is None:
        return
    present = known_vulnerabilities(version)
    if present:
        names = ", ".join(each.cve.removeprefix("CVE-") for each in present)
        yield Problem(
            f"Triton {release_from_version(version) or version}",
            f"{len(present)} published vulnerabilities as of {AS_OF}: CVE {names}",
            f"use release {FREE_FROM} or later; SECURITY.md says what each allows and "
            "what serve does about them",
            "warning",
        )
