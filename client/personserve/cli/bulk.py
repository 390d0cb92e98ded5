"""The command `bulk`: an archive of images and videos, answered once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personserve._errors import InvalidInputError
from personserve.cli.options import (
    DEFAULT_MODEL,
    OPTIONS,
    ModelName,
    command,
    console,
    print_error,
)
from personserve.cli.output import print_json, print_plain, warn_of_stand_ins

if TYPE_CHECKING:
    from personserve._client import Client
    from personserve.bulk import Outcome

INTERRUPTED = 130
"""Exit code after Ctrl-C, as of a shell."""


@command
def bulk(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Images of one person each, folders and patterns of them, videos, and "
            "tables of boxes in images or videos (.parquet or .jsonl with the columns "
            "source, frame, x0, y0, x1, y1); paths, or URLs that fsspec opens.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            help="Write the answers to this folder, which all workers see. A run into "
            "the same folder resumes."
        ),
    ],
    repository: Annotated[
        Path | None,
        typer.Option(
            help="Answer without a server: each worker runs the networks of this model "
            "repository, which has to be built for the CPU."
        ),
    ] = None,
    detect: Annotated[
        bool,
        typer.Option(
            "--detect", help="Detect the people in images, which have several then."
        ),
    ] = False,
    detector: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Detector of videos and of --detect: a function of a BGR image that "
            "returns boxes [N, 4]. Default: OpenCV's HOG detector.",
        ),
    ] = None,
    every: Annotated[
        int, typer.Option(min=1, help="Look at every Nth frame of a video.")
    ] = 1,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Number of workers; 0 answers in this process, without Ray. Default: "
            "one per CPU of the cluster.",
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Address of a Ray cluster (host:port, or auto), whose machines have "
            "this package. Default: start Ray on this machine."
        ),
    ] = None,
    cpus_per_worker: Annotated[
        float,
        typer.Option(min=0.01, help="CPUs that each worker reserves on the cluster."),
    ] = 1.0,
    gpus_per_worker: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="GPUs that each worker reserves, for a detector on a GPU; a fraction "
            "lets workers share one.",
        ),
    ] = 0.0,
    model: ModelName = DEFAULT_MODEL,
) -> None:
    """Answer about all people of an archive, and write the answers as Parquet.

    Images that cannot be read are listed with the reason and end nothing. Ctrl-C ends
    the run after the batches that are being answered; the same command resumes.
    """
    require_pyarrow()
    from personserve._client import Client
    from personserve._defaults import DEFAULT_ADDRESS
    from personserve.bulk import Cluster, answer_archive, open_deployed_client
    from personserve.cli.detection import detect_people
    from personserve.cli.interrupts import deferred_interrupt

    open_client: Callable[[], Client] = partial(
        Client, OPTIONS.servers or DEFAULT_ADDRESS, timeout_s=OPTIONS.timeout_s
    )
    if repository is not None:
        if OPTIONS.servers:
            raise InvalidInputError("expected --server or --repository, got both")
        open_client = partial(open_deployed_client, repository.absolute())
    cluster = Cluster(address, workers, cpus_per_worker, gpus_per_worker)
    with _progress() as show, deferred_interrupt() as interrupted:
        outcome = answer_archive(
            sources,
            output,
            open_client,
            model=model,
            detector=detect_people if detector is None else load_detector(detector),
            detect=detect,
            every=every,
            cluster=None if workers == 0 else cluster,
            on_progress=show,
            is_stopped=interrupted.is_set,
        )
    _print_outcome(outcome, output)
    if outcome.was_stopped:
        raise typer.Exit(INTERRUPTED)


def load_detector(name: str) -> Any:
    """Import the function that --detector names.

    Args:
        name: "module:function".

    Returns:
        The function.

    Raises:
        InvalidInputError: There is no such function.
    """
    module, _, function = name.partition(":")
    try:
        loaded = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as exc:
        raise InvalidInputError(
            f"--detector {name}: expected MODULE:FUNCTION that Python can import: {exc}"
        ) from exc
    if not callable(loaded):
        raise InvalidInputError(f"--detector {name}: expected a function")
    return loaded


@contextmanager
def _progress() -> Iterator[Callable[[Outcome], None]]:
    """Show a bar of items on a terminal; the function moves it."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("answering"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[about]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=OPTIONS.as_json or not console.is_terminal,
    )
    task = bar.add_task("", total=None, about="")

    def show(outcome: Outcome) -> None:
        letters = outcome.dead_letters
        about = f"{outcome.people} people" + (f", {letters} unread" if letters else "")
        done = outcome.items_before + outcome.items_done
        bar.update(task, total=outcome.items, completed=done, about=about)

    with bar:
        yield show


def _print_outcome(outcome: Outcome, output: Path) -> None:
    if OPTIONS.as_json:
        print_json({**vars(outcome), "output": str(output)})
        return
    warn_of_stand_ins(outcome.stand_in_weights, console)
    before = f", {outcome.items_before} were complete" if outcome.items_before else ""
    print_plain(
        f"wrote {output}: {outcome.people} people of {outcome.items_done} items "
        f"(of {outcome.items}{before})",
        console,
    )
    if outcome.dead_letters:
        print_error(
            f"{outcome.dead_letters} images, frames or boxes could not be read; the "
            f"reasons are in {output}/dead_letters"
        )
    if outcome.was_stopped:
        print_plain("interrupted; the same command resumes", console)


def require_pyarrow() -> None:
    """Refuse a command about archives where PyArrow is not installed.

    Raises:
        InvalidInputError: It is not installed; the message says what to install.
    """
    try:
        import pyarrow.parquet  # noqa: F401 - whether it is there
    except ImportError as exc:
        raise InvalidInputError(
            "archives need PyArrow: pip install pyarrow (the extra `bulk` of "
            f"personserve): {exc}"
        ) from exc
