"""Answers about people as text on the terminal."""

from __future__ import annotations

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from personserve._answers import read_roles
from personserve._client import Client
from personserve._errors import PersonServeError
from personserve._results import Classification, People
from personserve._results.roles import EMBEDDING_ROLE, GENDER_ROLE, kind_of_role
from personserve.cli.frames import Frame
from personserve.cli.output import print_plain

RULE_TIMEOUT_S = 2.0
"""Time for asking the server for its threshold, after it answered everything else."""

VIDEO_HEADER = f"{'frame':>8} {'time':>10} {'detections':>11}  genders"
IMAGES_HEADER = f"{'detections':>11}  image: genders"


def print_people(people: People, console: Console) -> None:
    """Print a row for each person, with the most similar of the others.

    Args:
        people: The people of one image.
        console: Where the table is printed.
    """
    if not people:
        console.print("no people detected; pass --boxes to say where people are")
        return
    columns: dict[str, list[str]] = {
        "person": [str(index + 1) for index in range(len(people))],
        "box": [
            " ".join(f"{value:.0f}" for value in person.box or ()) for person in people
        ],
    }
    genders = [person.gender for person in people if person.gender is not None]
    if genders:
        columns["gender"] = [
            "undecided" if each.abstained else escape(each.label) for each in genders
        ]
        columns["probability"] = [f"{each.probability:.3f}" for each in genders]
    if people.class_probabilities is not None:
        columns["class"] = [_class_text(each) for each in people.top_classes(1)]
    for role, values in people.outputs.items():
        if kind_of_role(role) == "embedding":
            by_role = "" if role == EMBEDDING_ROLE else f" by {role}"
            columns[f"most similar other{by_role}"] = _nearest_texts(
                people.select(embedding=role)
            )
        elif role != GENDER_ROLE and values.shape[1] == 1:
            columns[role] = [f"{value:.3f}" for value in values[:, 0]]
    table = Table(*columns)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    console.print(table)


def _nearest_texts(people: People) -> list[str]:
    if len(people) < 2:
        return [""] * len(people)
    similarities = people.similarities()
    np.fill_diagonal(similarities, -np.inf)
    return [f"{int(row.argmax()) + 1} (cosine {row.max():.3f})" for row in similarities]


def _class_text(classification: Classification) -> str:
    (best,) = classification.classes
    name = f"class {best.index}" if best.label is None else escape(best.label)
    return f"{name} {best.probability:.3f}"


def print_frame_row(frame: Frame, people: People, console: Console) -> None:
    """Print one line about a frame of a video, or about one of several images.

    Args:
        frame: The frame.
        people: Its people.
        console: Where the line is printed.
    """
    genders = ", ".join(people.labels())
    if frame.index is None:
        text = f"{len(people):>11}  {frame.name}: {genders or 'no people detected'}"
    else:
        time = "" if frame.time_s is None else f"{frame.time_s:.2f} s"
        text = f"{frame.index:>8} {time:>10} {len(people):>11}  {genders}"
    print_plain(text, console)


def print_gender_rule(client: Client, model: str, console: Console) -> None:
    """Print from which probability on the server says which gender.

    Args:
        client: The client whose server answered.
        model: Name of the model that answered; nothing is printed if it answers no
            gender.
        console: Where the line is printed.
    """
    try:
        roles = read_roles(client.describe(model, timeout_s=RULE_TIMEOUT_S), 0.0)
    except PersonServeError:
        return  # the answers are printed already, and are the server's own
    if (role := roles.get(GENDER_ROLE)) is not None:
        print_plain(
            f"gender: {role.labels[1]} from a female probability of "
            f"{role.threshold:g} on (the server's threshold), otherwise "
            f"{role.labels[0]}",
            console,
        )
