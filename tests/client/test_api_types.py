"""The public API's types, checked by mypy and pyright on api_types.py."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from builders.repository.layout import ROOT

TYPED = ROOT / "tests" / "client" / "api_types.py"

CHECKERS = {
    "mypy": ("mypy", "--strict", "--warn-unused-ignores"),
    "pyright": ("pyright", "--pythonpath", sys.executable),
}


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(params=CHECKERS)
def checker(request: pytest.FixtureRequest) -> tuple[str, ...]:
    command = CHECKERS[request.param]
    if find_spec(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    # pyright's package downloads the checker itself when it runs for the first time
    if _run(command[0], "--version").returncode != 0:
        pytest.skip(f"{command[0]} does not start; it needs the network once")
    return command


def test_users_code_is_typed(checker: tuple[str, ...]) -> None:
    done = _run(*checker, str(TYPED))
    assert done.returncode == 0, done.stdout + done.stderr


WRONG = {
    "wrong argument": "Client().attributes('a.jpg', 'abc')",
    "comment without an error": "Client().attributes('a.jpg', [])  # type: ignore",
}


@pytest.mark.parametrize("line", WRONG.values(), ids=WRONG)
def test_that_check_can_fail(
    checker: tuple[str, ...], line: str, tmp_path: Path
) -> None:
    header = TYPED.read_text(encoding="utf-8").partition('"""\n#')[2].partition("\n")[0]
    path = tmp_path / "wrong.py"
    path.write_text(
        f"#{header}\nfrom personserve import Client\n{line}\n", encoding="utf-8"
    )
    assert _run(*checker, str(path)).returncode != 0
