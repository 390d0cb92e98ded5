"""Markdown tables for reports, READMEs and the terminal."""

from __future__ import annotations

from collections.abc import Sequence


def format_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = True
) -> str:
    """Return a Markdown table.

    Args:
        head: Column headings.
        rows: Cells, one sequence per row.
        numbers: Align every column but the first to the right.

    Returns:
        The table's lines, without a newline at the end.
    """
    rule = ["---", *["---:" if numbers else "---"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *rows))
