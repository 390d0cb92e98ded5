"""Digest of what decides the content of a built file, besides weights and options.

A digest covers one model's operations with their geometry, its declared tensors, and
the code that translates operations to the file's format. Comments, docstrings and the
layout of that code do not count, and neither do other models.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from builders.repository.layout import ROOT
from builders.spec.model import Model, Network
from builders.weights import Origin, StandIn

GraphFormat = Literal["onnx", "plan", "parser"]
"""ONNX files; plans built from a model's operations; plans built from an ONNX file by
NVIDIA's parser."""

ONNX_SOURCES = ("ops/onnx.py", "ops/folding.py", "ops/placement.py")

EXPORTER_SOURCES: Mapping[GraphFormat, tuple[str, ...]] = {
    "onnx": ONNX_SOURCES,
    "plan": (
        "ops/folding.py",
        "ops/placement.py",
        "tensorrt/layers.py",
        "tensorrt/library.py",
        "tensorrt/network.py",
        "tensorrt/plan.py",
    ),
    "parser": (*ONNX_SOURCES, "tensorrt/library.py", "tensorrt/plan.py"),
}
"""Files below builders/ that translate a model's operations, by format."""

WRAPPER_SOURCES = ("build/onnx_pixels.py", "ops/onnx.py")
"""Files that put a normalisation in front of an imported file."""

STAND_IN_SOURCES = ("weights/standin.py",)


def graph_digest(
    model: Network,
    origin: Origin,
    graph_format: GraphFormat,
    folder: Path = ROOT / "builders",
) -> str:
    """Return the digest that a built file of `model` records.

    Args:
        model: Model that is built.
        origin: Where its weights come from; the code that makes stand-in weights
            counts only for them.
        graph_format: How the operations reach the file.
        folder: Folder of the sources.

    Returns:
        16 hexadecimal digits.
    """
    parts = [model.name, repr(model.inputs), repr(model.output_tensors)]
    sources: tuple[str, ...] = ()
    if isinstance(model, Model):
        recorder = RecordingOps()
        outputs = model.wire(recorder)
        parts += [*recorder.operations, repr(sorted(outputs.items()))]
        sources = EXPORTER_SOURCES[graph_format]
        if isinstance(origin, StandIn):
            sources += STAND_IN_SOURCES
        elif (published := model.source.weights) is not None:
            parts.append(_code_text(inspect.getsource(published.convert)))
    else:
        if graph_format != "onnx":
            sources = EXPORTER_SOURCES[graph_format]
        if model.wrapped_images:
            parts.append(repr(model.wrapped_images))
            sources += WRAPPER_SOURCES
    parts += [_code_text((folder / source).read_text("utf-8")) for source in sources]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


class RecordingOps:
    """Ops backend that records every operation with its arguments, as text."""

    def __init__(self) -> None:
        self.operations: list[str] = []

    def __getattr__(self, operation: str) -> Callable[..., _Value]:
        def record(*arguments: Any, **options: Any) -> _Value:
            text = f"{operation}{arguments!r}{sorted(options.items())!r}"
            self.operations.append(text)
            return _Value(len(self.operations))

        return record


class _Value:
    """Result of a recorded operation, identified by its number."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __repr__(self) -> str:
        return f"%{self._number}"


@cache
def _code_text(source: str) -> str:
    """Return the syntax tree of `source` as text, the same for every Python version."""
    return repr(_describe_syntax(ast.parse(source)))


def _describe_syntax(node: Any) -> Any:
    """Return `node` as nested tuples without positions, docstrings and empty fields."""
    if isinstance(node, list):
        return tuple(_describe_syntax(each) for each in node if not _is_text(each))
    if not isinstance(node, ast.AST):
        return node
    fields = (
        (name, _describe_syntax(value))
        for name, value in ast.iter_fields(node)
        # Python versions differ in which empty fields they have
        if value is not None and value != []
    )
    return (type(node).__name__, *fields)


def _is_text(node: Any) -> bool:
    """Return whether `node` is a docstring or the description of a constant."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
