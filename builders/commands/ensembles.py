"""Command for ensembles: compose."""

from __future__ import annotations

from typing import Annotated

import typer

from builders.commands.app import app, console, relative
from builders.repository.compose import compose_ensemble
from builders.repository.layout import Repository

PANEL = "Models"


@app.command(rich_help_panel=PANEL)
def compose(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the new ensemble.")
    ],
    models: Annotated[
        str,
        typer.Option(
            help="Names of its networks, separated by commas: person_gender_rmnet,"
            "person_reid_kd_r34. Each takes one image, and no two have an output of "
            "the same name."
        ),
    ],
    role: Annotated[
        list[str] | None,
        typer.Option(
            help="NETWORK.OUTPUT=ROLE: the output's name for clients, if it differs "
            "from the network's; may be repeated. A role's ending tells the client its "
            "kind: female_probability, embedding, class_probabilities; "
            "kinship_embedding is an embedding, too."
        ),
    ] = None,
    crops: Annotated[
        bool,
        typer.Option(
            "--crops", help="Take ready crops as input, not a frame with boxes."
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file of this ensemble.")
    ] = False,
) -> None:
    """Write an ensemble of any networks: a frame and boxes in, all answers out.

    The file goes to ensembles/. Preprocessing cuts exactly the crops that the networks
    need. `serve --model NAME` renders and loads the ensemble.
    """
    names = [each.strip() for each in models.split(",") if each.strip()]
    ensemble, path = compose_ensemble(
        name, names, roles=_parse_roles(role or ()), of_crops=crops, force=force
    )
    inputs = ", ".join(tensor.name for tensor in ensemble.inputs)
    console.print(f"wrote {relative(path)}")
    console.print(f"{name}: {inputs} -> {', '.join(ensemble.outputs)}", highlight=False)
    repository = Repository()
    missing = [
        network.name
        for network in ensemble.models
        if not repository.is_built(network, "cpu")
    ]
    console.print("next:")
    if missing:
        console.print(f"  python -m builders build {' '.join(missing)}", soft_wrap=True)
    console.print(f"  python -m builders serve --model {name}", soft_wrap=True)


def _parse_roles(texts: list[str] | tuple[()]) -> dict[str, str]:
    roles = {}
    for text in texts:
        output, equals, role = text.partition("=")
        if not (equals and output and role):
            raise typer.BadParameter(f"--role {text!r}: expected NETWORK.OUTPUT=ROLE")
        roles[output] = role
    return roles
