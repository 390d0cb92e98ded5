"""Rules of the whole tree: who imports whom, and what the wheel holds."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders.repository import ROOT

FOLDERS = {
    "personserve": ROOT / "client" / "personserve",
    "builders": ROOT / "builders",
    "ensembles": ROOT / "ensembles",
    "loadtest": ROOT / "loadtest",
}
MAY_IMPORT = {
    "personserve": set(),
    "builders": {"personserve"},
    "ensembles": {"personserve", "builders"},
    "loadtest": {"personserve"},
}


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("name", FOLDERS)
def test_import_order(name: str) -> None:
    paths = list(FOLDERS[name].rglob("*.py"))
    assert paths
    ours = {n for path in paths for n in _imports(path)} & set(FOLDERS)
    assert ours - {name} <= MAY_IMPORT[name]


HEAVY = ("faiss", "matplotlib", "onnx", "onnxruntime", "scipy", "sklearn", "torch")


def test_a_machine_with_tensorrt_alone_can_run_the_commands() -> None:
    """NVIDIA's container has none of these: they are imported where they are used."""
    program = (
        f"import sys; [sys.modules.__setitem__(name, None) for name in {HEAVY}];"
        "from builders.commands import app; app(['build', '--help'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_the_client_alone(tmp_path: Path) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--wheel-dir", str(tmp_path), str(ROOT)),
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("personserve-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "personserve/py.typed" in names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {
        "personserve"
    }


@pytest.mark.parametrize(
    "command",
    [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]],
    ids=["ruff check", "ruff format", "mypy"],
)
def test_lint_and_types(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
