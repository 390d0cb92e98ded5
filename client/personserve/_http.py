"""The HTTP wire: KServe's v2 protocol with Triton's binary tensors, by httpx."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from personserve._connection import Connection
from personserve._errors import (
    HTTP_STATUSES,
    IncompatibleServerError,
    PersonServeError,
    error_of_status,
)
from personserve._requests import (
    Array,
    DescribeModel,
    Infer,
    ListMemory,
    ListModels,
    ModelDescription,
    ModelState,
    Ready,
    Region,
    RegisterMemory,
    Request,
    TensorDescription,
)
from personserve._tensors import array_of, data_of, data_type_of

HEADER_LENGTH = "inference-header-content-length"
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=32)


@dataclass(frozen=True)
class Message:
    """One HTTP request."""

    method: str
    path: str
    headers: Mapping[str, str]
    content: bytes


class HttpTransport:
    """Transport over Triton's HTTP endpoint."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._client = httpx.Client(**_settings(connection))

    def send(self, request: Request, timeout_s: float | None) -> Any:
        message = message_of(request, self._connection)
        try:
            reply = self._client.request(
                message.method,
                message.path,
                headers=message.headers,
                content=message.content,
                timeout=timeout_s,
            )
        except httpx.TransportError as exc:
            raise _failure(exc, request, self._connection) from exc
        return reply_of(request, reply, self._connection)

    def close(self) -> None:
        self._client.close()


