"""A model's declaration with other batching, as a diff. The file is only read."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SPEC = "builders.spec"


class DeclarationError(RuntimeError):
    """A declaration that has no place for it; says what to write."""


def batching_diff(model: str, fields: Mapping[str, Any], root: Path = ROOT) -> str:
    """What makes `fields` part of `model`'s Batching, for `git apply` in `root`."""
    name = f"builders/models/{model}.py"
    path = root / name
    if not path.is_file():
        raise DeclarationError(f"{name} is not there: {model} has no declaration here")
    old = path.read_text(encoding="utf-8")
    new = _with_batching(old, fields, name)
    lines = difflib.unified_diff(
        old.splitlines(keepends=True),
        new.splitlines(keepends=True),
        f"a/{name}",
        f"b/{name}",
    )
    return "".join(lines)


def _with_batching(text: str, fields: Mapping[str, Any], name: str) -> str:
    tree = ast.parse(text)
    call = _declaration(tree)
    if call is None or call.end_lineno is None:
        wanted = _written({}, fields)
        raise DeclarationError(f"{name} has no MODEL = ...(...): give it {wanted}")
    lines = text.splitlines(keepends=True)
    known = next((w.value for w in call.keywords if w.arg == "batching"), None)
    if isinstance(known, ast.Call) and known.end_lineno is not None:
        given = {
            word.arg: ast.literal_eval(word.value)
            for word in known.keywords
            if word.arg
        }
        first, last = known.lineno - 1, known.end_lineno - 1
        head, tail = (
            lines[first][: known.col_offset],
            lines[last][known.end_col_offset :],
        )
        lines[first : last + 1] = [f"{head}{_written(given, fields)}{tail}"]
    else:
        written = f"    batching={_written({}, fields)},\n"
        lines.insert(call.end_lineno - 1, written)
        _import(tree, lines)
    return "".join(lines)


def _declaration(tree: ast.Module) -> ast.Call | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            (target, *_) = node.targets
            if isinstance(target, ast.Name) and target.id == "MODEL":
                return node.value
    return None


def _written(given: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    """Batching(...) with what differs from its defaults, which are None and ()."""
    values = {**given, **fields}
    words = [f"{k}={v!r}" for k, v in values.items() if v is not None and v != ()]
    return f"Batching({', '.join(words)})"


def _import(tree: ast.Module, lines: list[str]) -> None:
    """Import Batching, too."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == SPEC:
            names = sorted({alias.name for alias in node.names} | {"Batching"})
            last = node.end_lineno or node.lineno
            lines[node.lineno - 1 : last] = [f"from {SPEC} import {', '.join(names)}\n"]
            return
    imports = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    lines.insert(imports[-1].end_lineno or 0, f"from {SPEC} import Batching\n")
