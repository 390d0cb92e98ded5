"""The application that all commands share: console, progress display, and errors."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich import progress as rich_progress
from rich.console import Console

from builders.errors import BuildersError
from builders.progress import Progress, no_progress
from builders.repository.layout import Repository
from builders.spec.catalogue import networks, require_operations
from builders.spec.model import Model, Network
from builders.weights import Origin, stand_in_warning
from personserve import PersonServeError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Build, check, evaluate and serve the model repository. "
    "On a fresh machine start with: python -m builders demo",
)
console = Console()
errors = Console(stderr=True)

Publish = Annotated[
    bool,
    typer.Option(
        "--publish",
        help="Add results within tolerance to builders/verify/verified/, which is "
        "committed and shown in the table of models.",
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL]...",
        help="Names of models; all but those on request if none is given.",
    ),
]

Name = Annotated[
    str, typer.Argument(metavar="MODEL", help="Name of a model, see `list`.")
]


def run() -> None:
    """Run the command line.

    A user's mistake becomes one message and exit code 1. Any other exception is a
    bug and shows its traceback.
    """
    try:
        app()
    except (BuildersError, PersonServeError, OSError) as exc:
        # OSError: a full disk, a folder that cannot be written; writes are atomic
        _fail(str(exc))


def choose_network(name: str, repository: Repository | None = None) -> Network:
    """Return the network called `name`: a declared model or an imported ONNX file.

    Args:
        name: Name of the model.
        repository: Repository whose variant of the model is wanted; None for the
            declared one.

    Raises:
        UnknownModelError: No network has this name.
        RepositoryError: The repository names a variant that the model does not have.
    """
    (network,) = networks([name])
    return network if repository is None else repository.served_network(network)


def choose_model(
    name: str,
    repository: Repository | None = None,
    reason: str = "use another model",
) -> Model:
    """Return the model called `name`, which must be declared with operations.

    Args:
        name: Name of the model.
        repository: Repository whose variant of the model is wanted; None for the
            declared one.
        reason: Why the command needs operations, and what to do without them.

    Raises:
        UnknownModelError: No network has this name.
        UnsuitableModelError: The model is an imported ONNX file.
        RepositoryError: The repository names a variant that the model does not have.
    """
    return require_operations(choose_network(name, repository), reason)


def print_stand_in_warning(*origins: Origin) -> None:
    """Print a warning if weights are untrained.

    Args:
        origins: Where weights come from.
    """
    warning = stand_in_warning(*map(str, origins))
    if warning:
        console.print(f"[yellow]{warning}[/yellow]")


def one_of(option: str, value: str, choice: Sequence[str]) -> str:
    """Return `value` if it is one of the choices.

    Args:
        option: Name of the option, for the message.
        value: Value that was given.
        choice: Allowed values.

    Raises:
        typer.BadParameter: It is another value; the program exits with code 2.
    """
    if value not in choice:
        raise typer.BadParameter(f"{option} {value}: expected {', '.join(choice)}")
    return value


@contextmanager
def show_progress() -> Iterator[Progress]:
    """Show a spinner, or a bar for work of a known length, until the block ends.

    Yields:
        The callback that updates the display. It shows nothing outside a terminal.
    """
    if not console.is_terminal:
        yield no_progress
        return
    with rich_progress.Progress(
        rich_progress.SpinnerColumn(),
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(),
        rich_progress.TextColumn("{task.fields[count]}"),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as display:
        spinner = display.add_task("", total=None, count="")
        bars: dict[str, rich_progress.TaskID] = {}

        def update(what: str, done: int = 0, total: int = 0) -> None:
            if not total:
                display.update(spinner, description=what, visible=True)
                return
            if what not in bars:
                bars[what] = display.add_task(what, total=total, count="")
            display.update(spinner, visible=False)
            display.update(
                bars[what], completed=done, total=total, count=f"{done:,}/{total:,}"
            )

        yield update


def relative(path: Path) -> Path:
    """Return `path` relative to the current folder where it is inside it.

    Args:
        path: An absolute path.
    """
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


@contextmanager
def stopping_on_sigterm() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C, so that context managers clean up."""

    def interrupt(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(message: str) -> NoReturn:
    errors.print("error:", style="red", end=" ")
    # not as markup: messages name extras, as in personserve[tensorrt]
    errors.print(_printable(message), markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)


def _printable(text: str) -> str:
    """Escape control characters, which names in files may have for the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
