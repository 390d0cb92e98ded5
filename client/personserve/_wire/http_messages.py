"""Conversion of requests to HTTP messages, and of HTTP responses to replies.

Protocol: KServe's Open Inference Protocol v2 with Triton's binary tensor data extension
(docs/protocol in triton-inference-server/server).
"""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

from personserve._errors import HTTP_STATUSES, InvalidInputError, error_from_status
from personserve._wire.connection import Connection
from personserve._wire.replies import (
    PARSE_ERRORS,
    check_description,
    check_identity,
    malformed_error,
    reply_limit,
    too_large_error,
)
from personserve._wire.requests import (
    DescribeModel,
    Infer,
    ListMemory,
    ListModels,
    ModelDescription,
    ModelState,
    Outputs,
    Ready,
    RegisterMemory,
    Request,
    SharedTensor,
    TensorDescription,
    server_timeout_us,
)
from personserve._wire.tensors import (
    array_from_bytes,
    bytes_from_array,
    triton_type_from_numpy,
)

T = TypeVar("T")

HEADER_LENGTH = "inference-header-content-length"

MAX_REASON_BYTES = 64 << 10
"""Bytes of an error's body that are read; the rest is dropped."""


@dataclass(frozen=True)
class Message:
    """One HTTP request.

    Attributes:
        method: HTTP method.
        path: Path below the server's root.
        headers: Names and values, encoded.
        content: The body, None for a method without one.
    """

    method: str
    path: str
    headers: list[tuple[bytes, bytes]]
    content: bytes | None


def message_from_request(
    request: Request, connection: Connection, timeout_s: float | None = None
) -> Message:
    """Build the HTTP request for a request.

    Args:
        request: The request.
        connection: Settings of the connection: headers and compression.
        timeout_s: Seconds after which the server may drop an inference, because the
            client will have given up; None for no limit.

    Returns:
        Method, path, headers and body.

    Raises:
        InvalidInputError: If a tensor or a header cannot be sent.
    """
    headers = {
        "host": connection.address.netloc,
        "user-agent": "personserve",
        # Triton would pack every answer, at twice the time of a whole call
        "accept-encoding": connection.compression or "identity",
        **connection.headers_for(request),
    }
    content = b""
    if isinstance(request, Infer):
        head, blobs = _encode_tensors(request, timeout_s)
        headers[HEADER_LENGTH] = str(len(head))
        content = b"".join((head, *blobs))
    elif isinstance(request, RegisterMemory):
        content = json.dumps(_registration_body(request)).encode()
    if connection.compression == "gzip" and content:
        headers["content-encoding"] = "gzip"
        content = gzip.compress(content, compresslevel=1)
    method, path = _method_and_path(request)
    try:
        encoded = [(k.encode("ascii"), v.encode("ascii")) for k, v in headers.items()]
    except UnicodeEncodeError as exc:
        raise InvalidInputError(f"headers: {exc}") from exc
    return Message(method, f"/v2/{path}", encoded, None if method == "GET" else content)


