"""The commands `gallery build` and `gallery identities`: what an archive's answers say.

The answers are those of `personserve bulk`; no server is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personserve._errors import InvalidInputError
from personserve.cli.bulk import require_pyarrow
from personserve.cli.options import OPTIONS, RoleName, console
from personserve.cli.output import print_json, print_plain, warn_of_stand_ins

if TYPE_CHECKING:
    from personserve.gallery import BaseGallery
    from personserve.images.crops import Pixels

SHEET_ROWS = 12
"""Identities on a contact sheet, the largest first."""

gallery_app = typer.Typer(no_args_is_help=True, help="Galleries from archives.")

Folder = Annotated[
    Path, typer.Argument(help="Folder that `personserve bulk --output` wrote.")
]
SamePerson = Annotated[
    float | None,
    typer.Option(
        min=-1.0,
        max=1.0,
        help="Cosine similarity from which on two people are the same. It depends on "
        "the network; personserve.gallery estimates it.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@gallery_app.command()
def build(
    folder: Folder,
    output: Annotated[
        Path,
        typer.Option(help="Write the gallery to this file, for `personserve search`."),
    ] = Path("gallery.npz"),
    qdrant: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="Add the people to Qdrant instead: the URL of a server, or a folder "
            "for Qdrant's local mode.",
        ),
    ] = None,
    collection: Annotated[
        str, typer.Option(help="Name of the collection in Qdrant.")
    ] = "people",
    same_person: SamePerson = None,
    role: RoleName = None,
    json: AsJson = False,
) -> None:
    """Build a gallery from an archive's answers: a FAISS file, or in Qdrant.

    With --same-person, one person of each identity is added, the most typical one.
    """
    require_pyarrow()
    from personserve._results.roles import EMBEDDING_ROLE
    from personserve.bulk import build_gallery
    from personserve.bulk.folder import ArchiveFolder

    OPTIONS.as_json |= json
    origin = ArchiveFolder(folder).read_origin()
    target = _open_gallery(qdrant, collection)
    with OPTIONS.waiting("adding people"):
        count = build_gallery(
            folder, target, role=role or EMBEDDING_ROLE, same_person=same_person
        )
    if qdrant is None:
        target.save(output)
    where = str(output) if qdrant is None else f"{qdrant}, collection {collection}"
    if OPTIONS.as_json:
        stand_ins = origin.stand_in_weights
        print_json({"people": count, "gallery": where, "stand_in_weights": stand_ins})
        return
    warn_of_stand_ins(origin.stand_in_weights, console)
    print_plain(f"wrote {where}: {count} people", console)


@gallery_app.command()
def identities(
    folder: Folder,
    same_person: Annotated[
        float,
        typer.Option(
            min=-1.0,
            max=1.0,
            help="Cosine similarity from which on two people are the same. It depends "
            "on the network; personserve.gallery estimates it.",
        ),
    ],
    table: Annotated[
        Path, typer.Option(help="Write a row for each person to this Parquet file.")
    ] = Path("identities.parquet"),
    sheet: Annotated[
        Path | None,
        typer.Option(
            help=f"Write a contact sheet of the {SHEET_ROWS} largest identities to "
            "this file, for example identities.jpg. It reads the archive's images."
        ),
    ] = None,
    role: RoleName = None,
    json: AsJson = False,
) -> None:
    """Group the people of an archive by identity, as a table and a contact sheet."""
    require_pyarrow()
    import pyarrow.parquet as pq

    from personserve._results.roles import EMBEDDING_ROLE
    from personserve.bulk import find_identities
    from personserve.bulk.folder import ArchiveFolder
    from personserve.cli.drawing import draw_contact_sheet, write_image
    from personserve.internal.files import atomic_write

    OPTIONS.as_json |= json
    stand_ins = ArchiveFolder(folder).read_origin().stand_in_weights
    with OPTIONS.waiting("comparing people"):
        result = find_identities(folder, same_person, role=role or EMBEDDING_ROLE)
    with atomic_write(table) as partial:
        pq.write_table(result.table, partial)
    people, count = len(result.table), len(result.representatives)
    if sheet is not None and people:
        write_image(sheet, draw_contact_sheet(_read_sheet(result.table)))
    if OPTIONS.as_json:
        values = {"people": people, "identities": count, "table": str(table)}
        print_json({**values, "stand_in_weights": stand_ins})
        return
    warn_of_stand_ins(stand_ins, console)
    print_plain(f"wrote {table}: {people} people, {count} identities", console)


def _open_gallery(qdrant: str | None, collection: str) -> BaseGallery:
    from personserve.gallery import Gallery, QdrantGallery

    if qdrant is None:
        return Gallery()
    try:
        from qdrant_client import QdrantClient
    except ImportError as exc:
        raise InvalidInputError(
            f"--qdrant needs its client: pip install qdrant-client: {exc}"
        ) from exc
    is_url = "://" in qdrant
    server = QdrantClient(url=qdrant) if is_url else QdrantClient(path=qdrant)
    return QdrantGallery(server, collection)


def _read_sheet(table: Any) -> Sequence[Sequence[tuple[str, Pixels]]]:
    """Read the images of the largest identities, the most typical first."""
    from personserve.bulk.reading import read_person
    from personserve.cli.drawing import TILES_PER_ROW

    by_identity: dict[int, list[tuple[str, Pixels]]] = {}
    for row in table.to_pylist():
        if row["identity"] >= SHEET_ROWS:
            break
        tiles = by_identity.setdefault(row["identity"], [])
        if len(tiles) < TILES_PER_ROW:
            title = f"{row['similarity']:.3f}"
            if row["is_representative"]:
                title = f"{row['identity']}: {row['count']} seen"
            tiles.append((title, read_person(row)))
    return list(by_identity.values())
