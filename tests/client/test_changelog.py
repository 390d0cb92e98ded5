"""The changelog keeps up with the version and the public names."""

from __future__ import annotations

import re

import personserve
import personserve.gallery
from builders.repository.layout import ROOT

CHANGELOG = (ROOT / "client" / "CHANGELOG.md").read_text(encoding="utf-8")


def test_its_newest_version_is_the_projects() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (version,) = re.findall(r'^version = "(.+)"$', project, re.MULTILINE)
    newest = re.findall(r"^## \[(.+?)\] - ", CHANGELOG, re.MULTILINE)[0]
    assert newest == version == personserve.__version__


def test_names_of_its_code_exist() -> None:
    names = set(re.findall(r"`([A-Z][A-Za-z]+)`", CHANGELOG))
    gone = {"Class", "DeprecationWarning"}
    public = {*personserve.__all__, *personserve.gallery.__all__}
    assert names - gone <= public
    assert "Class" not in personserve.__all__
