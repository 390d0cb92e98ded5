"""Command-line options that several load tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loadtest.errors import LoadTestError

GrpcAddress = Annotated[
    str, typer.Option("--grpc", help="gRPC address of the running server, host:port.")
]
HttpAddress = Annotated[
    str, typer.Option("--http", help="HTTP address of the running server, host:port.")
]
MetricsAddress = Annotated[
    str,
    typer.Option(
        "--metrics",
        help="Metrics address of the running server, host:port, for CPU and GPU "
        'utilisation. Pass "" to leave utilisation out.',
    ),
]

ReportFolder = Annotated[
    Path,
    typer.Option("--output", help="Folder for the report (JSON, Markdown, HTML)."),
]
Repository = Annotated[
    Path,
    typer.Option(
        "--repository",
        help="Model repository that the server runs.",
        show_default="model_repository of this checkout",
    ),
]
Rounds = Annotated[
    int, typer.Option("--rounds", min=1, help="Rounds per load; they give the spread.")
]

DEFAULT_FRAME_MODEL = "person_attributes"

GRPC_ADDRESS = "127.0.0.1:8001"
HTTP_ADDRESS = "127.0.0.1:8000"
METRICS_ADDRESS = "127.0.0.1:8002"


def parse_counts(text: str, option: str) -> list[int]:
    """Return the positive whole numbers of a comma-separated option.

    Args:
        text: The option's value, for example "1,8,32".
        option: The option's name for the error message, for example "--people".

    Raises:
        LoadTestError: If an item is not a whole number of at least 1.
    """
    try:
        counts = [int(item) for item in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise LoadTestError(
            f"{option} {text!r}: expected whole numbers of at least 1, separated by "
            "commas, for example 1,8"
        )
    return counts
