"""Sending a job to a server: over HTTP for all systems alike, or through the SDK.

All servers are called over HTTP by the same client, Python's own on persistent
connections, because a client's CPU time on a shared machine is taken from the server.
Our SDK does more, so it is measured as a system of its own.
"""

from __future__ import annotations

import base64
import http.client
import json
import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from loadtest.baselines.in_process import EMBEDDING, GENDER
from loadtest.baselines.jobs import Job, Result, Send
from loadtest.baselines.work import FRAME_JOB, GENDER_JOB
from loadtest.errors import LoadTestError
from personserve import Client

HEADER_LENGTH = "inference-header-content-length"
DATA_TYPES = {"uint8": "UINT8", "float32": "FP32"}
OUTPUT_DTYPES = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}
REQUEST_TIMEOUT_S = 300.0

_connections: Any = threading.local()


class _Connection(http.client.HTTPConnection):
    """A connection that is closed with the thread that it belongs to."""

    def __del__(self) -> None:
        self.close()


class RequestError(LoadTestError):
    """A request that a server did not answer, or refused."""


def make_sdk_sender(client: Client, frame_model: str, gender_model: str) -> Send:
    """Return a function that sends jobs through our SDK.

    Args:
        client: The SDK's client.
        frame_model: Name of the model that takes frames.
        gender_model: Name of the gender network.
    """

    def send(job: Job) -> Result:
        if job.crops is not None:
            return (client.infer(gender_model, job.to_tensors())[GENDER],)
        people = client.attributes(job.jpeg, job.boxes, model=frame_model)
        return people.outputs[GENDER], people.outputs[EMBEDDING]

    return send


def make_personserve_sender(address: str, frame_model: str, gender_model: str) -> Send:
    """Return a function that sends jobs to our server over HTTP.

    Args:
        address: HTTP address, host:port.
        frame_model: Name of the model that takes frames.
        gender_model: Name of the gender network.
    """

    def send(job: Job) -> Result:
        if job.crops is not None:
            return _infer(address, gender_model, job.to_tensors())
        return _infer(address, frame_model, job.to_tensors())

    return send


def make_pytriton_sender(address: str) -> Send:
    """Return a function that sends jobs to pytriton over HTTP.

    Args:
        address: HTTP address, host:port.
    """

    def send(job: Job) -> Result:
        model = FRAME_JOB if job.crops is None else GENDER_JOB
        return _infer(address, model, job.to_tensors())

    return send


def make_plain_sender(address: str) -> Send:
    """Return a function that posts a job's body without an envelope.

    Args:
        address: HTTP address, host:port.
    """

    def send(job: Job) -> Result:
        _, body = _post(address, job.body_name, job.to_body(), {})
        return job.result_from_body(body)

    return send


def make_base64_sender(address: str) -> Send:
    """Return a function that posts a job's body as Base64 in JSON (LitServe).

    Args:
        address: HTTP address, host:port.
    """

    def send(job: Job) -> Result:
        content = {"data": base64.b64encode(job.to_body()).decode()}
        headers = {"content-type": "application/json"}
        body = json.dumps(content).encode()
        _, response = _post(address, job.body_name, body, headers)
        return job.result_from_body(base64.b64decode(json.loads(response)["data"]))

    return send


def _infer(address: str, model: str, tensors: Mapping[str, Any]) -> Result:
    """Send the minimum of KServe's HTTP protocol with binary tensors."""
    arrays = {name: (DATA_TYPES[a.dtype.name], a) for name, a in tensors.items()}
    outputs = post_tensors(address, f"v2/models/{model}/infer", arrays)
    return tuple(outputs[name] for name in (GENDER, EMBEDDING) if name in outputs)


def post_tensors(
    address: str,
    path: str,
    arrays: Mapping[str, tuple[str, npt.NDArray[Any]]],
    *,
    is_binary: bool = True,
) -> dict[str, Any]:
    """Post tensors by KServe's HTTP protocol, and return the outputs by name.

    Args:
        address: host:port.
        path: Path of the model's inference endpoint.
        arrays: (data type, array) by the names of inputs.
        is_binary: Whether to use the protocol's extension for binary tensors, or JSON.

    Raises:
        RequestError: If the server does not answer, or refuses.
    """
    inputs = [
        {"name": name, "shape": array.shape, "datatype": datatype}
        | (
            {"parameters": {"binary_data_size": array.nbytes}}
            if is_binary
            else {"data": array.ravel().tolist()}
        )
        for name, (datatype, array) in arrays.items()
    ]
    if not is_binary:
        body = json.dumps({"inputs": inputs}).encode()
        _, content = _post(address, path, body, {"content-type": "application/json"})
        return {
            each["name"]: np.array(each["data"], np.float32).reshape(each["shape"])
            for each in json.loads(content)["outputs"]
        }
    request = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    head = json.dumps(request).encode()
    body = b"".join((head, *(array.tobytes() for _, array in arrays.values())))
    headers = {HEADER_LENGTH: str(len(head))}
    response, content = _post(address, path, body, headers)
    return _parse_outputs(content, int(response.headers[HEADER_LENGTH]))


def _parse_outputs(content: bytes, head_length: int) -> dict[str, Any]:
    outputs, start = {}, head_length
    for output in json.loads(content[:head_length])["outputs"]:
        stop = start + output["parameters"]["binary_data_size"]
        dtype = OUTPUT_DTYPES[output["datatype"]]
        values = np.frombuffer(content[start:stop], dtype)
        outputs[output["name"]] = values.reshape(output["shape"])
        start = stop
    return outputs


def _post(
    address: str, path: str, body: bytes, headers: Mapping[str, str]
) -> tuple[http.client.HTTPResponse, bytes]:
    """Post on this thread's persistent connection, twice if the server closed it."""
    post = partial(_post_once, address, path, body, headers)
    try:
        response, content = post()
    except (OSError, http.client.HTTPException):
        try:
            response, content = post()
        except (OSError, http.client.HTTPException) as exc:
            raise RequestError(f"{address}: {exc!r}") from exc
    if response.status != http.HTTPStatus.OK:
        raise RequestError(f"{address}: HTTP {response.status}: {content[:200]!r}")
    return response, content


def _post_once(
    address: str, path: str, body: bytes, headers: Mapping[str, str]
) -> tuple[http.client.HTTPResponse, bytes]:
    connections: dict[str, _Connection] = vars(_connections)
    if address not in connections:
        connections[address] = _Connection(address, timeout=REQUEST_TIMEOUT_S)
    try:
        connections[address].request("POST", f"/{path}", body, headers)
        response = connections[address].getresponse()
        return response, response.read()
    except (OSError, http.client.HTTPException):
        connections.pop(address).close()
        raise
