"""Rules of the whole tree: imports, lint, types, and what the wheel holds."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import typer.main
from importlinter.api import read_configuration

import builders.commands  # noqa: F401 - registers the commands
import loadtest.__main__  # noqa: F401 - registers the commands
from builders.commands.app import app as builders_app
from builders.repository.layout import ROOT
from loadtest.app import app as loadtest_app

PRIVATE = re.compile(r"personserve(?:\.\w+)*\._\w")
"""A module of the client whose name starts with an underscore."""


def _lint_imports(config: Path) -> subprocess.CompletedProcess[str]:
    program = "from importlinter.cli import lint_imports_command as run; run()"
    return subprocess.run(
        [sys.executable, "-c", program, "--no-cache", "--config", str(config)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'client'}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_keep_the_contracts() -> None:
    """The contracts are in pyproject.toml: who may import whom."""
    done = _lint_imports(ROOT / "pyproject.toml")
    assert done.returncode == 0, (
        f"{done.stdout}{done.stderr}\nA module imports only folders below its own in "
        "the list of [tool.importlinter] in pyproject.toml: move the code that both "
        "need to the lower folder, or pass it as an argument."
    )


def test_an_import_upwards_is_noticed(tmp_path: Path) -> None:
    """The line in reverse order: now every import of a lower folder is an offence."""
    contracts = read_configuration()["contracts_options"]
    (steps,) = (c for c in contracts if c.get("containers") == ["builders"])
    layers = "\n  ".join(reversed(steps["layers"]))
    path = tmp_path / "reversed.ini"
    path.write_text(
        "[importlinter]\nroot_package = builders\n"
        "[importlinter:contract:1]\nname = reversed\ntype = layers\n"
        f"containers = builders\nlayers =\n  {layers}\n",
        encoding="utf-8",
    )
    done = _lint_imports(path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "builders.build is not allowed to import builders.verify" in done.stdout


def _private_imports(source: str) -> list[str]:
    """Return the private modules of the client that a module imports."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in names if PRIVATE.match(name)]


def test_underscores_of_the_client_are_private() -> None:
    places = [ROOT / name for name in ("builders", "ensembles", "loadtest")]
    places += [p for p in (ROOT / "tests").iterdir() if p.name != "client"]
    paths = [path for place in places for path in (place, *place.rglob("*.py"))]
    users = {
        str(path.relative_to(ROOT)): names
        for path in paths
        if path.suffix == ".py"
        and (names := _private_imports(path.read_text(encoding="utf-8")))
    }
    assert users == {}, (
        "modules of the client that start with an underscore are its own: import the "
        "name from personserve, or move what others need to personserve.internal"
    )


@pytest.mark.parametrize(
    "source",
    [
        "from personserve._wire import grpc",
        "from personserve._wire.grpc import GrpcTransport",
        "from personserve import _errors",
        "import personserve._wire.grpc",
        "def f():\n    from personserve.images._x import y",
    ],
)
def test_an_import_of_a_private_module_is_noticed(source: str) -> None:
    assert _private_imports(source)


def test_imports_of_public_modules_are_left_alone() -> None:
    source = "import personserve\nfrom personserve.images import crops as _crops"
    assert not _private_imports(source)


PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not {".venv", "build", ".pytest_cache"} & set(path.relative_to(ROOT).parts)
)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)")
COMMAND = re.compile(r"python -m (builders|loadtest) ([a-z][a-z0-9-]*)")
TARGET = re.compile(r"(?:^|`)make ([a-z]+)", re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_have_a_target(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = page.parent / path if path else page
        name = page.relative_to(ROOT)
        assert target.exists(), f"{name} links to {path}, which does not exist"
        if anchor:
            anchors = ", ".join(sorted(_anchors(target)))
            message = f"{name} links to {path}#{anchor}; {path or name} has: {anchors}"
            assert anchor in _anchors(target), message


def test_commands_in_pages_exist() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for package, main in (("builders", builders_app), ("loadtest", loadtest_app)):
        known = set(typer.main.get_command(main).commands)
        named = {command for name, command in COMMAND.findall(text) if name == package}
        assert named
        assert named <= known, (
            f"pages name python -m {package} {', '.join(sorted(named - known))}, which "
            f"does not exist; commands are: {', '.join(sorted(known))}"
        )
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    unknown = set(TARGET.findall(text)) - targets
    assert not unknown, f"pages name make targets that Makefile lacks: {unknown}"


HEAVY = ("faiss", "matplotlib", "onnx", "onnxruntime", "scipy", "sklearn", "torch")


def test_a_machine_with_tensorrt_alone_can_run_the_commands() -> None:
    """NVIDIA's container has none of these: they are imported where they are used."""
    program = (
        f"import sys; [sys.modules.__setitem__(name, None) for name in {HEAVY}];"
        "from builders.commands.app import app; app(['build', '--help'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (
        f"{done.stderr}\nImport {', '.join(HEAVY)} inside the functions that use them: "
        "a machine with TensorRT alone has none of them."
    )


def test_the_wheel_holds_the_client_alone(tmp_path: Path) -> None:
    # from a copy, because setuptools puts what it left in build/ into the wheel
    project = tmp_path / "project"
    shutil.copytree(ROOT / "client", project / "client")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, project)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--wheel-dir", str(tmp_path), str(project)),
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
    ("command", "advice"),
    [
        (["ruff", "check"], "ruff explains a rule: ruff rule E501; ruff check --fix"),
        (["ruff", "format", "--check"], "make format"),
        (["mypy"], "annotate what the message names; the settings are strict"),
    ],
    ids=["ruff check", "ruff format", "mypy"],
)
def test_lint_and_types(command: list[str], advice: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{advice}"
