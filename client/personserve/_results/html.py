"""Tables and warnings of results for notebooks; all text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


class Html(str):
    """Text that is HTML already and is not escaped again."""

    __slots__ = ()


def render_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], caption: str
) -> Html:
    """Render a table.

    Args:
        header: Texts of the first row.
        rows: Texts of the other rows; Html is inserted as it is.
        caption: Text above the table.

    Returns:
        The table's HTML.
    """
    head = "".join(f"<th>{_escape(text)}</th>" for text in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{_escape(text)}</td>' for text in row)}</tr>"
        for row in rows
    )
    title = f'<caption style="text-align:left">{_escape(caption)}</caption>'
    return Html(
        f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def render_warning(stand_in_weights: Sequence[str]) -> Html:
    """Render the warning of untrained weights.

    Args:
        stand_in_weights: Names of the models with untrained weights.

    Returns:
        The warning's HTML, or nothing if there are no such models.
    """
    if not stand_in_weights:
        return Html("")
    names = _escape(", ".join(stand_in_weights))
    return Html(
        '<div style="color:#b00020"><b>Untrained stand-in weights:</b> '
        f"{names}. The numbers have no meaning.</div>"
    )


def render_image(data_uri: str | None) -> Html:
    """Render an image.

    Args:
        data_uri: The image as a data URI, or None for no image.

    Returns:
        The image's HTML, or nothing.
    """
    return Html("" if data_uri is None else f'<img alt="" src="{escape(data_uri)}">')


def describe_untrained(stand_in_weights: Sequence[str]) -> str:
    """Describe untrained weights in a representation of one line.

    Args:
        stand_in_weights: Names of the models with untrained weights.

    Returns:
        Text that is appended; empty if there are no such models.
    """
    if not stand_in_weights:
        return ""
    return f"; UNTRAINED weights: {', '.join(stand_in_weights)}"


def _escape(text: str) -> str:
    return text if isinstance(text, Html) else escape(str(text))
