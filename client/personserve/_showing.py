"""What the commands do with answers: tables, pictures and JSON, from any client."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from personserve._client import Client
from personserve._drawing import VideoFile, annotated, write_picture
from personserve._looking import Frame, frame_count, frames_of
from personserve._results import People


def show_picture(
    client: Client, frame: Frame, output: Path | None, console: Console, *, plain: bool
) -> None:
    """Ask about the people of a picture; draw and print what comes."""
    people = client.attributes(frame.pixels, frame.boxes, crops="auto")
    if output is not None:
        write_picture(output, annotated(frame.pixels, people))
    if plain:
        print_json({"frame": frame.name, **people.to_dict()})
        return
    print_people(people, console)
    if output is not None:
        console.print(f"wrote {output}")


def show_video(
    client: Client,
    source: str,
    frames: int | None,
    output: Path | None,
    console: Console,
    *,
    plain: bool,
) -> None:
    """The same for each frame of a video, several at a time; Ctrl-C ends a camera."""
    waiting: deque[Frame] = deque()

    def asked() -> Iterator[tuple[Any, Any]]:
        for frame in frames_of(source, frames):
            waiting.append(frame)
            yield frame.pixels, frame.boxes

    table = Table("frame", "people", "genders")
    total = frame_count(source, frames)
    seen, people = 0, None
    with VideoFile(output) as video:
        answers = client.attributes_stream(asked(), crops="auto")
        try:
            for people in track(
                answers, "watching", total=total, console=console, disable=plain
            ):
                frame = waiting.popleft()
                video.write(annotated(frame.pixels, people))
                seen += len(people)
                if plain:
                    print_json({"frame": frame.name, **people.to_dict()})
                else:
                    genders = ", ".join(person.gender.label for person in people)
                    table.add_row(frame.name, str(len(people)), genders)
        except KeyboardInterrupt:
            if not source.isdigit() and "://" not in source:
                raise
    if plain:
        return
    console.print(table)
    console.print(f"{table.row_count} frames, {seen} people")
    if people is not None:
        warn_of_stand_ins(people.stand_in_weights, console)
    if output is not None:
        console.print(f"wrote {output}")


def print_people(people: People, console: Console) -> None:
    """A row for each person, with who of the others looks most alike."""
    if not people:
        console.print("nobody found; give --boxes to say where people are")
        return
    table = Table("person", "box", "gender", "probability", "nearest other")
    similarities = people.similarities()
    np.fill_diagonal(similarities, -np.inf)
    for index, person in enumerate(people):
        nearest = int(similarities[index].argmax())
        table.add_row(
            str(index + 1),
            ", ".join(f"{value:.0f}" for value in person.box or ()),
            "undecided" if person.gender.abstained else person.gender.label,
            f"{person.gender.probability:.3f}",
            f"{nearest + 1} (cosine {similarities[index, nearest]:.3f})"
            if len(people) > 1
            else "",
        )
    console.print(table)
    warn_of_stand_ins(people.stand_in_weights, console)


def warn_of_stand_ins(models: tuple[str, ...], console: Console) -> None:
    """Say that answers mean nothing, where they do not."""
    if models:
        console.print(
            "[yellow]stand-in weights (untrained, the answers mean nothing): "
            f"{', '.join(models)}; python -m builders build MODEL --weights "
            "FILE[/yellow]"
        )


def print_json(value: Any) -> None:
    """One line of JSON on standard output."""
    print(json.dumps(value), flush=True)  # noqa: T201 - what --json asks for
