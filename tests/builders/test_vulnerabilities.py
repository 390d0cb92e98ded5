"""The table of Triton's published vulnerabilities, and what shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from builders.doctor import vulnerabilities as doctor
from builders.repository.layout import ROOT
from builders.serve.vulnerabilities import (
    BULLETINS,
    FREE_FROM,
    VULNERABILITIES,
    known_vulnerabilities,
    release_from_version,
    render_table,
    summarise_vulnerabilities,
    version_from_release,
)
from builders.serve.wheel import find_triton_version


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ("2.51.0", "24.10"),
        ("2.54.0", "25.01"),
        ("2.59.0", "25.06"),
        ("2.59.1", "25.07"),
        ("2.60.0", "25.08"),
        ("2.66.0", "26.02"),
        ("2.72.0", "26.08"),
        ("2.73.0", "26.09"),
    ],
)
def test_versions_are_months(version: str, release: str) -> None:
    assert release_from_version(version) == release
    assert version_from_release(release) == version


@pytest.mark.parametrize("version", ["2.50.0", "3.0", "unknown"])
def test_an_unknown_version_has_them_all(version: str) -> None:
    assert release_from_version(version) is None
    assert len(known_vulnerabilities(version)) == len(VULNERABILITIES)


def test_each_release_has_those_that_are_fixed_later() -> None:
    def cves(release: str) -> set[str]:
        return {e.cve for e in known_vulnerabilities(version_from_release(release))}

    assert "CVE-2025-23311" in cves("25.06")
    assert "CVE-2025-23311" not in cves("25.07")
    assert "CVE-2026-24207" in cves("26.02")
    assert cves(FREE_FROM) == set()
    assert known_vulnerabilities("2.51.0")[0].score == 9.8, "the worst first"


def test_one_line_says_how_many_and_which_release_has_none() -> None:
    line = summarise_vulnerabilities("2.51.0")
    assert line.startswith(f"Triton 2.51.0 (24.10): {len(VULNERABILITIES)} published")
    assert f"release {FREE_FROM} is the first without them" in line
    assert "\n" not in line
    assert "no published vulnerability" in summarise_vulnerabilities(
        version_from_release(FREE_FROM)
    )


def test_the_table_is_complete_and_on_the_security_page() -> None:
    cves = [each.cve for each in VULNERABILITIES]
    assert len(set(cves)) == len(cves)
    assert all(re.fullmatch(r"CVE-20\d\d-\d{4,6}", cve) for cve in cves)
    assert {each.fixed_in for each in VULNERABILITIES} == set(BULLETINS)
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert render_table() in page, "copy render_table() into SECURITY.md"


def test_the_doctor_lists_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (problem,) = doctor.find_vulnerabilities("25.10")
    assert problem.severity == "warning"
    assert "2026-24207" in problem.fault
    assert "2025-23311" not in problem.fault
    assert list(doctor.find_vulnerabilities("26.08")) == []
    server = tmp_path / "bin" / "tritonserver"
    server.parent.mkdir()
    server.touch(mode=0o755)
    (tmp_path / "TRITON_VERSION").write_text("2.66.0\n")
    monkeypatch.setenv("PATH", str(server.parent))
    assert find_triton_version() == "2.66.0", "as NVIDIA's container says"
    (problem,) = doctor.find_vulnerabilities()
    assert problem.subject == "Triton 26.02"
