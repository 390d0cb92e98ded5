"""ONNX files from elsewhere: read with care, declared, checked.

`declaration_of` turns any ONNX file with a batch dimension into an OnnxModel;
`python -m builders import` writes that declaration down as a model of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builders.spec import DataType, OnnxModel, Tensor
from builders.weights import Checkpoint, Origin

if TYPE_CHECKING:
    import onnx

MAX_ONNX_BYTES = 2 << 30
"""protobuf's own limit; larger files keep their weights outside, which we refuse."""

DATA_TYPES: dict[str, DataType] = {
    "BOOL": "BOOL",
    "UINT8": "UINT8",
    "INT8": "INT8",
    "INT32": "INT32",
    "INT64": "INT64",
    "FLOAT16": "FP16",
    "FLOAT": "FP32",
    "DOUBLE": "FP64",
}


class OnnxFileError(ValueError):
    """An ONNX file that cannot be served; says why and what to do."""


def read_onnx(path: Path) -> onnx.ModelProto:
    """The checked model in `path`. Raises OnnxFileError.

    External data is refused: it names further files, and those names are not ours.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        size = path.stat().st_size
        if size > MAX_ONNX_BYTES:
            raise OnnxFileError(f"{path.name}: {size:,} bytes, over protobuf's 2 GiB")
        model = onnx.load(path, load_external_data=False)
        outside = [
            tensor.name
            for tensor in model.graph.initializer
            if tensor.data_location == onnx.TensorProto.EXTERNAL
        ]
        if outside:
            raise OnnxFileError(
                f"{path.name}: keeps {len(outside)} tensors in other files "
                f"({outside[0]}, ...); save it as one file (onnx.save without "
                "save_as_external_data)"
            )
        onnx.checker.check_model(model, full_check=True)
    except OSError as exc:
        raise OnnxFileError(f"{path}: cannot be read: {exc.strerror}") from exc
    except DecodeError as exc:
        raise OnnxFileError(f"{path.name}: not an ONNX file, or cut short") from exc
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        first = str(exc).strip().splitlines()[0]
        raise OnnxFileError(f"{path.name}: not valid ONNX: {first}") from exc
    return model


def declaration_of(path: Path, name: str) -> OnnxModel:
    """How `path` would be served as `name`. Raises OnnxFileError or SpecError."""
    graph = read_onnx(path).graph
    weights = {tensor.name for tensor in graph.initializer}
    return OnnxModel(
        name=name,
        source=f"imported from {path.name}",
        licence="the file's own",
        inputs=tuple(_tensor(v, path) for v in graph.input if v.name not in weights),
        output_tensors=tuple(_tensor(value, path) for value in graph.output),
    )


def declaration_text(model: OnnxModel) -> str:
    """`model` as a file for builders/models/."""

    def tensors(values: tuple[Tensor, ...]) -> str:
        lines = [
            f"        Tensor({_quoted(v.name)}, {_quoted(v.data_type)}, {v.shape!r}),\n"
            for v in values
        ]
        return "(\n" + "".join(lines) + "    )"

    return (
        f'"""An imported ONNX file: {model.name}."""\n\n'
        "from builders.spec import OnnxModel, Tensor\n\n"
        "MODEL = OnnxModel(\n"
        f"    name={_quoted(model.name)},\n"
        f"    source={_quoted(model.source)},\n"
        f"    licence={_quoted(model.licence)},\n"
        f"    inputs={tensors(model.inputs)},\n"
        f"    output_tensors={tensors(model.output_tensors)},\n"
        ")\n"
    )


def _quoted(text: str) -> str:
    return json.dumps(text)


def checked_onnx_file(model: OnnxModel, origin: Origin) -> bytes:
    """The bytes of the file that `model` serves, after running it once.

    Raises OnnxFileError where it does not fit the declaration or does not run.
    """
    import onnxruntime

    if not isinstance(origin, Checkpoint):
        raise OnnxFileError(
            f"{model.name} is an imported ONNX file and has no stand-in; pass "
            "--weights FILE.onnx"
        )
    path = Path(origin.file)
    found = declaration_of(path, model.name)
    for side in ("inputs", "output_tensors"):
        if getattr(found, side) != getattr(model, side):
            raise OnnxFileError(
                f"{path.name} has {side} {getattr(found, side)}, but {model.name} "
                f"declares {getattr(model, side)}; import it under another name"
            )
    data = path.read_bytes()
    try:
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        for count in (1, 2):
            session.run(None, sample_inputs(model, count))
    except Exception as exc:
        raise OnnxFileError(f"{path.name} does not run: {exc}") from exc
    return data


def sample_inputs(model: OnnxModel, count: int, seed: int = 0) -> dict[str, Any]:
    """Seeded inputs of `count` rows; varying dimensions are 1."""
    rng = np.random.default_rng(seed)
    samples: dict[str, Any] = {}
    for tensor in model.inputs:
        shape = (count, *(max(d, 1) for d in tensor.shape))
        if tensor.data_type.startswith("FP"):
            bits = int(tensor.data_type[2:])
            samples[tensor.name] = rng.normal(size=shape).astype(f"float{bits}")
        else:
            kind = {"BOOL": "bool"}.get(tensor.data_type, tensor.data_type.lower())
            samples[tensor.name] = rng.integers(0, 2, shape).astype(kind)
    return samples


def _tensor(value: onnx.ValueInfoProto, path: Path) -> Tensor:
    import onnx

    kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    if kind not in DATA_TYPES:
        raise OnnxFileError(
            f"{path.name}: tensor {value.name} is {kind}; served are "
            f"{', '.join(DATA_TYPES)}"
        )
    dims = value.type.tensor_type.shape.dim
    if len(dims) < 2 or dims[0].HasField("dim_value"):
        first = dims[0].dim_value if dims else "nothing"
        raise OnnxFileError(
            f"{path.name}: tensor {value.name} needs a batch dimension that varies, "
            f"got {first} first; export with dynamic_axes={{{value.name!r}: "
            "{0: 'N'}}"
        )
    shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in dims[1:])
    return Tensor(value.name, DATA_TYPES[kind], shape)
