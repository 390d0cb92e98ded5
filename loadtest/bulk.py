"""The `bulk` command: archives on Ray Data, compared with a loop and a pool.

The built networks run in the workers, on crops that are cut from a video. A worker has
one thread, so that a way with N workers is held against N times the loop.
"""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from loadtest.app import app
from loadtest.facts import describe_session
from loadtest.options import ReportFolder
from personserve.internal.report import Report, page_link
from personserve.internal.sections import Table

if TYPE_CHECKING:
    from loadtest.archives import Rate


@app.command()
def bulk(
    video: Annotated[Path, typer.Argument(help="Video that the crops are cut from.")],
    repository: Annotated[
        Path, typer.Option(help="Model repository that is built for the CPU.")
    ] = Path("model_repository"),
    model: Annotated[
        str, typer.Option(help="Model to ask; a small one shows what Ray costs.")
    ] = "person_gender_gennet_recon",
    crops: Annotated[int, typer.Option(min=256, help="Number of crops.")] = 20_000,
    workers: Annotated[int, typer.Option(min=1, help="Number of workers.")] = 2,
    memory: Annotated[
        bool, typer.Option(help="Measure memory over five boxes in each crop, too.")
    ] = True,
    output: ReportFolder = Path("reports/bulk"),
) -> None:
    """Measure archives on Ray Data; kill an actor and the driver, and resume.

    Needs the extra `bulk`.
    """
    from loadtest.archive_checks import check_kills, check_memory
    from loadtest.archives import Job, measure_ways, write_crops
    from personserve.bulk import open_deployed_client

    with tempfile.TemporaryDirectory(prefix="personserve-bulk-") as name:
        folder = write_crops(video, Path(name) / "crops", crops)
        open_client = partial(open_deployed_client, repository.absolute())
        job = Job(folder, Path(name), open_client, model, workers)
        rates = measure_ways(job, crops)
        checks = check_kills(job, repository)
        if memory:
            checks |= check_memory(job)
    tables = [_table_of_rates(rates, workers), _table_of_checks(checks)]
    console = Console(width=110)
    for table in tables:
        table.print_to(console)
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    facts = describe_session() | {"model": model, "load average at the end": load}
    record = {"facts": facts, "rates": {n: vars(r) for n, r in rates.items()}}
    record |= {"checks": checks}
    page = Report("Archives on Ray Data", facts, record, tables).write(output)
    console.print(f"wrote {page_link(page)}", soft_wrap=True)


def _table_of_rates(rates: dict[str, Rate], workers: int) -> Table:
    loop = rates["loop"].steady
    counts = {"loop": 1, "pool": workers, "ray": workers}
    rows = [
        [
            name,
            str(counts[name]),
            f"{rate.steady:.0f}",
            f"{rate.steady / loop / counts[name]:.2f}",
            f"{rate.first_s:.1f}",
            f"{rate.whole_s:.1f}",
        ]
        for name, rate in rates.items()
    ]
    head = ["way", "workers", "people/s", "per worker / loop", "first batch, s"]
    return Table("People per second", [*head, "all, s"], rows)


def _table_of_checks(checks: dict[str, str]) -> Table:
    return Table("Checks", ["check", "seen"], [list(row) for row in checks.items()])
