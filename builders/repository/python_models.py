"""Python and CUDA files of the repository, rendered from their sources in this tree.

Triton's Python backend puts a model's version folder on `sys.path`, so a rendered
file imports its neighbours by their bare names. The sources import each other by their
full names, which type checkers understand; rendering rewrites those lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from builders.repository.layout import ROOT
from builders.spec.ensemble import Declaration, PythonModel
from builders.spec.model import Network
from builders.tensors import SpecError

RUNTIMES = Path(__file__).with_name("runtimes")
COMMON_MODULES = tuple(
    RUNTIMES / name for name in ("deadlines.py", "pause_watchdog.py", "refusals.py")
)
"""Modules that every Python model needs."""

NETWORK_SOURCES: Mapping[str, Path] = {
    "cpu_model.py": RUNTIMES / "cpu_model.py",
    "cpu_session.py": RUNTIMES / "cpu_session.py",
    "failures.py": RUNTIMES / "failures.py",
    "plan_model.py": RUNTIMES / "plan_model.py",
    "engine.py": ROOT / "builders" / "tensorrt" / "engine.py",
    **{path.name: path for path in COMMON_MODULES},
}
"""Files that run a network in the Python backend, for the targets cpu and rtx."""

PACKAGE_ROOTS = (ROOT / "client", ROOT)


def render_python_files(declaration: Declaration) -> Iterator[tuple[str, str]]:
    """Yield (file name, text) of the source files in a declaration's version folder.

    Args:
        declaration: A network, Python model or ensemble.

    Raises:
        SpecError: A source imports a module of ours that is not rendered too.
    """
    sources: dict[str, Path] = {}
    if isinstance(declaration, Network):
        sources = dict(NETWORK_SOURCES)
    elif isinstance(declaration, PythonModel):
        sources = {"model.py": declaration.model_file}
        modules = (*declaration.modules, *COMMON_MODULES)
        sources |= {path.name: path for path in modules}
    for name, path in sources.items():
        yield name, _rendered_text(path, sources.values())


def _rendered_text(path: Path, siblings: Iterable[Path]) -> str:
    text = path.read_text(encoding="utf-8")
    for sibling in siblings if path.suffix == ".py" else ():
        text = text.replace(
            f"from {_module_name(sibling)} import", f"from {sibling.stem} import"
        )
    for line in text.splitlines():
        if line.startswith(("from builders", "from personserve", "from ensembles")):
            raise SpecError(
                f"{path.relative_to(ROOT)}: {line.strip()!r} cannot work on a server, "
                "which has none of our packages; add that file to the model's modules"
            )
    source = path.relative_to(ROOT)
    comment = "#" if path.suffix == ".py" else "//"
    how = f"Rendered by `python -m builders render` from {source}; edit that file."
    return f"{comment} {how}\n{text}"


def _module_name(path: Path) -> str:
    for root in PACKAGE_ROOTS:
        if path.is_relative_to(root):
            return ".".join(path.relative_to(root).with_suffix("").parts)
    raise SpecError(f"{path} is outside the project, so it cannot be rendered")
