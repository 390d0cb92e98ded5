"""What a load test found, as JSON, Markdown and one HTML page with plots, and two such
runs side by side.

A difference counts only where the rounds of one run all lie beyond those of the other:
with five each, chance alone does that once in 126 times; with three, once in ten.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from personserve._files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT_FILE = "report.json"

Table = tuple[str, list[str], list[list[str]]]
"""Title, head, rows."""

COLUMNS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "queue_ms": ("queue ms", "{:.2f}".format),
    "compute_ms": ("compute ms", "{:.2f}".format),
    "network_ms": ("network ms", "{:.2f}".format),
    "cpu_use": ("CPU", "{:.0%}".format),
    "gpu_use": ("GPU", "{:.0%}".format),
    "memory_mib": ("MiB", "{:.0f}".format),
}
"""Of what is not always measured: its title, and how it is written."""

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;
padding:0 1rem;color:#222}table{border-collapse:collapse;margin:1rem 0}
td,th{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}img{max-width:100%}
dt{font-weight:600}dd{margin:0 0 .4rem 0}"""


@dataclass(frozen=True)
class Point:
    """One load: `people` in a request, `concurrency` requests at once. Times are ms;
    `people_per_s` has a value for each round, the others are of the median round, and
    None where nobody measured them.
    """

    model: str
    way: str
    people: int
    concurrency: int
    people_per_s: Sequence[float]
    p50_ms: float
    p99_ms: float
    queue_ms: float | None = None
    compute_ms: float | None = None
    network_ms: float | None = None
    cpu_use: float | None = None
    gpu_use: float | None = None
    memory_mib: float | None = None

    @property
    def key(self) -> str:
        return f"{self.model}, {self.people} people, {self.way}, x{self.concurrency}"

    @property
    def rate(self) -> float:
        """People/s of the median round."""
        return float(np.median(self.people_per_s))


def merged(rounds: Sequence[Point]) -> Point:
    """One load's rounds as one point."""
    ordered = sorted(rounds, key=lambda point: point.rate)
    middle = ordered[len(ordered) // 2]
    return replace(middle, people_per_s=[point.rate for point in rounds])


def beyond(rates: Sequence[float], others: Sequence[float]) -> bool:
    """Whether the rounds of two loads do not overlap."""
    return min(rates) > max(others) or max(rates) < min(others)


@dataclass(frozen=True)
class Run:
    """`facts` say where and with what."""

    facts: Mapping[str, str]
    points: Sequence[Point]

    @classmethod
    def load(cls, path: Path) -> Run:
        """What write_report wrote. Raises ValueError."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            return cls(record["facts"], [Point(**row) for row in record["points"]])
        except (KeyError, TypeError, ValueError) as exc:
            raise ValueError(f"{path}: not a load test's report ({exc})") from exc


@dataclass(frozen=True)
class Change:
    """A load in two runs; `ratio` of the new rate to the old one. `exceeds` is whether
    the rounds of the two runs do not overlap.
    """

    key: str
    before: float
    after: float
    exceeds: bool

    @property
    def ratio(self) -> float:
        return self.after / self.before


def changes(run: Run, against: Run) -> list[Change]:
    """Every load that both runs have."""
    old = {point.key: point for point in against.points}
    found = []
    for point in run.points:
        if point.key not in old:
            continue
        before = old[point.key]
        apart = beyond(point.people_per_s, before.people_per_s)
        found.append(Change(point.key, before.rate, point.rate, apart))
    return found


def write_report(
    folder: Path, run: Run, against: Run | None = None, more: Sequence[Table] = ()
) -> Path:
    """Write all forms to `folder`, with `more` tables; the HTML's path."""
    record = {"facts": dict(run.facts), "points": [asdict(p) for p in run.points]}
    write_text(folder / REPORT_FILE, json.dumps(record, indent=2) + "\n")
    found = changes(run, against) if against is not None else []
    tables = [*more, ("Loads", *_loads(run))]
    if found:
        tables.append(("Against the other run", *_changes(found)))
    write_text(folder / "report.md", _markdown(run, tables))
    page = folder / "report.html"
    write_text(page, _html(run, tables))
    return page


def _loads(run: Run) -> tuple[list[str], list[list[str]]]:
    measured = [
        name
        for name in COLUMNS
        if any(getattr(point, name) is not None for point in run.points)
    ]
    head = ["model", "way", "people", "at once", "people/s", "p50 ms", "p99 ms"]
    rows = [
        [
            *(point.model, point.way, str(point.people), str(point.concurrency)),
            f"{point.rate:.1f} ({_spread(point)})",
            *(f"{value:.1f}" for value in (point.p50_ms, point.p99_ms)),
            *(_cell(point, name) for name in measured),
        ]
        for point in run.points
    ]
    return [*head, *(COLUMNS[name][0] for name in measured)], rows


def _cell(point: Point, name: str) -> str:
    value = getattr(point, name)
    return "-" if value is None else COLUMNS[name][1](value)


def _spread(point: Point) -> str:
    if len(point.people_per_s) < 2:
        return "one round"
    return f"{min(point.people_per_s):.1f} to {max(point.people_per_s):.1f}"


def _changes(found: Sequence[Change]) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            change.key,
            f"{change.before:.1f}",
            f"{change.after:.1f}",
            f"{change.ratio:.2f}",
            "yes" if change.exceeds else "within",
        ]
        for change in found
    ]
    return ["load", "before", "after", "ratio", "beyond the spread"], rows