class AsyncHttpTransport:
    """AsyncTransport over Triton's HTTP endpoint."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._client = httpx.AsyncClient(**_settings(connection))

    async def send(self, request: Request, timeout_s: float | None) -> Any:
        message = message_of(request, self._connection)
        try:
            reply = await self._client.request(
                message.method,
                message.path,
                headers=message.headers,
                content=message.content,
                timeout=timeout_s,
            )
        except httpx.TransportError as exc:
            raise _failure(exc, request, self._connection) from exc
        return reply_of(request, reply, self._connection)

    async def close(self) -> None:
        await self._client.aclose()


def message_of(request: Request, connection: Connection) -> Message:
    """The HTTP request for `request`."""
    headers = connection.headers_for(request)
    method, path, content = "POST", "", b""
    if isinstance(request, Infer):
        head, blobs = _tensors(request)
        path = f"models/{quote(request.model, safe='')}/infer"
        headers[HEADER_LENGTH] = str(len(head))
        content = b"".join((head, *blobs))
    elif isinstance(request, DescribeModel):
        method, path = "GET", f"models/{quote(request.model, safe='')}/config"
    elif isinstance(request, ListModels):
        path = "repository/index"
    elif isinstance(request, Ready):
        name = request.model
        method = "GET"
        path = (
            "health/ready" if name is None else f"models/{quote(name, safe='')}/ready"
        )
    elif isinstance(request, ListMemory):
        method, path = "GET", f"{request.memory}sharedmemory/status"
    else:
        verb = "unregister"
        if isinstance(request, RegisterMemory):
            verb, content = "register", json.dumps(_registration(request)).encode()
        region = quote(request.region, safe="")
        path = f"{request.memory}sharedmemory/region/{region}/{verb}"
    if connection.compression == "gzip" and content:
        headers["content-encoding"] = "gzip"
        content = gzip.compress(content, compresslevel=1)
    return Message(method, f"/v2/{path}", headers, content)


def reply_of(request: Request, reply: httpx.Response, connection: Connection) -> Any:
    """What `reply` says, as the request's docstring promises. Raises
    PersonServeError.
    """
    if isinstance(request, Ready):
        return reply.is_success
    if not reply.is_success:
        status = HTTP_STATUSES.get(reply.status_code, "UNKNOWN")
        raise error_of_status(status, _reason(reply), request, connection.address)
    try:
        if isinstance(request, Infer):
            return _outputs(reply)
        if isinstance(request, DescribeModel):
            return _description(reply.json())
        if isinstance(request, ListModels):
            return tuple(
                ModelState(
                    each["name"],
                    each.get("version", ""),
                    each.get("state") == "READY",
                    each.get("reason", ""),
                )
                for each in reply.json()
            )
        if isinstance(request, ListMemory):
            return tuple(each["name"] for each in reply.json())
    except (ValueError, KeyError, TypeError) as exc:
        raise IncompatibleServerError(
            f"{connection.address} does not answer as a Triton server ({exc!r})",
            model=getattr(request, "model", None),
        ) from exc
    return None


def _settings(connection: Connection) -> dict[str, Any]:
    encrypted = connection.address.is_encrypted
    return {
        "base_url": str(connection.address),
        "limits": LIMITS,
        # Triton would pack every answer, at twice the time of a whole call
        "headers": {"accept-encoding": connection.compression or "identity"},
        "verify": connection.tls.context() if encrypted else False,
    }


def _registration(request: RegisterMemory) -> dict[str, Any]:
    if isinstance(request.key, str):
        return {"key": request.key, "offset": 0, "byte_size": request.byte_size}
    handle = base64.b64encode(request.key).decode()
    return {
        "raw_handle": {"b64": handle},
        "device_id": request.gpu,
        "byte_size": request.byte_size,
    }


def _tensors(request: Infer) -> tuple[bytes, list[bytes | memoryview]]:
    """The JSON before the tensors, and the tensors."""
    inputs, blobs = [], []
    for name, value in request.inputs.items():
        if isinstance(value, Region):
            dtype: Any = value.data_type
            parameters: dict[str, Any] = {
                "shared_memory_region": value.region,
                "shared_memory_offset": value.offset,
                "shared_memory_byte_size": value.byte_size,
            }
        else:
            dtype, data = value.dtype, data_of(value)
            blobs.append(data)
            parameters = {"binary_data_size": len(data)}
        inputs.append(
            {
                "name": name,
                "datatype": data_type_of(name, dtype),
                "shape": list(value.shape),
                "parameters": parameters,
            }
        )
    head = {
        "id": request.request_id,
        "inputs": inputs,
        "parameters": {"binary_data_output": True},
    }
    return json.dumps(head).encode(), blobs


def _outputs(reply: httpx.Response) -> dict[str, Array]:
    body = memoryview(reply.content)
    start = int(reply.headers.get(HEADER_LENGTH, len(body)))
    found = {}
    for output in json.loads(bytes(body[:start]))["outputs"]:
        size = output["parameters"]["binary_data_size"]
        data = body[start : start + size]
        start += size
        found[output["name"]] = array_of(
            output["name"], output["datatype"], output["shape"], data
        )
    return found


def _description(config: Mapping[str, Any]) -> ModelDescription:
    def tensors(values: Any) -> tuple[TensorDescription, ...]:
        return tuple(
            TensorDescription(
                value["name"],
                value["data_type"].removeprefix("TYPE_"),
                tuple(int(size) for size in value["dims"]),
            )
            for value in values
        )

    return ModelDescription(
        name=config["name"],
        max_batch_size=config["max_batch_size"],
        inputs=tensors(config["input"]),
        outputs=tensors(config["output"]),
        parameters={
            key: value["string_value"]
            for key, value in config.get("parameters", {}).items()
        },
        stateful="sequence_batching" in config,
    )


def _reason(reply: httpx.Response) -> str:
    """Triton's words, or what else stands before the server."""
    try:
        return str(reply.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {reply.status_code} {reply.reason_phrase}: {reply.text[:200]}"


def _failure(
    exc: httpx.TransportError, request: Request, connection: Connection
) -> PersonServeError:
    late = isinstance(exc, httpx.TimeoutException)
    status = "DEADLINE_EXCEEDED" if late else "UNAVAILABLE"
    return error_of_status(
        status, str(exc) or type(exc).__name__, request, connection.address
    )
