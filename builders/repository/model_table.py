"""Tables of models in README pages, rendered from declarations and verifications."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from builders.repository.layout import ROOT
from builders.repository.verified import read_verified
from builders.spec.catalogue import catalogue
from builders.spec.model import Model
from builders.tensors import Tensor
from personserve.internal import markdown
from personserve.internal.files import write_text

BEGIN = "<!-- models: rendered by `python -m builders render` -->\n"
END = "<!-- models: end -->\n"


def render_model_tables(
    pages: Mapping[Path, Callable[[], str]] | None = None, *, check: bool = False
) -> list[Path]:
    """Write the table of models between the two marks of each page.

    Args:
        pages: Function that makes the table, by page; None for the pages of this
            project.
        check: Write nothing.

    Returns:
        The pages that were written, or with `check` those that are stale.
    """
    changed = []
    for path, make_table in (PAGES if pages is None else pages).items():
        text = path.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        rendered = f"{before}{BEGIN}{make_table()}\n{END}{after}"
        if rendered != text:
            changed.append(path)
            if not check:
                write_text(path, rendered)
    return changed


def format_short_table() -> str:
    """Return the table of the front page: what each model takes, gives and costs."""
    rows = [
        [
            f"[`{model.name}`](builders/models/README.md)" + _note(model),
            _tensors(model.inputs),
            _tensors(model.output_tensors),
            *_costs(model),
        ]
        for model in _networks()
    ]
    head = ["model", "input", "output", "parameters", "GMACs"]
    return markdown.format_table(head, rows, numbers=False)


def format_full_table() -> str:
    """Return the table beside the declarations: sources, licences, verifications."""
    rows = [
        [
            f"[`{model.name}`]({model.name}.py)" + _note(model),
            *_costs(model),
            _cite(model),
            model.source.licence,
            _list_verified(read_verified(model.name)),
        ]
        for model in _networks()
    ]
    head = ["model", "parameters", "GMACs", "source", "licence", "verified"]
    return markdown.format_table(head, rows, numbers=False)


PAGES: Mapping[Path, Callable[[], str]] = {
    ROOT / "README.md": format_short_table,
    ROOT / "builders" / "models" / "README.md": format_full_table,
}
"""Pages of this project with a table of models."""


def _networks() -> list[Model]:
    return [model for model in catalogue().values() if isinstance(model, Model)]


def _note(model: Model) -> str:
    return " (on request)" if model.on_request else ""


def _costs(model: Model) -> list[str]:
    macs = model.summary.total_macs
    return [
        f"{model.summary.parameter_count / 1e6:.2f} M",
        f"{macs / 1e9:.3f}" if macs > 500_000 else "< 0.001",
    ]


def _cite(model: Model) -> str:
    source = model.source
    name = f"[{source.name}]({source.url})" if source.url else source.name
    return f"{name}, {source.paper}" if source.paper else name


def _tensors(tensors: Sequence[Tensor]) -> str:
    return ", ".join(
        f"`{t.name}` {t.data_type} [N, {', '.join(str(d) for d in t.shape)}]"
        for t in tensors
    )


def _list_verified(verified: Mapping[str, Mapping[str, Any]]) -> str:
    """For example "ONNX Runtime 1.31.1 fp32; TensorRT 8.6.0 fp16 (NVIDIA H200)"."""
    precisions: dict[tuple[str, str], list[str]] = {}
    for key, facts in verified.items():
        where = f" ({facts['gpu']})" if facts["gpu"] else ""
        precisions.setdefault((facts["by"], where), []).append(key.split()[1])
    return "; ".join(
        f"{by} {', '.join(names)}{where}" for (by, where), names in precisions.items()
    )