def _markdown(run: Run, tables: Sequence[Table]) -> str:
    lines = ["# Load test", ""]
    lines += [f"- {name}: {value}" for name, value in run.facts.items()]
    for title, head, rows in tables:
        lines += ["", f"## {title}", "", "| " + " | ".join(head) + " |"]
        lines.append("|---" + "|---:" * (len(head) - 1) + "|")
        lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _html(run: Run, tables: Sequence[Table]) -> str:
    facts = "".join(
        f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>"
        for k, v in run.facts.items()
    )
    parts = [f"<h1>Load test</h1><dl>{facts}</dl>"]
    for title, plot in _plots(run):
        data = BytesIO()
        plot.savefig(data, format="png", dpi=130)
        encoded = base64.b64encode(data.getvalue()).decode()
        parts.append(
            f'<h2>{html.escape(title)}</h2><img alt="{html.escape(title)}" '
            f'src="data:image/png;base64,{encoded}">'
        )
    for title, head, rows in tables:
        cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        parts.append(
            f"<h2>{html.escape(title)}</h2><table><tr>{cells}</tr>{body}</table>"
        )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>Load test</title><style>{STYLE}</style><body>{''.join(parts)}</body>"
        "</html>\n"
    )


def _plots(run: Run) -> Iterator[tuple[str, Figure]]:
    for model in dict.fromkeys(point.model for point in run.points):
        points = [point for point in run.points if point.model == model]
        yield f"{model}: latency by throughput", _curve(points)
        if all(point.network_ms is not None for point in points):
            yield f"{model}: where the time goes", _split(points)


def _curve(points: Sequence[Point]) -> Figure:
    """p50 (line) and p99 (dashed) over people/s, a line for each way."""
    plot = _figure()
    axes = plot.subplots()
    several = len({point.people for point in points}) > 1
    for way, people in dict.fromkeys((point.way, point.people) for point in points):
        line = [p for p in points if (p.way, p.people) == (way, people)]
        rates = [point.rate for point in line]
        label = f"{way}, {people} people" if several else way
        (drawn,) = axes.plot(rates, [p.p50_ms for p in line], marker="o", label=label)
        late = [point.p99_ms for point in line]
        axes.plot(rates, late, "--", marker=".", color=drawn.get_color())
    axes.set(xlabel="people/s", ylabel="ms (p50; dashed p99)", ylim=(0, None))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend()
    return plot


def _split(points: Sequence[Point]) -> Figure:
    plot = _figure(0.35 * len(points) + 1.6)
    axes = plot.subplots()
    names = [f"{p.way}, {p.people} people, x{p.concurrency}" for p in points]
    left = np.zeros(len(points))
    for name in ("queue", "compute", "network"):
        width = np.array([getattr(point, f"{name}_ms") for point in points])
        axes.barh(names, width, left=left, label=name)
        left += width
    axes.invert_yaxis()
    axes.set(xlabel="ms of a request")
    axes.legend()
    return plot


def _figure(height: float = 4.2) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(8.0, height), layout="constrained")
