"""What a command loads before it does anything, and the spinner meanwhile."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from builders.repository.layout import ROOT


@pytest.mark.parametrize("program", ["builders", "loadtest"])
def test_a_spinner_is_shown_while_a_program_is_loaded(program: str) -> None:
    terminal, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": f"{ROOT}:{ROOT}/client"}
    done = subprocess.run(
        [sys.executable, "-m", program, "-h"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
        check=True,
    )
    os.close(slave)
    shown = os.read(terminal, 65536).decode(errors="replace")
    os.close(terminal)
    assert "loading ..." in shown
    assert f"python -m {program}" in done.stdout
    assert "loading" not in done.stdout


LOADED_WHEN_USED = {"numpy", "cv2", "grpc", "tritonclient", "faiss", "pandas", "PIL"}
"""What the commands of `personserve` need only when they run."""


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["search", "-h"]])
def test_help_and_version_load_little(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from personserve.cli import main\n"
        f"sys.argv[1:] = {arguments}\n"
        "try: main()\n"
        "finally: print('loaded:', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    shown, _, loaded = done.stdout.rpartition("loaded:")
    assert "personserve" in shown
    assert "typer" in loaded.split()
    assert not LOADED_WHEN_USED & set(loaded.split())
