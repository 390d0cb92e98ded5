"""The options of every command, and the consoles that commands print to."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, get_type_hints

import typer
from rich.console import Console

from personserve._defaults import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S, FRAME_MODEL
from personserve.cli.output import show_spinner

if TYPE_CHECKING:
    from personserve._client import Client

SERVER_VARIABLE = "PERSONSERVE_SERVER"

SERVER_HELP = (
    "Address of a Triton server: grpc://, grpcs://, http:// or https://host:port; "
    "or dns:///name:port, a name of several gRPC servers. "
    f"Repeat the option for several servers. Default: {DEFAULT_ADDRESS}."
)
TIMEOUT_HELP = "Deadline of each call in seconds, retries included."
SHARED_MEMORY_HELP = (
    "Send images through shared memory (/dev/shm). The server has to run on this "
    "machine."
)
JSON_HELP = "Print JSON, one line for each result, instead of text."
SOURCES_HELP = (
    "Images (JPEG, PNG, WebP), folders of images at any depth, patterns "
    "('shots/*.jpg'), http:// or https:// addresses of images (up to 64 MiB, fetched "
    "by this machine, so also from its private network)"
)
"""Beginning of the help of arguments that take images."""

WHEN_HELP = (
    "a date (2026-05-01), a date and time (2026-05-01T12:30, of this machine's time "
    "zone unless it has one), an age (90s, 30m, 2h, 7d), or seconds such as 12.5"
)
"""What an option that is a time accepts."""

ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        help="Model that answers about people; `personserve models` lists those that "
        "take frames, and what each answers.",
    ),
]
"""The option --model of commands that send frames, or crops of people."""

RoleName = Annotated[
    str | None,
    typer.Option(
        "--role",
        help="Output of the model to compare people by, for example kinship_embedding. "
        "Default: embedding.",
    ),
]
"""The option --role of commands that compare people."""

DEFAULT_MODEL = FRAME_MODEL

PANEL = "Options before or after the command"

console = Console()
error_console = Console(stderr=True)


@dataclass
class GlobalOptions:
    """The options of every command; `personserve --help` explains them.

    Attributes:
        servers: Addresses of servers; empty for the default address.
        timeout_s: Deadline of each call in seconds.
        shared_memory: Whether images go through shared memory.
        as_json: Whether results are printed as JSON.
    """

    servers: list[str] = field(default_factory=list)
    timeout_s: float = DEFAULT_TIMEOUT_S
    shared_memory: bool = False
    as_json: bool = False

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Open a client with these options."""
        from personserve._client import Client

        with Client(
            self.servers or DEFAULT_ADDRESS,
            timeout_s=self.timeout_s,
            shared_memory="system" if self.shared_memory else None,
        ) as client:
            yield client

    def waiting(self, doing: str) -> AbstractContextManager[object]:
        """Show a spinner on a terminal while a block runs.

        Args:
            doing: What the command waits for, for example "asking the server".

        Returns:
            A context manager.
        """
        return show_spinner(doing, console, as_json=self.as_json)


OPTIONS = GlobalOptions()


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command that takes the options of `personserve` after its name, too.

    Typer knows options before the name of a command or after it, not both. This adds
    a second form of each to the command's signature, which Typer reads; where a value
    is given there, it replaces the one before the name.

    Args:
        function: The function of a Typer command.

    Returns:
        A function with four more parameters, to register with Typer.
    """
    options: dict[str, Any] = {
        "server": Annotated[list[str] | None, _option("--server", SERVER_HELP)],
        "timeout_s": Annotated[float | None, _option("--timeout-s", TIMEOUT_HELP)],
        "shared_memory": Annotated[
            bool, _option("--shared-memory", SHARED_MEMORY_HELP)
        ],
        "json": Annotated[bool, _option("--json", JSON_HELP)],
    }

    def run(**values: Any) -> None:
        OPTIONS.servers = values.pop("server") or OPTIONS.servers
        timeout_s = values.pop("timeout_s")
        OPTIONS.timeout_s = OPTIONS.timeout_s if timeout_s is None else timeout_s
        OPTIONS.shared_memory |= values.pop("shared_memory")
        OPTIONS.as_json |= values.pop("json")
        function(**values)

    hints = get_type_hints(function, include_extras=True)
    parameters = [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(function).parameters.items()
    ]
    for name, annotation in options.items():
        is_flag = name in {"shared_memory", "json"}
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=False if is_flag else None,
                annotation=annotation,
            )
        )
    run.__name__, run.__doc__ = function.__name__, function.__doc__
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def exit_with_error(message: str) -> NoReturn:
    """Print an error message on standard error and exit with code 1.

    Args:
        message: What went wrong; it is printed without markup and line breaks.
    """
    print_error(message)
    sys.exit(1)


def print_error(message: str) -> None:
    """Print an error message on standard error.

    Args:
        message: What went wrong; it is printed without markup and line breaks.
    """
    error_console.print("error:", style="red", end=" ")
    error_console.print(message, markup=False, highlight=False, soft_wrap=True)


def _option(name: str, text: str) -> Any:
    return typer.Option(name, help=text, rich_help_panel=PANEL)
