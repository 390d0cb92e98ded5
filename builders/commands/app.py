"""What all commands share: the application, the console, progress, and how errors
become one message and exit code 1.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from builders.check import VerificationError
from builders.evaluation.datasets import EvaluationError
from builders.onnx_file import OnnxFileError
from builders.parity import ParityError
from builders.quantisation.table import QuantisationError
from builders.runtimes.cpu_session import RuntimeMissingError
from builders.server import ServeError
from builders.spec import SpecError
from builders.tensorrt.engine import EngineError
from builders.tensorrt.library import PlanError
from builders.weights import CheckpointError
from personserve import PersonServeError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Builds, checks, evaluates and serves the model repository. "
    "A fresh machine starts with: python -m builders demo",
)
console = Console()
errors = Console(stderr=True)

EXPECTED = (
    CheckpointError,
    EngineError,
    EvaluationError,
    OnnxFileError,
    ParityError,
    PersonServeError,
    PlanError,
    QuantisationError,
    RuntimeMissingError,
    ServeError,
    SpecError,
    VerificationError,
)

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[MODEL]...", help="Models; all if none are named."),
]


def run() -> None:
    """Run the command line; expected errors become one message and exit code 1."""
    try:
        app()
    except EXPECTED as exc:
        _fail(str(exc))
    except KeyError as exc:
        _fail(str(exc.args[0]))
    except OSError as exc:
        # a full disk, a folder that cannot be written: nothing is left half-written
        _fail(str(exc))


def _fail(message: str) -> NoReturn:
    errors.print("error:", style="red", end=" ")
    # not as markup: messages name extras, as in personserve[tensorrt]
    errors.print(message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)


def one_of(option: str, value: str, choice: Sequence[str]) -> str:
    """`value`, if it is one of `choice`. Raises typer.BadParameter."""
    if value not in choice:
        raise typer.BadParameter(f"{option} {value}: expected {', '.join(choice)}")
    return value


@contextmanager
def doing() -> Iterator[Callable[[str], None]]:
    """A spinner with what is being done and for how long."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task("", total=None)
        yield lambda text: progress.update(task, description=text)


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each of the things that are told: (what, done, of)."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bar:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield tell


def relative(path: Path) -> Path:
    """`path` as people write it, from here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


@contextmanager
def stopping_on_sigterm() -> Iterator[None]:
    """SIGTERM as Ctrl-C, so that context managers clean up."""

    def interrupt(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
