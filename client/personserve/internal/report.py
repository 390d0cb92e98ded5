"""Reports of measurements: JSON, Markdown with images, one HTML page, the terminal.

Load tests, evaluations and precision reports share this form, so that they look alike.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personserve.internal.files import atomic_write, write_text
from personserve.internal.sections import Plot, Section, Sheet

if TYPE_CHECKING:
    from rich.console import Console

REPORT = "report"
REPORT_FILE = f"{REPORT}.json"

STYLE = """\
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;
padding:0 1rem;color:#1c1c1e;background:#fff}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin:2rem 0 .5rem}
.warning{background:#fff3cd;border-left:4px solid #c98a00;padding:.6rem 1rem}
.headline{display:flex;flex-wrap:wrap;gap:.8rem;margin:1rem 0}
.headline div{border:1px solid #ddd;border-radius:.4rem;padding:.4rem 1rem}
.headline b{display:block;font-size:1.4rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;
font-size:.87rem;color:#444}dt{font-weight:600}dd{margin:0;overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse}
td,th{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:left}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
img{max-width:100%;height:auto}
pre{overflow-x:auto;background:#f6f6f7;padding:.8rem}"""


@dataclass(frozen=True)
class Report:
    """The content of a report.

    Attributes:
        title: Its heading.
        facts: Where and with what it was measured.
        record: The figures, a value for JSON.
        sections: Tables, texts and charts, in the order of the page.
        headline: The few figures that matter most, formatted.
        warning: What makes the figures meaningless, for example untrained weights.
        mark: Text below each chart, which may be copied without the page; the warning
            takes its place.
    """

    title: str
    facts: Mapping[str, str]
    record: Mapping[str, Any]
    sections: Sequence[Section] = field(default=())
    headline: Mapping[str, str] = field(default_factory=dict)
    warning: str = ""
    mark: str = ""

    def write(self, folder: Path, name: str = REPORT) -> Path:
        """Write the report as JSON, Markdown, image files and a self-contained page.

        Args:
            folder: Where to write; created if absent.
            name: Name of the files, without suffix.

        Returns:
            The path of the HTML page.
        """
        images = {
            section.file_name: section.encode(
                self.warning or self.mark, is_warning=bool(self.warning)
            )
            for section in self.sections
            if isinstance(section, Plot | Sheet)
        }
        for file_name, data in images.items():
            with atomic_write(folder / file_name) as partial:
                partial.write_bytes(data)
        write_text(folder / f"{name}.json", json.dumps(self.record, indent=2) + "\n")
        write_text(folder / f"{name}.md", self.to_markdown())
        page = folder / f"{name}.html"
        write_text(page, self._to_html(images))
        return page

    def print_to(self, console: Console) -> None:
        """Print title, warning, headline, tables and texts to a terminal.

        Args:
            console: The terminal.
        """
        from rich.text import Text

        console.print(Text(self.title, "bold underline"))
        if self.warning:
            console.print(Text(self.warning, "yellow"))
        width = max(map(len, self.headline), default=0)
        for key, value in self.headline.items():
            console.print(Text.assemble(f"{key:<{width}}  ", (value, "bold")))
        console.print()
        for section in self.sections:
            if not isinstance(section, Plot | Sheet):
                section.print_to(console)

    def to_markdown(self) -> str:
        """Return the report as Markdown that links its image files."""
        parts = [f"# {self.title}"]
        if self.warning:
            parts.append(f"**{self.warning}**")
        if self.headline:
            parts.append(", ".join(f"{k}: **{v}**" for k, v in self.headline.items()))
        parts.append("\n".join(f"- {key}: {v}" for key, v in self.facts.items()))
        for section in self.sections:
            if isinstance(section, Plot | Sheet):
                stem = section.file_name.partition(".")[0]
                text = f"![{stem}]({section.file_name})"
            else:
                text = section.to_markdown()
            parts.append(f"## {section.title}\n\n{text}")
        return "\n\n".join(filter(None, parts)) + "\n"

    def _to_html(self, images: Mapping[str, bytes]) -> str:
        facts = "".join(
            f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>\n"
            for key, value in self.facts.items()
        )
        figures = "".join(
            f"<div><b>{escape(value)}</b>{escape(key)}</div>"
            for key, value in self.headline.items()
        )
        parts = [
            '<!doctype html><html lang="en"><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{escape(self.title)}</title><style>{STYLE}</style><body>",
            f"<h1>{escape(self.title)}</h1>",
        ]
        if self.warning:
            parts.append(f'<p class="warning">{escape(self.warning)}</p>')
        if figures:
            parts.append(f'<div class="headline">{figures}</div>')
        parts.append(f"<dl>{facts}</dl>")
        for section in self.sections:
            parts.append(f"<h2>{escape(section.title)}</h2>")
            if isinstance(section, Plot | Sheet):
                kind = "png" if isinstance(section, Plot) else "jpeg"
                data = b64encode(images[section.file_name]).decode()
                source = f"data:image/{kind};base64,{data}"
                parts.append(f'<img alt="{escape(section.title)}" src="{source}">')
            else:
                parts.append(section.to_html())
        return "\n".join([*parts, "</body></html>"]) + "\n"


def page_link(page: Path) -> str:
    """Return the address of a page, which terminals open with a click.

    Args:
        page: Path of the page.
    """
    return page.resolve().as_uri()
