"""The README's table of models, rendered from what is declared and verified."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from builders import markdown
from builders.catalogue import catalogue
from builders.repository import ROOT, Repository
from builders.spec import Model, Tensor
from personserve._files import write_text

README = ROOT / "README.md"
BEGIN = "<!-- models: rendered by `python -m builders render` -->\n"
END = "<!-- models: end -->\n"

HEAD = ["model", "input", "output", "parameters", "GMACs", "source", "licence"]


def render(
    repository: Repository, path: Path = README, *, check: bool = False
) -> list[Path]:
    """Write the table into `path` between its two marks, or with `check` only say
    whether it is stale. Returns what changed.
    """
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    fresh = f"{before}{BEGIN}{table(repository)}\n{END}{after}"
    if fresh == text:
        return []
    if not check:
        write_text(path, fresh)
    return [path]


def table(repository: Repository) -> str:
    """One row a model that has weights."""
    rows = []
    for model in catalogue().values():
        if not isinstance(model, Model):
            continue
        size, macs = model.survey.parameters, model.survey.total_macs
        rows.append(
            [
                f"[`{model.name}`](builders/models/{model.name}.py)"
                + (" (on request)" if model.on_request else ""),
                _tensors(model.inputs),
                _tensors(model.output_tensors),
                f"{size / 1e6:.2f} M",
                f"{macs / 1e9:.3f}" if macs > 500_000 else "< 0.001",
                model.source,
                model.licence.removeprefix("architecture: "),
                _verified(repository.verifications(model.name)),
            ]
        )
    return markdown.table([*HEAD, "verified"], rows, numbers=False)


def _tensors(tensors: Sequence[Tensor]) -> str:
    return ", ".join(
        f"`{t.name}` {t.data_type} [N, {', '.join(str(d) for d in t.shape)}]"
        for t in tensors
    )


def _verified(found: dict[str, dict[str, str]]) -> str:
    """As "ONNX Runtime 1.31.1; TensorRT 8.6.0 fp16, fp32 (NVIDIA H200)"."""
    precisions: dict[str, list[str]] = {}
    for what, facts in found.items():
        where = f" ({facts['gpu']})" if facts["gpu"] else ""
        precisions.setdefault(facts["by"] + "|" + where, []).append(what.split()[1])
    texts = []
    for key, names in precisions.items():
        by, _, where = key.partition("|")
        texts.append(f"{by} {', '.join(names)}{where}")
    return "; ".join(texts)
