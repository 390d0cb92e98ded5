"""Checks of an untrusted ONNX file, and a first run of it.

`python -m builders.build.onnx_check PIXELS NAME` is the child process that
onnx_import.py gives a file to, and what the user states about its pixels: it limits its
own memory and CPU time, reads the file from standard input, does all that a later step
does with it, and prints the error, if any, as JSON.
It is a process of its own because protobuf, ONNX's checker and ONNX Runtime allocate
and compute what the file says: a file of 100 bytes can ask for terabytes or hours.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from builders.build.onnx_pixels import (
    Pixels,
    declare_wrapped,
    images_from_pixels,
    pixels_from_text,
    wrap_pixels,
)
from builders.errors import BuildersError
from builders.spec.model import OnnxModel
from builders.spec.source import Source
from builders.tensors import DataType, Tensor, sample_tensor

if TYPE_CHECKING:
    import onnx

MAX_ONNX_BYTES = 2 << 30
"""protobuf's own limit. Larger files keep their weights in other files, and those are
refused."""

TRIAL_TIMEOUT_S = 120.0
"""Wall-clock time of the trial. A file of 576 MB took 20 s on two busy cores, so that
one of the largest size has time, and nothing that runs for minutes is a service."""

TRIAL_BASE_BYTES = 4 << 30
TRIAL_BYTES_PER_BYTE = 6
"""Memory of the trial: libraries and activations, and copies of the file (its bytes,
the parsed message, the checker's text, and the runtime's weights, also rearranged). A
file of 576 MB took 2.8 GB in all."""

MAX_REASON_LENGTH = 300
"""Longest part of a library's message that is shown; some quote the whole graph."""

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


class OnnxImportError(BuildersError, ValueError):
    """An ONNX file cannot be served; the message gives the reason and a fix."""


def parse_onnx(data: bytes, file_name: str) -> onnx.ModelProto:
    """Parse and validate an ONNX file.

    External data is refused, because it would read files that the user did not name.
    Control flow is refused, because its number of steps can depend on the input, so
    that no trial bounds the time of a request. Functions are refused, because one
    that calls the next twice doubles the graph at each level.

    Args:
        data: Content of the file.
        file_name: Its name, for messages.

    Raises:
        OnnxImportError: The file is not valid ONNX, or has external data, control flow,
            functions, sparse weights, or weights that are NaN.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as exc:
        raise OnnxImportError(f"{file_name}: not an ONNX file, or cut short") from exc
    for problem in _refusals(model):
        raise OnnxImportError(f"{file_name}: {problem}")
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as exc:
        # the checker reports what is not valid by exceptions of several kinds
        raise OnnxImportError(f"{file_name}: not valid ONNX: {_reason(exc)}") from exc
    return model


def _refusals(model: onnx.ModelProto) -> Iterator[str]:
    """Yield why a parsed file is refused."""
    import onnx

    if model.functions:
        names = ", ".join(repr(function.name) for function in model.functions[:3])
        yield (
            f"defines {len(model.functions)} functions ({names}); export without them, "
            "or expand them with onnx.inliner.inline_local_functions"
        )
    for node in model.graph.node:
        if any(
            attribute.HasField("g") or attribute.graphs for attribute in node.attribute
        ):
            yield (
                f"node {node.name!r} is control flow ({node.op_type}), whose time no "
                "trial can bound; export a graph without Loop, If or Scan"
            )
    if model.graph.sparse_initializer:
        yield "has sparse weights; save them as dense tensors"
    tensors = list(_tensors(model.graph))
    external = [t.name for t in tensors if t.data_location == onnx.TensorProto.EXTERNAL]
    if external:
        yield (
            f"keeps {len(external)} tensors in other files ({external[0]!r}, ...); "
            "save it as one file (onnx.save without save_as_external_data)"
        )
    for tensor in tensors:
        if _has_nan(tensor):
            yield f"weights {tensor.name!r} have values that are NaN; export it again"


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield the weights: initializers, and tensors among the nodes' attributes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _has_nan(tensor: onnx.TensorProto) -> bool:
    # infinities are valid: attention masks and clips use them
    import onnx

    kinds = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}
    if tensor.data_type not in kinds:
        return False
    try:
        return bool(np.isnan(onnx.numpy_helper.to_array(tensor)).any())
    except (ValueError, TypeError):
        return False  # of another size than its shape; the checker says so


def declaration_from_proto(
    model: onnx.ModelProto, file_name: str, name: str, pixels: Pixels = "as_is"
) -> OnnxModel:
    """Return the declaration under which a parsed ONNX file would be served.

    Args:
        model: A file that `parse_onnx` accepted.
        file_name: Its name, for messages and the declaration's source.
        name: Name of the model.
        pixels: What the user states about the pixels that it takes.

    Raises:
        OnnxImportError: A tensor's type or shape cannot be served.
        SpecError: The name or a tensor's name is not allowed, or `pixels` does not fit
            the file.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    declaration = OnnxModel(
        name=name,
        source=Source(f"imported from {file_name}", licence="the file's own"),
        inputs=tuple(_tensor_from_value(value, file_name) for value in inputs),
        output_tensors=tuple(_tensor_from_value(v, file_name) for v in graph.output),
    )
    images = images_from_pixels(declaration, pixels, file_name)
    return declare_wrapped(declaration, images) if images else declaration


