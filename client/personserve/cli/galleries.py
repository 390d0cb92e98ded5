"""The commands about galleries of known people: embed, search, expire."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personserve._errors import InvalidInputError
from personserve.cli.options import (
    DEFAULT_MODEL,
    OPTIONS,
    SOURCES_HELP,
    WHEN_HELP,
    ModelName,
    RoleName,
    command,
    console,
)
from personserve.cli.output import print_json, print_plain, warn_of_stand_ins

if TYPE_CHECKING:
    from personserve._client import Client
    from personserve._results import People
    from personserve.cli.sources import Source
    from personserve.images.crops import Pixels

EMBED_BATCH = 64
"""Images in one call while images are embedded."""


@command
def embed(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help=f"{SOURCES_HELP}; one person in each image. Paths relative to the "
            "folder, or the names of the files, become the ids of the gallery.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Write the gallery to this file.")] = (
        Path("gallery.npz")
    ),
    add: Annotated[
        bool,
        typer.Option(
            "--add",
            help="Add to the gallery file if it exists, instead of replacing it. "
            "Network and weights must be the same, and ids must differ.",
        ),
    ] = False,
    camera: Annotated[
        str | None,
        typer.Option(help="Name of the camera of all images, for `search --camera`."),
    ] = None,
    camera_folders: Annotated[
        bool,
        typer.Option(
            "--camera-folders",
            help="Take the first folder below SOURCE as the name of the camera: "
            "crops/entrance/1.jpg is of the camera `entrance` if SOURCE is crops/.",
        ),
    ] = False,
    file_times: Annotated[
        bool,
        typer.Option(
            "--file-times",
            help="Take the modification time of each file as the time when the person "
            "was seen, for `search --since` and `expire`.",
        ),
    ] = False,
    model: ModelName = DEFAULT_MODEL,
    role: RoleName = None,
) -> None:
    """Build a gallery from images of one person each, for `personserve search`."""
    from rich.progress import Progress

    from personserve.cli.sources import resolve_images
    from personserve.gallery import MemoryGallery

    if camera is not None and camera_folders:
        raise typer.BadParameter("expected --camera or --camera-folders, got both")
    with OPTIONS.waiting("looking for the images"):
        sources = resolve_images(images, OPTIONS.timeout_s)
    payloads = [
        {
            "camera": _camera_of(source) if camera_folders else camera,
            "time_s": _time_of(source) if file_times else None,
        }
        for source in sources
    ]
    gallery = MemoryGallery()
    if add and output.exists():
        gallery.add_from(output)
    stand_ins: tuple[str, ...] = ()
    bar = Progress(
        *Progress.get_default_columns(),
        console=console,
        transient=True,
        disable=OPTIONS.as_json or not console.is_terminal,
    )
    with OPTIONS.client() as client, bar:
        task = bar.add_task("embedding", total=len(sources))
        for start in range(0, len(sources), EMBED_BATCH):
            batch = sources[start : start + EMBED_BATCH]
            crops = [source.read_image(OPTIONS.timeout_s) for source in batch]
            people = _embed_people(client, crops, model, role)
            ids = [_id_of(source) for source in batch]
            gallery.add(ids, people, payloads[start : start + EMBED_BATCH])
            stand_ins = people.stand_in_weights
            bar.advance(task, len(batch))
    gallery.save(output)
    if OPTIONS.as_json:
        values = {"people": len(gallery), "gallery": str(output)}
        print_json({**values, "stand_in_weights": stand_ins})
        return
    warn_of_stand_ins(stand_ins, console)
    print_plain(f"wrote {output}: {len(gallery)} people", console)


@command
def search(
    gallery: Annotated[
        Path, typer.Argument(help="Gallery file that `personserve embed` wrote.")
    ],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help=f"{SOURCES_HELP}; one person to search for in each image.",
        ),
    ],
    count: Annotated[int, typer.Option(min=1, help="Show this many matches.")] = 5,
    min_similarity: Annotated[
        float,
        typer.Option(
            min=-1.0,
            max=1.0,
            help="Leave out matches with a lower cosine similarity. Default: the most "
            "similar are shown, however unlike they are.",
        ),
    ] = -1.0,
    camera: Annotated[
        list[str] | None,
        typer.Option(
            help="Search only among people of this camera. Repeat the option for "
            "several cameras."
        ),
    ] = None,
    not_camera: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave out people of this camera, to search across cameras. Repeat "
            "the option for several cameras."
        ),
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(
            help="Search only among people of this track. Repeat it for several tracks."
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help=f"Search only among people who were seen at this time or later: "
            f"{WHEN_HELP}.",
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="Search only among people who were seen before this time.",
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Folder that was embedded. With it, a contact sheet of each query and "
            "its matches is written."
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option(help="Write the contact sheet to this file.")
    ] = Path("search.jpg"),
    model: ModelName = DEFAULT_MODEL,
    role: RoleName = None,
) -> None:
    """Find the people of a gallery most similar to the person in each image."""
    from personserve.cli.filters import filter_from_options
    from personserve.cli.matches import (
        describe_rule,
        print_matches,
        print_matches_as_json,
        write_contact_sheet,
    )
    from personserve.cli.sources import resolve_images
    from personserve.gallery import MemoryGallery

    where = filter_from_options(camera, not_camera, track, since, until)
    known_people = MemoryGallery.load(gallery)
    with OPTIONS.waiting("searching"), OPTIONS.client() as client:
        sources = resolve_images(images, OPTIONS.timeout_s)
        queries = [source.read_image(OPTIONS.timeout_s) for source in sources]
        people = _embed_people(client, queries, model, role)
    matches = known_people.search(
        people, count, min_similarity=min_similarity, where=where
    )
    # both sides of a comparison need trained weights
    of_gallery = [
        name for row in matches for each in row for name in each.stand_in_weights
    ]
    stand_ins = tuple(dict.fromkeys((*people.stand_in_weights, *of_gallery)))
    if OPTIONS.as_json:
        print_matches_as_json(sources, matches, stand_ins)
    else:
        print_matches(sources, matches)
        print_plain(describe_rule(known_people, min_similarity), console)
        warn_of_stand_ins(stand_ins, console)
    if folder is not None:
        write_contact_sheet(output, queries, folder, matches)
        if not OPTIONS.as_json:
            print_plain(f"wrote {output}", console)


@command
def expire(
    gallery: Annotated[
        Path, typer.Argument(help="Gallery file that `personserve embed` wrote.")
    ],
    before: Annotated[
        str,
        typer.Option(
            metavar="WHEN",
            help=f"Remove people who were last seen before this time: {WHEN_HELP}.",
        ),
    ],
    camera: Annotated[
        list[str] | None,
        typer.Option(
            help="Remove only people of this camera. Repeat the option for several."
        ),
    ] = None,
) -> None:
    """Remove people who were seen before a time from a gallery; asks no server."""
    from personserve.cli.filters import filter_from_options, seconds_from_text
    from personserve.gallery import MemoryGallery

    known_people = MemoryGallery.load(gallery)
    where = filter_from_options(camera, None, None, None, None)
    removed = known_people.expire(seconds_from_text(before), where=where)
    if removed:
        known_people.save(gallery)
    if OPTIONS.as_json:
        print_json({"removed": removed, "people": len(known_people)})
        return
    print_plain(f"{gallery}: removed {removed}, {len(known_people)} remain", console)
    without = sum("time_s" not in entry.payload for entry in known_people.entries())
    if without:
        print_plain(
            f"{without} of them have no time, so they never expire (`personserve embed "
            "--file-times` stores one)",
            console,
        )


def _embed_people(
    client: Client, crops: Sequence[Pixels], model: str, role: str | None
) -> People:
    people = client.attributes_of_crops(crops, model=model)
    if role is None and people.embeddings is None:
        raise InvalidInputError(
            f"{model} answers {', '.join(people.outputs)}, not embedding; name an "
            "output to compare people by (--role), or another model (--model)"
        )
    return people.select(embedding=role)


def _camera_of(source: Source) -> str:
    folder, separator, _ = source.relative.partition("/")
    if not separator:
        raise InvalidInputError(
            f"{source.name}: --camera-folders expects a folder for each camera below "
            "the folder that is named, such as crops/entrance/1.jpg for crops/"
        )
    return folder


def _time_of(source: Source) -> float:
    from personserve.cli.sources import is_web_address

    if is_web_address(source.name):
        raise InvalidInputError(f"{source.name}: --file-times expects files")
    return Path(source.name).stat().st_mtime


def _id_of(source: Source) -> str:
    from personserve.cli.sources import is_web_address

    return source.name if is_web_address(source.name) else source.relative
