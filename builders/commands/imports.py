"""Command for ONNX files of other origin: import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from builders.build.onnx_import import import_model
from builders.build.onnx_pixels import (
    PIXEL_FORMATS,
    PixelFormat,
    Pixels,
    describe_pixel_formats,
)
from builders.commands.app import app, console, one_of, relative
from builders.commands.models import PANEL, build_and_print
from builders.repository.layout import Repository
from builders.spec.catalogue import networks
from builders.tensors import Interpolation

ORDERS = ("RGB", "BGR")


@app.command("import", rich_help_panel=PANEL)
def import_onnx(
    file: Annotated[
        Path, typer.Argument(help="ONNX file whose first dimension is the batch.")
    ],
    name: Annotated[str, typer.Option(help="Name of the new model.")],
    pixels: Annotated[
        str | None,
        typer.Option(
            help="Form of the pixels that a file with a float input takes: "
            f"{describe_pixel_formats()}; or as_is, to serve the input as it is. The "
            "first three take UINT8 RGB crops and normalise them in front of the file."
        ),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(help="Number that pixels are divided by first. Default: 255."),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            help="Mean of each channel after --scale, for example 0.485,0.456,0.406. "
            "Default: 0,0,0."
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            help="Standard deviation of each channel after --scale, for example "
            "0.229,0.224,0.225. Default: 1,1,1."
        ),
    ] = None,
    order: Annotated[
        str | None,
        typer.Option(help="Channel order of the file: RGB or BGR. Default: RGB."),
    ] = None,
    interpolation: Annotated[
        str | None,
        typer.Option(
            help="Interpolation that crops are resized with: linear (OpenCV), cubic, "
            "linear_antialias (Pillow and torchvision) or cubic_antialias. Default: "
            "linear."
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Height and width of crops, for a file whose size varies, for example "
            "256x128."
        ),
    ] = None,
) -> None:
    """Make a model of an ONNX file: write its declaration and configs, and build it.

    This builds the cpu target. Build a plan afterwards: build NAME --target tensorrt.
    """
    numbers = (scale, mean, std)
    details = (order, interpolation, size)
    statement = _parse_pixels(pixels, numbers, details)
    path = import_model(file, name, pixels=statement)
    build_and_print(Repository(), networks([name]), "cpu", file)
    console.print(f"wrote {relative(path)}")


def _parse_pixels(
    form: str | None,
    numbers: tuple[float | None, str | None, str | None],
    details: tuple[str | None, str | None, str | None],
) -> Pixels:
    """Return the statement that the options make about pixels, or None."""
    if form is not None:
        one_of("--pixels", form, (*PIXEL_FORMATS, "as_is"))
    has_numbers = any(number is not None for number in numbers)
    if has_numbers and form is not None:
        raise typer.BadParameter(
            f"--pixels {form} states scale, mean and std; leave out --pixels, or "
            "--scale, --mean and --std"
        )
    has_details = any(detail is not None for detail in details)
    if form == "as_is":
        if has_details:
            raise typer.BadParameter(
                "--pixels as_is serves the input as it is; leave out --order, "
                "--interpolation and --size"
            )
        return "as_is"
    if form is None and not has_numbers:
        if has_details:
            raise typer.BadParameter(
                "--order, --interpolation and --size need --pixels, or --scale, --mean "
                "and --std"
            )
        return None
    base = _format_from_numbers(*numbers) if form is None else PIXEL_FORMATS[form][0]
    order, interpolation, size = details
    return PixelFormat(
        base.mean,
        base.std,
        one_of("--order", order or "RGB", ORDERS),  # type: ignore[arg-type]
        one_of(  # type: ignore[arg-type]
            "--interpolation", interpolation or "linear", get_args(Interpolation)
        ),
        None if size is None else _parse_size(size),
    )


def _format_from_numbers(
    scale: float | None, mean: str | None, std: str | None
) -> PixelFormat:
    scale = 255.0 if scale is None else scale
    means = _parse_channels("--mean", mean or "0,0,0")
    stds = _parse_channels("--std", std or "1,1,1")
    return PixelFormat(
        (means[0] * scale, means[1] * scale, means[2] * scale),
        (stds[0] * scale, stds[1] * scale, stds[2] * scale),
    )


def _parse_channels(option: str, text: str) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError as exc:
        raise typer.BadParameter(
            f"{option} {text}: expected three numbers, for example 0.485,0.456,0.406"
        ) from exc
    return red, green, blue


def _parse_size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(part) for part in text.split("x"))
    except ValueError as exc:
        raise typer.BadParameter(
            f"--size {text}: expected height x width, for example 256x128"
        ) from exc
    return height, width
