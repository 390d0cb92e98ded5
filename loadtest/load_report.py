"""The report of a measured run: its loads, the change since another run, and charts."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loadtest.facts import WEIGHTS
from loadtest.measurements import Change, Point, Run, compare_runs, count_noun
from personserve.internal.figures import draw_series, new_figure, place_legend
from personserve.internal.report import Report
from personserve.internal.sections import Plot, Section, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEXT_COLUMNS = ("system", "runtime", "precision")

COLUMNS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "queue_ms": ("queue ms", "{:.2f}".format),
    "compute_ms": ("compute ms", "{:.2f}".format),
    "network_ms": ("network ms", "{:.2f}".format),
    "cpu_use": ("CPU", "{:.0%}".format),
    "gpu_use": ("GPU", "{:.0%}".format),
    "memory_mib": ("MiB", "{:.0f}".format),
}
"""Title and format of the figures that not every load test measures."""

DIGEST = re.compile(r"(?<=sha256 [0-9a-f]{8})[0-9a-f]+")
"""The digits of a digest that charts leave out."""

MARK_COLUMNS = 110
"""Characters in a line below the narrowest chart."""


def write_load_report(
    folder: Path, run: Run, earlier: Run | None = None, tables: Sequence[Table] = ()
) -> Path:
    """Write the report of a run, and return the path of its HTML page.

    Args:
        folder: Where to write; created if absent.
        run: The measured run.
        earlier: A run to compare with.
        tables: Further tables, before the table of all loads.
    """
    changes = compare_runs(run, earlier) if earlier is not None else []
    sections: list[Section] = [*_draw_plots(run), *tables, _tabulate_loads(run)]
    if changes:
        sections.append(_tabulate_changes(changes))
    models = ", ".join(dict.fromkeys(point.model for point in run.points))
    title = f"Load test of {models}"
    weights = DIGEST.sub("", run.facts.get(WEIGHTS, "not stated by the server"))
    mark = textwrap.fill(f"weights: {weights}", MARK_COLUMNS)
    report = Report(title, run.facts, run.to_record(), sections, mark=mark)
    return report.write(folder)


def _tabulate_loads(run: Run) -> Table:
    texts = [name for name in TEXT_COLUMNS if any(getattr(p, name) for p in run.points)]
    figures = [
        name
        for name in COLUMNS
        if any(getattr(point, name) is not None for point in run.points)
    ]
    head = ["model", "transport", *texts, "people", "concurrency", "people/s (rounds)"]
    head += ["p50 ms", "p99 ms", *(COLUMNS[name][0] for name in figures)]
    rows = [
        [
            *(point.model, point.transport),
            *(getattr(point, name) or "-" for name in texts),
            *(str(point.people), str(point.concurrency)),
            f"{point.rate:.1f} ({_format_spread(point)})",
            *(f"{value:.1f}" for value in (point.p50_ms, point.p99_ms)),
            *(_format_figure(point, name) for name in figures),
        ]
        for point in run.points
    ]
    return Table("Loads", head, rows)


def _format_figure(point: Point, name: str) -> str:
    value = getattr(point, name)
    return "-" if value is None else COLUMNS[name][1](value)


def _format_spread(point: Point) -> str:
    if len(point.people_per_s) == 1:
        return "one round"
    return f"{min(point.people_per_s):.1f} to {max(point.people_per_s):.1f}"


def _tabulate_changes(changes: Sequence[Change]) -> Table:
    rows = [
        [
            change.key,
            f"{change.before:.1f}",
            f"{change.after:.1f}",
            f"{change.ratio:.2f}",
            "yes" if change.exceeds_spread else "no",
        ]
        for change in changes
    ]
    head = ["load", "before", "after", "ratio", "beyond the spread"]
    return Table("Compared with the earlier run, people/s", head, rows)


def _draw_plots(run: Run) -> Iterator[Plot]:
    for model in dict.fromkeys(point.model for point in run.points):
        points = [point for point in run.points if point.model == model]
        yield Plot(f"{model}: throughput and latency", _draw_loads(points))
        if all(point.network_ms is not None for point in points):
            yield Plot(f"{model}: time of a request", _draw_time_split(points))


def _draw_loads(points: Sequence[Point]) -> Figure:
    """Draw people/s, and p50 and p99 below, by concurrency; a column per request size.

    Latency over throughput would run backwards where more requests in flight do not
    give more throughput.
    """
    ordered = sorted(points, key=lambda point: (point.people, point.concurrency))
    sizes = [(n, list(group)) for n, group in groupby(ordered, lambda p: p.people)]
    figure = new_figure(max(8.0, 5.0 * len(sizes)), 6.5)
    panels = figure.subplots(2, len(sizes), squeeze=False, sharex="col")
    for (rates, latencies), (people, same_size) in zip(panels.T, sizes, strict=True):
        levels = list(dict.fromkeys(point.concurrency for point in same_size))
        requests = count_noun(people, "person", "people")
        rates.set(
            title=f"requests of {requests}", ylabel="people/s (bars: spread of rounds)"
        )
        latencies.set(
            xlabel="requests in flight",
            ylabel="latency, ms (solid: p50; small, dashed: p99)",
        )
        latencies.set_xticks(range(len(levels)), [str(level) for level in levels])
        latencies.margins(x=0.1)
        for index, name in enumerate(dict.fromkeys(p.series for p in points)):
            series = [point for point in same_size if point.series == name]
            if series:
                _draw_points(rates, latencies, levels, series, f"C{index % 10}")
        for axes in (rates, latencies):
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
    place_legend(figure, panels.ravel().tolist())
    return figure


def _draw_points(
    rates: Axes,
    latencies: Axes,
    levels: Sequence[int],
    points: Sequence[Point],
    colour: str,
) -> None:
    """Draw one series into both panels of a request size."""
    positions = [levels.index(point.concurrency) for point in points]
    draw_series(
        rates,
        positions,
        [point.rate for point in points],
        points[0].series,
        low=[min(point.people_per_s) for point in points],
        high=[max(point.people_per_s) for point in points],
        colour=colour,
    )
    for style, marker, values in (
        ("-", "o", [point.p50_ms for point in points]),
        ("--", ".", [point.p99_ms for point in points]),
    ):
        line = style if len(points) > 1 else "none"
        latencies.plot(positions, values, linestyle=line, marker=marker, color=colour)


def _draw_time_split(points: Sequence[Point]) -> Figure:
    """Draw the mean time in queues, backends and outside the server as stacked bars."""
    figure = new_figure(8.0, 0.35 * len(points) + 1.6)
    axes = figure.subplots()
    names = [point.key.removeprefix(f"{point.model}, ") for point in points]
    left = np.zeros(len(points))
    for part in ("queue", "compute", "network"):
        width = np.array([getattr(point, f"{part}_ms") for point in points])
        axes.barh(names, width, left=left, label=part)
        left += width
    axes.invert_yaxis()
    axes.set(xlabel="mean time of a request, ms")
    figure.legend(loc="outside upper center", ncols=3)
    return figure