def sample_inputs(model: OnnxModel, count: int, seed: int = 0) -> dict[str, Any]:
    """Return seeded inputs for an imported model.

    Args:
        model: Declaration that the inputs are for.
        count: Batch size.
        seed: Seed of the values.

    Returns:
        Arrays [count, ...] by input name; dimensions that vary are 1.
    """
    rng = np.random.default_rng(seed)
    return {t.name: sample_tensor(t, count, rng) for t in model.inputs}


def run_once(data: bytes, model: OnnxModel, file_name: str) -> None:
    """Load an ONNX file in ONNX Runtime and run it with one row and with two.

    Args:
        data: Content of the file.
        model: Its declaration.
        file_name: Its name, for messages.

    Raises:
        OnnxImportError: It does not load or run.
    """
    import onnxruntime

    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # the exception has the same text
        session = onnxruntime.InferenceSession(
            data, options, providers=["CPUExecutionProvider"]
        )
        for count in (1, 2):
            session.run(None, sample_inputs(model, count))
    except Exception as exc:
        raise OnnxImportError(f"{file_name} does not run: {_reason(exc)}") from exc


def main() -> None:
    """Check and run the file on standard input; print {"error": ...} as JSON."""
    pixels, file_name = pixels_from_text(sys.argv[1]), sys.argv[2]
    data = sys.stdin.buffer.read(MAX_ONNX_BYTES + 1)
    limit_resources(len(data))
    error = None
    try:
        proto = parse_onnx(data, file_name)
        model = declaration_from_proto(proto, file_name, "trial", pixels)
        if model.wrapped_images:
            wrap_pixels(proto, model.wrapped_images, file_name)
            data = proto.SerializeToString()
        run_once(data, model, file_name)
    except BuildersError as exc:
        error = str(exc)
    except MemoryError:
        error = f"{file_name}: needs over {trial_bytes(len(data)):,} bytes of memory"
    sys.stdout.write(json.dumps({"error": error}))


def trial_bytes(file_bytes: int) -> int:
    """Return the memory that the trial of a file may use.

    Args:
        file_bytes: Size of the file.
    """
    return TRIAL_BASE_BYTES + TRIAL_BYTES_PER_BYTE * file_bytes


def limit_resources(file_bytes: int) -> None:
    """Limit memory and CPU time of this process.

    Args:
        file_bytes: Size of the file that it is going to check.
    """
    limit = trial_bytes(file_bytes)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    # ends the trial also when its parent was killed
    cores = os.cpu_count() or 1
    seconds = int(TRIAL_TIMEOUT_S) * cores
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _tensor_from_value(value: onnx.ValueInfoProto, file_name: str) -> Tensor:
    import onnx

    kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    if kind not in DATA_TYPES:
        raise OnnxImportError(
            f"{file_name}: tensor {value.name!r} is {kind}; expected "
            f"{', '.join(DATA_TYPES)}"
        )
    dims = value.type.tensor_type.shape.dim
    if len(dims) < 2 or dims[0].HasField("dim_value"):
        first = dims[0].dim_value if dims else "nothing"
        raise OnnxImportError(
            f"{file_name}: tensor {value.name!r} needs a batch dimension that varies, "
            f"got {first} first; export with dynamic_axes={{{value.name!r}: "
            "{0: 'N'}}"
        )
    shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in dims[1:])
    return Tensor(value.name, DATA_TYPES[kind], shape)


def _reason(exc: Exception) -> str:
    """Return the first line of a library's message, on one line of bounded length."""
    text = str(exc).strip() or type(exc).__name__
    return " ".join(text.splitlines()[0].split())[:MAX_REASON_LENGTH]


if __name__ == "__main__":
    main()
