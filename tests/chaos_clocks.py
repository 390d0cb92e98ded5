"""Set the wall clock of server and callers under load, and check every answer.

    python -m tests.chaos_clocks --rounds 3

Nobody may set this machine's clock, so a library is preloaded that adds an offset to
the wall clock of the processes (clock_shift.c, compiled here): one offset for
the server, one for callers and supervisor. The monotonic clock stays, as it does when
a clock is set. Counted are wrong answers, errors, restarts, and the longest call.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from builders.serve.tritonserver import TritonServer
from tests.chaos_callers import (
    Outcome,
    RepositoryFolder,
    calling,
    list_unrepeatable,
    make_server,
)

COMPILER = shutil.which("gcc") or shutil.which("clang")
SOURCE = Path(__file__).with_name("clock_shift.c")
VARIABLE = "CLOCK_SHIFT_FILE"
HOUR_S, MINUTE_S = 3600.0, 60.0

STEPS = (
    *(("server", -HOUR_S), ("callers", HOUR_S), ("callers", -HOUR_S)),
    *(("server", -3 * MINUTE_S), ("callers", 3 * MINUTE_S), ("server", -0.4)),
    *(("server", 0.3), ("both", -2 * MINUTE_S), ("server", HOUR_S)),
    *(("both", -MINUTE_S), ("both", 2 * MINUTE_S)),
)
"""Whose clock is set, and by how many seconds."""

AFTER_STEP_S = 2.0
"""Time under load after a step, before answers must be right again."""

Step = tuple[str, float]


class Clocks:
    """The offsets of the server's and the callers' clock, in files.

    Args:
        folder: Folder of the library and the files.
    """

    def __init__(self, folder: Path) -> None:
        self._paths = {name: folder / name for name in ("server", "callers")}
        self._offsets_s = dict.fromkeys(self._paths, 0.0)
        self.library = folder / "clock_shift.so"

    def prepare(self) -> None:
        """Compile the library, and set both offsets to zero."""
        for name in self._paths:
            self._write(name)
        subprocess.run(
            [str(COMPILER), "-shared", "-fPIC", "-O1", SOURCE, "-o", self.library],
            check=True,
        )

    def environment(self, name: str) -> dict[str, str]:
        """Return the variables of a process whose clock it is.

        Args:
            name: "server" or "callers".
        """
        return {"LD_PRELOAD": str(self.library), VARIABLE: str(self._paths[name])}

    def step(self, whose: str, seconds: float) -> None:
        """Set a clock.

        Args:
            whose: "server", "callers" or "both".
            seconds: How far; negative to set it back.
        """
        for name in self._paths:
            if whose in {name, "both"}:
                self._offsets_s[name] += seconds
                self._write(name)

    def _write(self, name: str) -> None:
        data = struct.pack("<q", int(self._offsets_s[name] * 1e9))
        descriptor = os.open(self._paths[name], os.O_RDWR | os.O_CREAT, 0o600)
        os.write(descriptor, data)
        os.close(descriptor)


def run_steps(
    server: TritonServer,
    clocks: Clocks,
    steps: Sequence[Step],
    *,
    callers: int = 6,
    log: Callable[[str], None] = print,
) -> Outcome:
    """Set clocks of a supervised server and its callers.

    Args:
        server: A running server with the models of ENSEMBLE.
        clocks: Its clock, and that of this process.
        steps: Whose clock is set, and how far.
        callers: Number of threads that send requests.
        log: Called with one line per step and the supervisor's lines.
    """
    with calling(server, callers, log) as (outcome, threads, supervisor):
        for whose, seconds in steps:
            restarts, errors = len(supervisor.failures), sum(outcome.errors.values())
            clocks.step(whose, seconds)
            outcome.trials[f"{whose} {seconds:+g} s"] += 1
            time.sleep(AFTER_STEP_S)
            outcome.recovery_s.append(threads.wait_until_healthy())
            log(
                f"{whose:8s}{seconds:+8.1f} s, {len(outcome.wrong)} wrong, "
                f"{sum(outcome.errors.values()) - errors} errors, "
                f"{len(supervisor.failures) - restarts} restarts"
            )
    return outcome


def main(
    repository: RepositoryFolder = None,
    rounds: Annotated[int, typer.Option(help="Repetitions of all steps.")] = 1,
    callers: Annotated[int, typer.Option(help="Threads that send requests.")] = 6,
    cores: Annotated[int, typer.Option(help="Instances of each model.")] = 2,
) -> None:
    """Set clocks under load; exit with 1 after a wrong or unrepeatable answer."""
    if VARIABLE not in os.environ:
        _run_preloaded()
    clocks = Clocks(Path(os.environ[VARIABLE]).parent)
    os.environ |= clocks.environment("server")  # of the processes that start from here
    with make_server(repository, cores) as server:
        outcome = run_steps(server, clocks, STEPS * rounds, callers=callers)
    typer.echo(outcome.text())
    unrepeatable = list_unrepeatable(outcome)
    typer.echo("\n".join(f"UNREPEATABLE {text}" for text in unrepeatable))
    raise typer.Exit(bool(outcome.wrong or unrepeatable))


def _run_preloaded() -> None:
    """Run this command again with a clock that can be set, and exit."""
    with tempfile.TemporaryDirectory() as folder:
        clocks = Clocks(Path(folder))
        clocks.prepare()
        command = [sys.executable, "-m", "tests.chaos_clocks", *sys.argv[1:]]
        environment = os.environ | clocks.environment("callers")
        code = subprocess.run(command, env=environment, check=False).returncode
    raise typer.Exit(code)


if __name__ == "__main__":
    typer.run(main)
