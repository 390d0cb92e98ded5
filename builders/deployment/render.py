"""The rendered files of deploy/: figures, rules and dashboard."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from builders.deployment.dashboard import render_dashboard
from builders.deployment.figures import chart_figures
from builders.deployment.rules import render_rules
from builders.repository.config import GENERATED
from builders.repository.layout import ROOT
from personserve.internal.files import write_text

FILES = ROOT / "deploy" / "chart" / "files"


def render_deployment(folder: Path = FILES, *, check: bool = False) -> list[Path]:
    """Write every rendered file of deploy/ that differs from the one on disk.

    Args:
        folder: Folder of the chart that templates read files from.
        check: Write nothing.

    Returns:
        The files that were written, or with `check` those that are stale.
    """
    texts: Mapping[str, Callable[[], str]] = {
        "figures.json": lambda: _json_text(chart_figures()),
        "rules.yaml": lambda: GENERATED + _yaml_text(render_rules()),
        "dashboard.json": lambda: _json_text(render_dashboard()),
    }
    changed = []
    for name, make_text in texts.items():
        path, text = folder / name, make_text()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            changed.append(path)
            if not check:
                write_text(path, text)
    return changed


def _json_text(document: Any) -> str:
    return f"{json.dumps(document, indent=2)}\n"


def _yaml_text(document: Any) -> str:
    return str(yaml.safe_dump(document, sort_keys=False, width=100))
