"""Reports of load tests, and comparing two of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from loadtest.facts import ServedModel, describe_weights
from loadtest.load_report import write_load_report
from loadtest.measurements import Point, Run, compare_runs, transport_name
from personserve.internal.report import REPORT_FILE, Report
from personserve.internal.sections import Listing, Plot, Table


def _point(rates: list[float], concurrency: int = 1) -> Point:
    return Point("m", "gRPC", 1, concurrency, rates, 1.0, 2.0, 0.1, 0.8, 0.1)


def test_only_what_rounds_do_not_explain_is_a_change(tmp_path: Path) -> None:
    before = Run({}, [_point([10, 11, 12]), _point([10, 11, 12], 2), _point([1], 9)])
    after = Run({}, [_point([11.5, 13, 14]), _point([13, 14, 15], 2), _point([1], 8)])
    first, second = compare_runs(after, before)
    assert (first.exceeds_spread, second.exceeds_spread) == (False, True)
    assert second.ratio == pytest.approx(14 / 11)
    write_load_report(tmp_path, after, before)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| m, 1 person, gRPC, x2 | 11.0 | 14.0 | 1.27 | yes |" in text
    assert Run.load(tmp_path / REPORT_FILE).points[0] == after.points[0]


def test_a_report_names_transport_runtime_and_precision(tmp_path: Path) -> None:
    transport = transport_name("http", "cuda")
    point = Point(
        "m", transport, 8, 1, [1.0], 1, 2, runtime="tensorrt", precision="fp16"
    )
    write_load_report(tmp_path, Run({"server": "here"}, [point]))
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# Load test of m\n\n- server: here\n")
    assert "| model | transport | runtime | precision | people |" in text
    row = "| m | HTTP, CUDA shared memory | tensorrt | fp16 | 8 | 1 | 1.0 (one round) |"
    assert row in text
    assert "runtime</th>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_report_has_its_tables_and_listings_in_all_forms(tmp_path: Path) -> None:
    table = Table("T <1>", ["a", "b"], [["x", "1"], ["y & z", "2"]])
    listing = Listing("Code", "f(1 < 2)", "python")
    report = Report("R", {"machine": "one"}, {"n": 1}, [listing, table])
    page = report.write(tmp_path).read_text(encoding="utf-8")
    assert json.loads((tmp_path / REPORT_FILE).read_text(encoding="utf-8")) == {"n": 1}
    assert "<h2>T &lt;1&gt;</h2>" in page
    assert "<pre>f(1 &lt; 2)</pre>" in page
    assert "<td>y &amp; z</td>" in page
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == (
        "# R\n\n- machine: one\n\n## Code\n\n```python\nf(1 < 2)\n```\n\n## T <1>\n\n"
        "| a | b |\n| --- | ---: |\n| x | 1 |\n| y & z | 2 |\n"
    )
    console = Console(record=True, width=60)
    table.print_to(console)
    assert "y & z" in console.export_text()


def test_charts_name_the_weights_and_run_forwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Concurrencies in any order, and a throughput that falls with them."""
    pytest.importorskip("matplotlib")
    marks: list[str] = []
    xs: list[list[float]] = []

    def encode(plot: Plot, mark: str, *, is_warning: bool) -> bytes:
        assert not is_warning
        marks.append(mark)
        xs.extend(
            line.get_xdata().tolist()
            for axes in plot.figure.axes
            for line in axes.get_lines()
        )
        return b""

    monkeypatch.setattr(Plot, "encode", encode)
    points = [_point([10.0, 12], 8), _point([14.0, 15], 1), _point([12.0, 12], 32)]
    served = [
        ServedModel("a", weights={"gender": "stand-in, seed 0: untrained"}),
        ServedModel("b", weights={"reid": "r.pth, sha256 12", "gender": "a"}),
    ]
    facts = describe_weights(served)
    write_load_report(tmp_path, Run(facts, points))
    assert all(values == sorted(values) for values in xs)
    assert [0, 1, 2] in xs, "from 1 to 32 requests in flight"
    assert set(marks) == {"weights: gender a; reid r.pth, sha256 12"}
    assert describe_weights([]) == {}
