"""Problems of the server's Python: packages that deployed models import."""

from __future__ import annotations

import ast
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

from builders.doctor.problem import Problem
from builders.repository.layout import ONNX_FILE, Repository
from builders.repository.runtimes.cpu_session import ONNX_RUNTIME
from builders.serve.errors import ServeError
from builders.serve.wheel import check_wheel
from builders.spec.ensemble import Declaration, PythonModel
from builders.spec.model import Network

PROVIDED_BY_TRITON = "triton_python_backend_utils"


def find_package_problems(
    deployed: Sequence[Declaration], repository: Repository
) -> Iterator[Problem]:
    """Find packages that Python models import and that this Python lacks.

    The server's Python backend runs in this Python when the server is started here.
    Runtimes of plans are checked with the plans.

    Args:
        deployed: Deployed models.
        repository: Repository that they are in.

    Yields:
        One problem per missing package, and one if the wheel's server cannot run.
    """
    users = _users_by_module(deployed, repository)
    for module, models in sorted(users.items()):
        if find_spec(module) is None:
            extra = "openvino" if module == "openvino" else "server-side"
            yield Problem(
                ", ".join(models),
                f"cannot load: the Python module {module} is not installed",
                f'pip install -e ".[{extra}]" for the Python of the server',
            )
    if users and shutil.which("tritonserver") is None and find_spec("pytriton"):
        try:
            check_wheel()
        except ServeError as exc:
            yield Problem("tritonserver of the wheel", "cannot run", str(exc))


def find_container_needs(
    deployed: Sequence[Declaration], repository: Repository, container: str
) -> Iterator[Problem]:
    """Name the packages that NVIDIA's container lacks and that Python models import.

    Args:
        deployed: Deployed models.
        repository: Repository that they are in.
        container: Month of the container, for the message.

    Yields:
        One note, or nothing if no deployed model imports a package.
    """
    users = _users_by_module(deployed, repository)
    if users:
        yield Problem(
            f"container {container}",
            f"its Python has no {', '.join(sorted(users))}, which "
            f"{', '.join(sorted(set(chain(*users.values()))))} import",
            "install them in the image: pip install --require-hashes -r "
            "requirements/server-side.txt",
            "note",
        )


def _users_by_module(
    deployed: Sequence[Declaration], repository: Repository
) -> dict[str, list[str]]:
    """Return the names of the models that import each third-party module."""
    users: dict[str, list[str]] = {}
    for declaration in deployed:
        for module in _imported_modules(declaration, repository):
            users.setdefault(module, []).append(declaration.name)
    return users


def _imported_modules(declaration: Declaration, repository: Repository) -> set[str]:
    """Return the modules that a built model imports on the server."""
    if isinstance(declaration, PythonModel):
        folder = repository.artefact_path(declaration.name, "")
        files = sorted(folder.glob("*.py"))
        # without the packages of its form for a GPU a model works on the CPU
        optional = {file.stem for file in files if file.stem.startswith("gpu_")}
        needed = [file for file in files if file.stem not in optional]
        return _imports_of(needed) - optional
    if isinstance(declaration, Network):
        path = repository.artefact_path(declaration.name, ONNX_FILE)
        record = repository.record(path)
        if record is not None:
            return {"numpy", record.get("runtime", ONNX_RUNTIME)}
    return set()


def _imports_of(files: Sequence[Path]) -> set[str]:
    """Return the third-party packages that files import."""
    modules: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.partition(".")[0])
    known = {file.stem for file in files} | {PROVIDED_BY_TRITON}
    return modules - known - set(sys.stdlib_module_names)
