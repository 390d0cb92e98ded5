"""Reports: the same content as page, Markdown, images and terminal output."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from personserve.internal.figures import (
    STRIP_PX,
    draw_series,
    new_figure,
    place_legend,
)
from personserve.internal.report import Report, page_link
from personserve.internal.sections import Listing, Paragraph, Plot, Sheet, Table

WARNING = "Stand-in weights: untrained, the figures mean nothing."


def _report() -> Report:
    figure = new_figure()
    draw_series(figure.subplots(), [1, 2], [3, 4], "rate")
    return Report(
        "Model <m>",
        {"weights": "gender.pth"},
        {"n": 1},
        [
            Table("Numbers", ["name", "ms"], [["a|b", "1.5"], ["c", "-"]], "A note."),
            Listing("Code", "x < y"),
            Paragraph("Words", "One & two."),
            Plot("Rate by batch", figure),
            Sheet("Mistakes", np.full((30, 700, 3), 255, np.uint8), "mistakes"),
        ],
        {"accuracy": "0.9"},
        mark="weights: gender.pth",
    )


def test_a_page_needs_no_other_file(tmp_path: Path) -> None:
    page = _report().write(tmp_path)
    text = page.read_text()
    for name, kind in (("rate-by-batch.png", "png"), ("mistakes.jpg", "jpeg")):
        data = b64encode((tmp_path / name).read_bytes()).decode()
        assert f"data:image/{kind};base64,{data}" in text
    assert "<h1>Model &lt;m&gt;</h1>" in text
    assert '<div class="headline"><div><b>0.9</b>accuracy</div></div>' in text
    assert "<pre>x &lt; y</pre>" in text
    assert '<td class="number">1.5</td>' in text, "numbers are aligned to the right"
    assert "<td>a|b</td>" in text
    assert "warning" not in text.partition("<body>")[2]
    assert page_link(page) == f"file://{page}"


def test_markdown_links_the_images(tmp_path: Path) -> None:
    _report().write(tmp_path, "precision")
    text = (tmp_path / "precision.md").read_text()
    assert "![rate-by-batch](rate-by-batch.png)" in text
    assert "![mistakes](mistakes.jpg)" in text
    assert "A note.\n\n| name | ms |" in text
    assert "accuracy: **0.9**" in text


def test_a_terminal_shows_tables_and_the_warning() -> None:
    console = Console(record=True, width=70)
    replace(_report(), warning=WARNING).print_to(console)
    text = console.export_text()
    for words in (WARNING, "a|b", "1.5", "A note.", "x < y", "One & two.", "accuracy"):
        assert words in text


def test_stand_in_weights_are_marked_on_every_image(tmp_path: Path) -> None:
    trained, untrained = tmp_path / "trained", tmp_path / "untrained"
    _report().write(trained)
    replace(_report(), warning=WARNING).write(untrained)
    for name in ("rate-by-batch.png", "mistakes.jpg"):
        pixels = [cv2.imread(str(folder / name)) for folder in (trained, untrained)]
        red = [_count_red(image[-2 * STRIP_PX :]) for image in pixels]
        assert red[0] == 0, "grey: whose weights they are"
        assert red[1] > 50, name
        assert all((image[-2 * STRIP_PX :] < 200).any() for image in pixels)
    assert f"**{WARNING}**" in (untrained / "report.md").read_text()
    assert (
        f'<p class="warning">{WARNING}</p>' in (untrained / "report.html").read_text()
    )


def _count_red(pixels: np.ndarray) -> int:
    blue, _, red = np.moveaxis(pixels.astype(int), -1, 0)
    return int(np.count_nonzero(red - blue > 80))


def test_one_point_is_no_line_and_spread_is_drawn() -> None:
    axes = new_figure().subplots()
    draw_series(axes, [1, 2], [10, 20], "sweep", low=[9, 18], high=[12, 21])
    draw_series(axes, [1], [5], "point", notes=["x1"])
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["sweep"].get_linestyle() == "-"
    assert lines["point"].get_linestyle() == "None"
    (spread,) = (bars for bars in axes.containers if bars.has_yerr)
    ends = [segment[:, 1].tolist() for segment in spread.lines[2][0].get_segments()]
    assert ends == [[9, 12], [18, 21]]
    assert [text.get_text() for text in axes.texts] == ["x1"]


def test_the_legend_is_beside_the_data() -> None:
    figure = new_figure()
    panels = figure.subplots(1, 2)
    for axes in panels:
        draw_series(axes, [1, 2], [1, 2], "same")
        axes.legend()
    place_legend(figure, panels)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["same"]
    left = legend.get_window_extent().x0
    for axes in panels:
        assert axes.get_legend() is None
        assert axes.get_window_extent().x1 < left
