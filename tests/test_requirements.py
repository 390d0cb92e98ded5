"""The locked set of the server side: complete, hashed, and one with the constraints."""

from __future__ import annotations

import ast
import re
import sys
from runpy import run_path

from builders.repository.layout import ROOT, Repository

PACKAGES = {
    "cv2": "opencv-python-headless",
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "simplejpeg": "simplejpeg",
}
"""Package of each module that a Python model imports for the default targets."""

ELSEWHERE = {"openvino", "triton_python_backend_utils"}
"""Modules of an optional runtime and of Triton itself."""

GPU_FILES = {
    "engine.py",
    "gpu_crops.py",
    "gpu_decoding.py",
    "gpu_lane.py",
    "plan_model.py",
}
"""Files for GPUs, whose libraries come with the image or from NVIDIA's index."""


def _locked() -> dict[str, str]:
    text = (ROOT / "requirements" / "server-side.txt").read_text(encoding="utf-8")
    entries = re.findall(
        r"^(\S+)==(\S+) \\\n((?:    --hash=sha256:\S+.*\n?)+)", text, re.MULTILINE
    )
    assert len(entries) == len(re.findall(r"^[a-z]", text, re.MULTILINE)), "hashes"
    return {name: version for name, version, _ in entries}


def test_the_locked_set_has_what_the_python_models_import() -> None:
    imported: set[str] = set()
    own: set[str] = set()
    for path in Repository().root.glob("*/1/*.py"):
        own.add(path.stem)
        if path.name in GPU_FILES:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    imported -= own | ELSEWHERE | set(sys.stdlib_module_names)
    assert imported == set(PACKAGES)
    assert set(PACKAGES.values()) <= set(_locked())


def test_the_locked_versions_are_those_that_the_tests_ran_with() -> None:
    text = (ROOT / "requirements" / "constraints.txt").read_text(encoding="utf-8")
    tested = dict(re.findall(r"^(\S+)==(\S+)$", text, re.MULTILINE))
    locked = _locked()
    assert {name: tested[name] for name in locked} == locked


def test_security_lists_the_locked_versions() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    table = text.partition("## Libraries of the server side")[2].partition("\n## ")[0]
    missing = {n: v for n, v in _locked().items() if v not in table}
    assert missing == {}


def test_uv_gets_the_settings_of_pip() -> None:
    """As `pip config list` prints them: variables of the environment come first."""
    settings = (
        ":env:.find-links='/wheels'\n"
        ":env:.disable-pip-version-check='1'\n"
        "global.cert='/etc/ssl/certs/ca.crt'\n"
        "global.extra-index-url='file:///one file:///two'\n"
        "global.find-links='/a /b'\n"
        "global.index-url='https://example.org/simple'\n"
    )
    path = ROOT / "requirements" / "install.py"
    assert run_path(str(path))["uv_environment"](settings) == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_DEFAULT_INDEX": "https://example.org/simple",
        "UV_FIND_LINKS": "/wheels",
        "UV_INDEX": "file:///one file:///two",
        "SSL_CERT_FILE": "/etc/ssl/certs/ca.crt",
    }
