"""Import of ONNX files: a trial in a child process, and declaration as a model.

`python -m builders import` makes a model of any ONNX file with a batch dimension: it
writes the declaration to a file of its own in builders/models/.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from builders.build import onnx_check
from builders.build.onnx_check import (
    MAX_ONNX_BYTES,
    OnnxImportError,
    declaration_from_proto,
    parse_onnx,
)
from builders.build.onnx_pixels import Pixels, pixels_of, text_from_pixels, wrap_pixels
from builders.repository.layout import ROOT
from builders.spec.catalogue import catalogue
from builders.spec.model import Network, OnnxModel
from builders.tensors import Image, Tensor, require_name
from builders.weights import Checkpoint, Origin, require_file
from personserve.internal.files import write_text

MODELS = ROOT / "builders" / "models"

FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. +()-]{0,99}")
"""Names of files that are imported: they appear in source text, tables and configs."""


def declaration_from_onnx(path: Path, name: str, pixels: Pixels = "as_is") -> OnnxModel:
    """Return the declaration under which an ONNX file would be served.

    Args:
        path: ONNX file; it is run once in a child process.
        name: Name of the model.
        pixels: What the user states about the pixels that it takes.

    Raises:
        OnnxImportError: The file cannot be served, or `pixels` does not fit it.
        SpecError: The name or a tensor's name is not allowed.
    """
    return _declare(_read_and_try(path, pixels), path, name, pixels)


def declaration_text(model: OnnxModel) -> str:
    """Return the source of a file for builders/models/.

    Args:
        model: Declaration to write.
    """

    def tensors(values: tuple[Tensor, ...]) -> str:
        lines = [
            f"        Tensor({_quote(v.name)}, {_quote(v.data_type)}, {v.shape!r}),\n"
            for v in values
        ]
        return "(\n" + "".join(lines) + "    )"

    images = "".join(f"        {_image_text(i)},\n" for i in model.wrapped_images)
    return (
        f'"""An imported ONNX file: {model.name}."""\n\n'
        "from builders.spec.model import OnnxModel\n"
        "from builders.spec.source import Source\n"
        f"from builders.tensors import {'Image, ' if images else ''}Tensor\n\n"
        "MODEL = OnnxModel(\n"
        f"    name={_quote(model.name)},\n"
        "    source=Source(\n"
        f"        {_quote(model.source.name)},\n"
        f"        licence={_quote(model.source.licence)},\n"
        "    ),\n"
        f"    inputs={tensors(model.inputs)},\n"
        f"    output_tensors={tensors(model.output_tensors)},\n"
        + (f"    wrapped_images=(\n{images}    ),\n" if images else "")
        + ")\n"
    )


def _quote(text: str) -> str:
    return json.dumps(text)


def _image_text(image: Image) -> str:
    """Return an image as source text, with everything that `import` can state."""
    return (
        f"Image(\n            {image.height},\n            {image.width},\n"
        f"            mean={image.mean!r},\n            std={image.std!r},\n"
        f"            name={_quote(image.name)},\n"
        f"            order={_quote(image.order)},\n"
        f"            interpolation={_quote(image.interpolation)},\n        )"
    )


def import_model(
    path: Path, name: str, folder: Path = MODELS, *, pixels: Pixels = None
) -> Path:
    """Declare an ONNX file as a model, after running it once.

    Args:
        path: ONNX file.
        name: Name of the new model, and of its file.
        folder: Folder of the models' declarations.
        pixels: What the user states about the pixels that the file takes.

    Returns:
        The declaration's file.

    Raises:
        OnnxImportError: The name is taken, or the file cannot be served, or it takes
            pixels and `pixels` is None or does not fit.
        SpecError: The name or a tensor's name is not allowed.
    """
    require_name(name, "model")
    declaration = folder / f"{name}.py"
    if declaration.exists() or name in catalogue():
        raise OnnxImportError(f"a model {name!r} is there already; choose another name")
    if not FILE_NAME.fullmatch(path.name):
        raise OnnxImportError(
            f"file name {path.name!r}: expected up to 100 letters, digits, spaces and "
            "_ . + ( ) -, because it is written to source text; rename the file"
        )
    model = declaration_from_onnx(path, name, pixels)
    write_text(declaration, declaration_text(model))
    catalogue.cache_clear()
    return declaration


def read_imported_file(model: OnnxModel, origin: Origin) -> bytes:
    """Return the content of an imported model's file, after running it once.

    Args:
        model: Declaration that the file must fit.
        origin: The file, as a checkpoint.

    Raises:
        OnnxImportError: There is no file, or it does not fit the declaration, or it
            does not run.
    """
    if not isinstance(origin, Checkpoint):
        raise _no_file_error(model)
    path, pixels = Path(origin.file), pixels_of(model)
    data = _read_and_try(path, pixels)
    if hashlib.sha256(data).hexdigest() != origin.sha256:
        raise OnnxImportError(f"{path} was changed during the build; build again")
    declaration = _declare(data, path, model.name, pixels)
    for side in ("inputs", "output_tensors"):
        if getattr(declaration, side) != getattr(model, side):
            raise OnnxImportError(
                f"{path.name} has {side} {getattr(declaration, side)}, but "
                f"{model.name} declares {getattr(model, side)}; import it under "
                "another name"
            )
    return data


def wrap_imported_file(model: OnnxModel, data: bytes) -> bytes:
    """Return the served form of an imported file, behind its images' normalisation.

    Args:
        model: Declaration of the file.
        data: Content of the file.

    Raises:
        SpecError: The graph has names that the normalisation needs.
    """
    if not model.wrapped_images:
        return data
    proto = parse_onnx(data, model.name)
    return wrap_pixels(proto, model.wrapped_images, model.name).SerializeToString()


def require_imported_file(model: Network, origin: Origin) -> None:
    """Require that an imported model's file is named: it has no stand-in.

    Args:
        model: A model, imported or declared.
        origin: Where its weights come from.

    Raises:
        OnnxImportError: The model is an imported file, and none is named.
    """
    if isinstance(model, OnnxModel) and not isinstance(origin, Checkpoint):
        raise _no_file_error(model)


def _no_file_error(model: OnnxModel) -> OnnxImportError:
    return OnnxImportError(
        f"{model.name} is an imported ONNX file and has no stand-in; pass "
        "--weights FILE.onnx"
    )


def _declare(data: bytes, path: Path, name: str, pixels: Pixels) -> OnnxModel:
    proto = parse_onnx(data, path.name)
    return declaration_from_proto(proto, path.name, name, pixels)


def _read_and_try(path: Path, pixels: Pixels) -> bytes:
    """Read an ONNX file, and check and run it once in a child process."""
    require_file(path, MAX_ONNX_BYTES, OnnxImportError)
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise OnnxImportError(f"{path}: cannot be read: {exc.strerror}") from exc
    statement = text_from_pixels(pixels)
    command = [sys.executable, "-m", onnx_check.__name__, statement, path.name]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        trial = subprocess.run(
            command,
            input=data,
            env=environment,
            cwd=ROOT,
            capture_output=True,
            timeout=onnx_check.TRIAL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise OnnxImportError(
            f"{path.name} was not checked and run within "
            f"{onnx_check.TRIAL_TIMEOUT_S:g} s, which no model for a server may take; "
            "export a smaller graph"
        ) from exc
    _require_success(trial, path.name, len(data))
    return data


def _require_success(
    trial: subprocess.CompletedProcess[bytes], file_name: str, size: int
) -> None:
    """Raise the error that a trial printed, or one that says how it ended."""
    try:
        error = json.loads(trial.stdout)["error"]
    except (ValueError, KeyError, TypeError):
        lines = trial.stderr.decode(errors="replace").strip().splitlines()
        end = f"exit code {trial.returncode}"
        if trial.returncode < 0:
            end = signal.Signals(-trial.returncode).name
        raise OnnxImportError(
            f"{file_name}: the process that checks and runs it ended with {end}; it "
            f"may use {onnx_check.trial_bytes(size):,} bytes of memory. Its last line: "
            f"{lines[-1][:200] if lines else '(nothing)'}"
        ) from None
    if error is not None:
        raise OnnxImportError(str(error))
