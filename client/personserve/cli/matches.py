"""Matches of a search in a gallery, as a table, as JSON and as a contact sheet."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape
from rich.table import Table

from personserve.cli.drawing import draw_contact_sheet, write_image
from personserve.cli.filters import text_from_seconds
from personserve.cli.options import console
from personserve.cli.output import print_json
from personserve.cli.sources import Source
from personserve.gallery import Match, MemoryGallery, Payload
from personserve.images.crops import Pixels
from personserve.images.inputs import read_pixels


def print_matches_as_json(
    sources: list[Source], matches: list[list[Match]], stand_ins: tuple[str, ...]
) -> None:
    """Print a line of JSON for each match.

    Args:
        sources: The images that were searched for.
        matches: The matches of each.
        stand_ins: Networks with untrained weights.
    """
    for source, row in zip(sources, matches, strict=True):
        for match in row:
            print_json(
                {
                    "query": source.name,
                    **vars(match),
                    "is_same_person": match.is_same_person,
                    "stand_in_weights": stand_ins,
                }
            )


def print_matches(sources: list[Source], matches: list[list[Match]]) -> None:
    """Print a table with a row for each match.

    Args:
        sources: The images that were searched for.
        matches: The matches of each.
    """
    verdicts = {True: ("yes",), False: ("no",), None: ()}  # None: without a threshold
    has_verdicts = any(match.threshold is not None for row in matches for match in row)
    columns = ("same person",) if has_verdicts else ()
    names = _names_of_payloads(matches)
    table = Table("query", "person", "cosine similarity", *columns, *names)
    for source, row in zip(sources, matches, strict=True):
        for match in row:
            similarity = f"{match.similarity:.3f}"
            values = [_text_of(match.payload, name) for name in names]
            verdict = verdicts[match.is_same_person]
            ids = (escape(source.name), escape(match.id))
            table.add_row(*ids, similarity, *verdict, *map(escape, values))
        if not row:
            table.add_row(escape(source.name), "no match")
    console.print(table)


def _names_of_payloads(matches: list[list[Match]]) -> list[str]:
    return list(dict.fromkeys(name for r in matches for m in r for name in m.payload))


def _text_of(payload: Payload, name: str) -> str:
    value = payload.get(name, "")
    if name == "time_s" and isinstance(value, float):
        return text_from_seconds(value)
    return str(value)


def describe_rule(gallery: MemoryGallery, min_similarity: float) -> str:
    """Describe which matches are listed, and which count as the same person.

    Args:
        gallery: The gallery that was searched.
        min_similarity: The limit that the user gave; -1 for none.

    Returns:
        A sentence.
    """
    if gallery.threshold is None:
        rule = (
            "the gallery has no threshold for the same person (Gallery.set_threshold)"
        )
    else:
        rule = f"same person: from a similarity of {gallery.threshold} on"
    if min_similarity > -1:
        return f"{rule}; similarities below {min_similarity:g} are left out"
    return f"{rule}; the most similar people are listed, however unlike they are"


def write_contact_sheet(
    path: Path, queries: list[Pixels], folder: Path, matches: list[list[Match]]
) -> None:
    """Draw each query with its matches, one query below the other.

    Args:
        path: Image to write.
        queries: The images that were searched for.
        folder: Folder with the images of the gallery.
        matches: The matches of each query.
    """
    rows = []
    for query, similar in zip(queries, matches, strict=True):
        row = [("query", query)]
        for match in similar:
            pixels = read_pixels(folder / match.id, str(folder / match.id))
            row.append((f"{match.similarity:.3f}", pixels))
        rows.append(row)
    write_image(path, draw_contact_sheet(rows))
