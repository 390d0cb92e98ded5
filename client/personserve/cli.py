"""The command line: `personserve --help`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

try:
    import typer
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table
except ImportError as exc:
    sys.exit(f'error: {exc}; the commands need pip install "personserve[cli]"')

import numpy as np

from personserve._calls import CROPS_MODEL, FRAME_MODEL
from personserve._client import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S, Client
from personserve._closed_loop import closed_loop
from personserve._drawing import contact_sheet, write_picture
from personserve._errors import PersonServeError
from personserve._looking import is_video, parsed_boxes, picture_of, pictures_in
from personserve._pictures import as_pixels
from personserve._showing import (
    print_json,
    show_picture,
    show_video,
    warn_of_stand_ins,
)
from personserve.gallery import Gallery

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Ask a Triton server about people: gender, who is who, kinship.",
)
console = Console()
errors = Console(stderr=True)

EMBEDDED_AT_ONCE = 64
BENCH_CROP_HW = (256, 128)


@dataclass
class Settings:
    """The options before the command."""

    servers: list[str] = field(default_factory=list)
    timeout_s: float = DEFAULT_TIMEOUT_S
    shared_memory: bool = False
    plain: bool = False

    @contextmanager
    def client(self) -> Iterator[Client]:
        memory = "system" if self.shared_memory else None
        with Client(
            self.servers or DEFAULT_ADDRESS,
            timeout_s=self.timeout_s,
            shared_memory=memory,  # type: ignore[arg-type]
        ) as client:
            yield client


SETTINGS = Settings()

Output = Annotated[
    Path | None, typer.Option(help="Where the annotated picture or video goes.")
]


@app.callback()
def options(
    server: Annotated[
        list[str] | None,
        typer.Option(
            envvar="PERSONSERVE_SERVER",
            help="grpc://, grpcs://, http:// or https://host:port; may be repeated. "
            f"Default: {DEFAULT_ADDRESS}.",
        ),
    ] = None,
    timeout_s: Annotated[
        float, typer.Option(help="Seconds that a call may take.")
    ] = DEFAULT_TIMEOUT_S,
    shared_memory: Annotated[
        bool,
        typer.Option("--shared-memory", help="For a server on this machine."),
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON, a line for each answer.")
    ] = False,
) -> None:
    SETTINGS.servers = server or []
    SETTINGS.timeout_s, SETTINGS.shared_memory = timeout_s, shared_memory
    SETTINGS.plain = json


@app.command()
def check() -> None:
    """Whether the server is there and serves people. Exit code 1 if not."""
    with SETTINGS.client() as client:
        models = client.models(timeout_s=min(5.0, SETTINGS.timeout_s))
        ready = {model.name for model in models if model.ready}
        missing = [name for name in (FRAME_MODEL, CROPS_MODEL) if name not in ready]
        untrained = client.describe(FRAME_MODEL).parameters if not missing else {}
    names = untrained.get("stand_in_weights", "")
    stand_ins = tuple(names.split(",")) if names else ()
    if SETTINGS.plain:
        print_json({"missing": missing, "stand_in_weights": stand_ins})
    elif not missing:
        console.print(f"[green]ready[/green]: {len(ready)} models")
        warn_of_stand_ins(stand_ins, console)
    if missing:
        _fail(f"the server runs, but not {', '.join(missing)}; personserve models")


@app.command()
def models() -> None:
    """What is in the server's repository."""
    with SETTINGS.client() as client:
        found = client.models()
    if SETTINGS.plain:
        for model in found:
            print_json(vars(model))
        return
    table = Table("model", "version", "state")
    for model in found:
        state = "[green]ready[/green]" if model.ready else model.reason or "not loaded"
        table.add_row(model.name, model.version, state)
    console.print(table)


@app.command()
def attributes(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PICTURE|VIDEO|CAMERA", help="A file, a camera's number, or a URL."
        ),
    ],
    boxes: Annotated[
        str | None,
        typer.Option(
            help="People of a picture as 'x0,y0,x1,y1 ...' in pixels; otherwise "
            "OpenCV's HOG detector looks for them."
        ),
    ] = None,
    output: Output = None,
    frames: Annotated[
        int | None,
        typer.Option(min=1, help="So many of a video's frames, evenly spread."),
    ] = None,
) -> None:
    """Gender and likeness of the people in a picture or video."""
    plain = SETTINGS.plain
    with SETTINGS.client() as client:
        if is_video(source):
            show_video(client, source, frames, output, console, plain=plain)
            return
        given = None if boxes is None else parsed_boxes(boxes)
        show_picture(client, picture_of(source, given), output, console, plain=plain)


