"""The examples of both READMEs, run as they stand against the real server."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

import personserve
from builders.repository import ROOT
from builders.server import TritonServer

PAGES = (ROOT / "README.md", ROOT / "client" / "README.md")
EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def _examples(page: Path) -> list[str]:
    return EXAMPLE.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_examples_run(
    page: Path,
    server: TritonServer,
    photograph: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("street.jpg", cv2.resize(photograph, (768, 576)))
    default = f"grpc://{server.grpc_address}"
    monkeypatch.setattr(personserve.Client.__init__, "__defaults__", (default,))
    examples = _examples(page)
    assert examples
    names: dict[str, object] = {}
    for example in examples:
        here = example.replace("127.0.0.1:8001", server.grpc_address).replace(
            "127.0.0.1:8000", server.http_address
        )
        exec(compile(here, str(page), "exec"), names)  # noqa: S102 - our own page


def test_every_public_method_has_an_example() -> None:
    text = "\n".join(_examples(ROOT / "client" / "README.md"))
    methods = {
        name
        for kind in (personserve.Client, personserve.People)
        for name in vars(kind)
        if not name.startswith("_") and callable(getattr(kind, name))
    }
    missing = {name for name in methods if f".{name}(" not in text}
    assert missing <= {"close", "to_dict"}
    public = set(personserve.__all__)
    told = set(re.findall(r"\w+", (ROOT / "client" / "README.md").read_text()))
    assert {n for n in public if n.endswith("Error")} - told == {
        "PersonServeError"
    } - told
