"""The first half second of the commands: a spinner on a terminal, and `-h`."""

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