@app.command()
def embed(
    folder: Annotated[Path, typer.Argument(help="Crops of people, at any depth.")],
    output: Annotated[Path, typer.Option(help="Where the gallery goes.")] = Path(
        "gallery.npz"
    ),
) -> None:
    """Make a gallery of the people in a folder, for search. Ids are their files."""
    paths = pictures_in(folder)
    gallery = Gallery()
    with SETTINGS.client() as client:
        starts = range(0, len(paths), EMBEDDED_AT_ONCE)
        for start in track(
            starts, "embedding", console=console, disable=SETTINGS.plain
        ):
            part = paths[start : start + EMBEDDED_AT_ONCE]
            people = client.attributes_of_crops([as_pixels(p, str(p)) for p in part])
            names = [path.relative_to(folder).as_posix() for path in part]
            gallery.add(names, people.embeddings)
    gallery.save(output)
    if SETTINGS.plain:
        print_json({"people": len(gallery), "gallery": str(output)})
        return
    warn_of_stand_ins(people.stand_in_weights, console)
    console.print(f"wrote {output}: {len(gallery)} people")


@app.command()
def search(
    gallery: Annotated[Path, typer.Argument(help="What embed wrote.")],
    picture: Annotated[Path, typer.Argument(help="A crop of one person.")],
    count: Annotated[int, typer.Option(min=1, help="How many to show.")] = 5,
    folder: Annotated[
        Path | None,
        typer.Option(help="The folder that was embedded, for a picture of them all."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Where that picture goes.")] = Path(
        "search.jpg"
    ),
) -> None:
    """Who of a gallery looks most alike."""
    known = Gallery.load(gallery)
    asked = as_pixels(picture, str(picture))
    with SETTINGS.client() as client:
        (person,) = client.attributes_of_crops([asked])
    matches = known.search(person, count)
    if SETTINGS.plain:
        for match in matches:
            print_json(vars(match))
    else:
        table = Table("person", "cosine similarity")
        for match in matches:
            table.add_row(match.id, f"{match.similarity:.3f}")
        console.print(table)
    if folder is not None:
        found = [
            (f"{match.similarity:.3f}", as_pixels(folder / match.id, match.id))
            for match in matches
        ]
        write_picture(output, contact_sheet([("asked", asked), *found]))
        if not SETTINGS.plain:
            console.print(f"wrote {output}")


@app.command()
def kinship(
    face_a: Annotated[Path, typer.Argument(help="A picture of a face.")],
    face_b: Annotated[Path, typer.Argument(help="Another one.")],
) -> None:
    """How probably two faces are related."""
    with SETTINGS.client() as client:
        found = client.kinship(face_a, face_b)
    if SETTINGS.plain:
        print_json({"related_probability": found.probability})
        return
    console.print(f"related with a probability of {found.probability:.3f}")
    warn_of_stand_ins(found.stand_in_weights, console)


@app.command()
def bench(
    people: Annotated[int, typer.Option(min=1, help="Crops in a call.")] = 8,
    concurrency: Annotated[int, typer.Option(min=1, help="Calls at once.")] = 4,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long.")] = 10.0,
) -> None:
    """How many people a second the server answers, and how long one call takes."""
    rng = np.random.default_rng(0)
    shape = (people, *BENCH_CROP_HW, 3)
    crops = rng.integers(0, 256, shape, dtype=np.uint8)
    with SETTINGS.client() as client:
        client.attributes_of_crops(crops)
        ask = partial(client.attributes_of_crops, crops)
        times, taken_s = closed_loop(ask, concurrency, seconds)
    median, late = np.percentile(times, [50, 99]) * 1e3
    rate = people * len(times) / taken_s
    if SETTINGS.plain:
        print_json({"people_per_s": rate, "p50_ms": median, "p99_ms": late})
        return
    console.print(
        f"{rate:.1f} people/s, a call of {people} takes {median:.1f} ms (p50), "
        f"{late:.1f} ms (p99); {len(times)} calls, {concurrency} at once"
    )


def main() -> None:
    """Run the command line; errors become one message and exit code 1."""
    try:
        app()
    except PersonServeError as exc:
        _fail(str(exc))
    except OSError as exc:
        _fail(str(exc))


def _fail(message: str) -> NoReturn:
    errors.print("error:", style="red", end=" ")
    errors.print(message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)
