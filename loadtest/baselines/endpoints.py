"""Any server that speaks KServe v2, as a system to compare with.

    --server "NAME=grpc://HOST:PORT/MODEL?crops=THEIR_INPUT&female_probability=OUTPUT"

The path is the model. The query maps our tensor names to the server's, where they
differ; a model with one input takes crops, and its only output is the probability. The
server's own metadata states data types and shapes.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as kserve_grpc
from tritonclient.utils import InferenceServerException

from loadtest.baselines.in_process import CROPS, EMBEDDING, GENDER
from loadtest.baselines.jobs import Job, Result, Send
from loadtest.baselines.requests import REQUEST_TIMEOUT_S, post_tensors
from loadtest.errors import LoadTestError
from loadtest.server import get_json, local_access_headers

FRAME, BOXES = "encoded_frame", "boxes"
FORM = "expected NAME=grpc://HOST:PORT/MODEL or NAME=http://HOST:PORT/MODEL"
BINARY_EXTENSION = "binary_tensor_data"

Infer = Callable[[Mapping[str, tuple[str, npt.NDArray[Any]]]], Mapping[str, Any]]
"""Sends {input: (data type, array)}, and returns {output: array}."""

DTYPES: Mapping[str, type[np.generic]] = {
    "UINT8": np.uint8,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


@dataclass(frozen=True)
class Endpoint:
    """A model of a server that speaks KServe v2.

    Attributes:
        name: Name of the server in reports.
        protocol: "grpc" or "http".
        address: host:port.
        model: Name of the model there.
        names: The server's tensor names by ours, where they differ.
    """

    name: str
    protocol: str
    address: str
    model: str
    names: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.model} at {self.protocol}://{self.address}"


@dataclass(frozen=True)
class Tensors:
    """The tensors of a model, by our names.

    Attributes:
        inputs: (name there, data type).
        outputs: Name there.
    """

    inputs: Mapping[str, tuple[str, str]]
    outputs: Mapping[str, str]

    def takes(self, job: Job) -> bool:
        """Return whether the model can do a job.

        Args:
            job: The job.
        """
        needed = {CROPS} if job.crops is not None else {FRAME, BOXES}
        return needed <= self.inputs.keys()

    def from_job(self, job: Job) -> dict[str, tuple[str, npt.NDArray[Any]]]:
        """Return {name there: (data type, array)} for a job.

        Args:
            job: The job.
        """
        arrays = {}
        for ours, array in job.to_tensors().items():
            name, datatype = self.inputs[ours]
            arrays[name] = datatype, array.astype(DTYPES[datatype], copy=False)
        return arrays

    def result_from(self, outputs: Mapping[str, Any]) -> Result:
        """Return the result of a job.

        Args:
            outputs: Arrays by the server's names.
        """
        arrays = [
            np.asarray(outputs[self.outputs[ours]], np.float32)
            for ours in (GENDER, EMBEDDING)
            if ours in self.outputs
        ]
        return (arrays[0].reshape(len(arrays[0]), -1), *arrays[1:])


def parse_endpoint(text: str) -> Endpoint:
    """Return the server that an option's value names.

    Args:
        text: NAME=grpc://HOST:PORT/MODEL, and a query that maps tensor names.

    Raises:
        LoadTestError: If it has another form.
    """
    name, _, url = text.partition("=")
    try:
        parts = urllib.parse.urlsplit(url)
        query = parts.query
        names = urllib.parse.parse_qsl(query, strict_parsing=True) if query else []
        port = parts.port
    except ValueError as exc:
        raise LoadTestError(f"--server {text!r}: {FORM} ({exc})") from exc
    model = parts.path.strip("/")
    if not (name and port and model and parts.scheme in {"grpc", "http"}):
        raise LoadTestError(f"--server {text!r}: {FORM}")
    return Endpoint(name, parts.scheme, parts.netloc, model, dict(names))


def describe_tensors(endpoint: Endpoint) -> Tensors:
    """Return the tensors of an endpoint's model, as the server describes them.

    Args:
        endpoint: The server and its model.

    Raises:
        LoadTestError: If it does not answer, or can do none of the jobs.
    """
    metadata = _fetch_metadata(endpoint)
    inputs = {each["name"]: each for each in metadata["inputs"]}
    outputs = [each["name"] for each in metadata["outputs"]]
    names = dict(endpoint.names)
    if len(inputs) == 1:
        names.setdefault(CROPS, next(iter(inputs)))
    if len(outputs) == 1:
        names.setdefault(GENDER, outputs[0])
    known = {
        ours: inputs[names.get(ours, ours)]
        for ours in (CROPS, FRAME, BOXES)
        if names.get(ours, ours) in inputs
    }
    tensors = Tensors(
        {ours: (each["name"], each["datatype"]) for ours, each in known.items()},
        {
            ours: names.get(ours, ours)
            for ours in (GENDER, EMBEDDING)
            if names.get(ours, ours) in outputs
        },
    )
    is_frame = {FRAME, BOXES} <= tensors.inputs.keys() and EMBEDDING in tensors.outputs
    if GENDER not in tensors.outputs or not (CROPS in tensors.inputs or is_frame):
        raise LoadTestError(
            f"{endpoint.name}: {endpoint.model} has inputs {', '.join(inputs)} and "
            f"outputs {', '.join(outputs)}, expected {CROPS} (or {FRAME} and {BOXES}) "
            f"and {GENDER}; map names in the query, for example "
            f"?{CROPS}={next(iter(inputs), 'INPUT')}"
        )
    return tensors


@contextmanager
def open_sender(endpoint: Endpoint, tensors: Tensors) -> Iterator[Send]:
    """Provide a function that sends jobs to an endpoint.

    Args:
        endpoint: The server and its model.
        tensors: The model's tensors (describe_tensors).

    Raises:
        LoadTestError: If the server does not answer.
    """
    if endpoint.protocol == "grpc":
        with kserve_grpc.InferenceServerClient(endpoint.address) as client:
            infer = _make_grpc_infer(endpoint, client)
            yield lambda job: tensors.result_from(infer(tensors.from_job(job)))
    else:
        post = _make_http_infer(endpoint)
        yield lambda job: tensors.result_from(post(tensors.from_job(job)))


def _fetch_metadata(endpoint: Endpoint) -> dict[str, Any]:
    if endpoint.protocol == "http":
        return get_json(endpoint.address, f"v2/models/{endpoint.model}")
    headers = local_access_headers(endpoint.address, is_grpc=True)
    try:
        with kserve_grpc.InferenceServerClient(endpoint.address) as client:
            metadata: dict[str, Any] = client.get_model_metadata(
                endpoint.model, headers=headers, as_json=True, client_timeout=10
            )
    except InferenceServerException as exc:
        raise LoadTestError(
            f"no model {endpoint.model} at grpc://{endpoint.address}: {exc.message()}"
        ) from exc
    return metadata


def _make_grpc_infer(endpoint: Endpoint, client: Any) -> Infer:
    headers = local_access_headers(endpoint.address, is_grpc=True)

    def infer(arrays: Mapping[str, tuple[str, npt.NDArray[Any]]]) -> dict[str, Any]:
        inputs = []
        for name, (datatype, array) in arrays.items():
            tensor = kserve_grpc.InferInput(name, array.shape, datatype)
            inputs.append(tensor.set_data_from_numpy(array))
        try:
            answer = client.infer(
                endpoint.model,
                inputs,
                headers=headers,
                client_timeout=REQUEST_TIMEOUT_S,
            )
        except InferenceServerException as exc:
            raise LoadTestError(f"{endpoint.name}: {exc.message()}") from exc
        names = [output.name for output in answer.get_response().outputs]
        return {name: answer.as_numpy(name) for name in names}

    return infer


def _make_http_infer(endpoint: Endpoint) -> Infer:
    """Return how tensors are posted: as binary data where the server says so."""
    extensions = get_json(endpoint.address, "v2").get("extensions", [])
    path = f"v2/models/{endpoint.model}/infer"
    is_binary = BINARY_EXTENSION in extensions

    def infer(arrays: Mapping[str, tuple[str, npt.NDArray[Any]]]) -> dict[str, Any]:
        return post_tensors(endpoint.address, path, arrays, is_binary=is_binary)

    return infer