@dataclass
class ResponseReader:
    """Collects a response as it arrives, and refuses one that is too large.

    Attributes:
        request: The request, which limits the size.
        connection: Settings of the connection, for the address in error messages.
        status: HTTP status.
        headers: Header values by lower-case name.
    """

    request: Request
    connection: Connection
    status: int
    headers: Mapping[str, str]
    _chunks: list[bytes] = field(default_factory=list)
    _size_bytes: int = 0
    _decompressor: Any = None

    @classmethod
    def from_head(
        cls,
        request: Request,
        connection: Connection,
        status: int,
        headers: list[tuple[bytes, bytes]],
    ) -> ResponseReader:
        """Begin with a response's status and headers.

        Args:
            request: The request.
            connection: Settings of the connection.
            status: HTTP status.
            headers: The response's headers.

        Returns:
            A reader for the body.

        Raises:
            IncompatibleServerError: If the body is too large, or is encoded otherwise
                than with gzip or deflate.
        """
        decoded = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in headers}
        reader = cls(request, connection, status, decoded)
        encoding = decoded.get("content-encoding", "identity").strip().lower()
        if encoding in {"gzip", "deflate"}:
            reader._decompressor = zlib.decompressobj(zlib.MAX_WBITS | 32)
        elif encoding != "identity":
            reason = f"content-encoding {encoding!r}"
            raise malformed_error(request, connection.address, reason)
        length = decoded.get("content-length", "")
        if reader.is_success and length.isdigit() and int(length[:20]) > reader.limit:
            raise too_large_error(request, reader.limit)
        return reader

    @property
    def is_success(self) -> bool:
        """Whether the status is one of success."""
        return 200 <= self.status < 300

    @property
    def limit(self) -> int:
        """Largest size of the decompressed body in bytes."""
        return reply_limit(self.request) if self.is_success else MAX_REASON_BYTES

    def add(self, chunk: bytes) -> bool:
        """Add a chunk of the body.

        Args:
            chunk: Bytes as received.

        Returns:
            Whether more of the body is of interest.

        Raises:
            IncompatibleServerError: If the body is too large or cannot be
                decompressed.
        """
        if self._decompressor is not None:
            space = self.limit - self._size_bytes + 1
            try:
                chunk = self._decompressor.decompress(chunk, space)
            except zlib.error as exc:
                address = self.connection.address
                raise malformed_error(self.request, address, exc) from exc
        self._chunks.append(chunk)
        self._size_bytes += len(chunk)
        if self._size_bytes <= self.limit:
            return True
        if self.is_success:
            raise too_large_error(self.request, self.limit)
        return False

    def reply(self) -> Any:
        """Convert the response to the reply that the request's docstring names.

        Returns:
            The reply.

        Raises:
            PersonServeError: If the response is an error, or not one of a Triton
                server.
        """
        request, address = self.request, self.connection.address
        body = b"".join(self._chunks)
        if not self.is_success:
            if isinstance(request, Ready):
                return False
            status = HTTP_STATUSES.get(self.status, "UNKNOWN")
            reason = _reason_from_body(self.status, body, address)
            raise error_from_status(status, reason, request, address)
        if self._decompressor is not None and not self._decompressor.eof:
            raise malformed_error(request, address, "incomplete compressed body")
        try:
            return _parse_body(request, self.headers, body)
        except PARSE_ERRORS as exc:
            raise malformed_error(request, address, exc) from exc


def _parse_body(request: Request, headers: Mapping[str, str], body: bytes) -> Any:
    if isinstance(request, Infer):
        return _outputs_from_body(request, headers, body)
    if isinstance(request, DescribeModel):
        description = _description_from_config(json.loads(body))
        return check_description(description, request.model)
    if isinstance(request, ListModels):
        return tuple(
            ModelState(
                _member(each, "name", str),
                _member(each, "version", str, ""),
                _member(each, "state", str, "") == "READY",
                _member(each, "reason", str, ""),
            )
            for each in _list(json.loads(body))
        )
    if isinstance(request, ListMemory):
        return tuple(_member(each, "name", str) for each in _list(json.loads(body)))
    if body.lstrip()[:1] == b"<":  # other bodies are empty, or an empty object
        raise ValueError(f"a page: {body[:80]!r}")
    return True if isinstance(request, Ready) else None


def _method_and_path(request: Request) -> tuple[str, str]:
    if isinstance(request, Infer):
        return "POST", f"models/{quote(request.model, safe='')}/infer"
    if isinstance(request, DescribeModel):
        return "GET", f"models/{quote(request.model, safe='')}/config"
    if isinstance(request, ListModels):
        return "POST", "repository/index"
    if isinstance(request, Ready):
        name = request.model
        target = "health" if name is None else f"models/{quote(name, safe='')}"
        return "GET", f"{target}/ready"
    if isinstance(request, ListMemory):
        return "GET", f"{request.memory}sharedmemory/status"
    verb = "register" if isinstance(request, RegisterMemory) else "unregister"
    region = quote(request.region, safe="")
    return "POST", f"{request.memory}sharedmemory/region/{region}/{verb}"


def _registration_body(request: RegisterMemory) -> dict[str, Any]:
    if isinstance(request.key, str):
        return {"key": request.key, "offset": 0, "byte_size": request.size_bytes}
    handle = base64.b64encode(request.key).decode()
    return {
        "raw_handle": {"b64": handle},
        "device_id": request.gpu,
        "byte_size": request.size_bytes,
    }


