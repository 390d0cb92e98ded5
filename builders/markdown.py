"""Tables for people, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = True
) -> str:
    """`rows` under `head`; with `numbers` all columns but the first align right."""
    rule = ["---", *["---:" if numbers else "---"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *rows))