def _encode_tensors(
    request: Infer, timeout_s: float | None
) -> tuple[bytes, list[bytes | memoryview]]:
    """Return the JSON header and the tensors that follow it."""
    inputs, blobs = [], []
    for name, value in request.inputs.items():
        if isinstance(value, SharedTensor):
            parameters: dict[str, Any] = {
                "shared_memory_region": value.region,
                "shared_memory_offset": value.offset,
                "shared_memory_byte_size": value.size_bytes,
            }
        else:
            data = bytes_from_array(value)
            blobs.append(data)
            parameters = {"binary_data_size": len(data)}
        inputs.append(
            {
                "name": name,
                "datatype": triton_type_from_numpy(name, value.dtype),
                "shape": list(value.shape),
                "parameters": parameters,
            }
        )
    options: dict[str, Any] = {"binary_data_output": True}
    if timeout_s is not None:
        options["timeout"] = server_timeout_us(timeout_s)
    head = {"id": request.request_id, "inputs": inputs, "parameters": options}
    return json.dumps(head).encode(), blobs


def _outputs_from_body(
    request: Infer, headers: Mapping[str, str], body: bytes
) -> Outputs:
    start = _header_length(headers, len(body))
    head = json.loads(body[:start])
    check_identity(
        request, _member(head, "model_name", str, ""), _member(head, "id", str, "")
    )
    outputs = Outputs()
    outputs.model_version = _member(head, "model_version", str, "")
    data = memoryview(body)
    for output in _member(head, "outputs", list):
        name = _member(output, "name", str)
        size = _member(_member(output, "parameters", dict), "binary_data_size", int)
        shape = [_integer(each) for each in _member(output, "shape", list)]
        if not 0 <= size <= len(body) - start:
            raise ValueError(f"{name}: {size} bytes of {len(body) - start}")
        if name in outputs:
            raise ValueError(f"{name} is there twice")
        outputs[name] = array_from_bytes(
            name, _member(output, "datatype", str), shape, data[start : start + size]
        )
        start += size
    if start != len(body):
        raise ValueError(f"{len(body) - start} bytes after the last output")
    return outputs


def _header_length(headers: Mapping[str, str], body_bytes: int) -> int:
    """Return the size of the JSON that precedes the tensors."""
    text = headers.get(HEADER_LENGTH)
    if text is None:
        return body_bytes
    if not (text.isascii() and text.isdigit() and int(text[:20]) <= body_bytes):
        raise ValueError(f"{HEADER_LENGTH} {text[:80]!r}, body {body_bytes} bytes")
    return int(text)


def _description_from_config(config: Any) -> ModelDescription:
    def describe(tensors: list[Any]) -> tuple[TensorDescription, ...]:
        return tuple(
            TensorDescription(
                _member(tensor, "name", str),
                _member(tensor, "data_type", str).removeprefix("TYPE_"),
                tuple(_integer(size) for size in _member(tensor, "dims", list)),
                _member(tensor, "optional", bool, default=False),
            )
            for tensor in tensors
        )

    parameters = _member(config, "parameters", dict, {})
    return ModelDescription(
        name=_member(config, "name", str),
        max_batch_size=_member(config, "max_batch_size", int),
        inputs=describe(_member(config, "input", list)),
        outputs=describe(_member(config, "output", list)),
        parameters={
            key: _member(value, "string_value", str)
            for key, value in parameters.items()
        },
        stateful="sequence_batching" in config,
    )


def _member(value: Any, key: str, kind: type[T], default: T | None = None) -> T:
    """Return a member of a JSON object, which must be of the given type."""
    if not isinstance(value, dict):
        raise TypeError(f"expected an object with {key!r}, got {str(value)[:80]}")
    member = value.get(key, default)
    if type(member) is not kind:  # isinstance takes true for an integer
        raise TypeError(f"{key}: expected {kind.__name__}, got {type(member).__name__}")
    return member


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, got {type(value).__name__}")
    return value


def _integer(value: Any) -> int:
    """Return a dimension; JSON of 64-bit integers may have them as text."""
    if type(value) is str and len(value) <= 20:
        return int(value)
    if type(value) is not int:
        raise TypeError(f"expected an integer, got {str(value)[:80]}")
    return value


def _reason_from_body(status: int, body: bytes, address: object) -> str:
    """Return Triton's error message, or a proxy's status and text."""
    try:
        return _member(json.loads(body), "error", str)
    except PARSE_ERRORS:
        text = body[:200].decode("utf-8", "replace")
        if text.lstrip().startswith("<"):
            text = (
                f"a page of HTML from {address}, where Triton sends JSON; is it a "
                "proxy (http_proxy, no_proxy), or another server's port?"
            )
        return f"HTTP {status}: {text}"
