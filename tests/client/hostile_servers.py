"""Servers that answer wrongly: raw HTTP on a socket, and a gRPC service."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from typing_extensions import Self

OUTPUT = "y"
CONFIG = {
    "max_batch_size": 4,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}],
    "output": [{"name": OUTPUT, "data_type": "TYPE_FP32", "dims": [2]}],
}


def http(
    body: bytes | str | Any = b"",
    *headers: str,
    status: str = "200 OK",
    length: str = "",
) -> bytes:
    """Return an HTTP response; a body that is not text or bytes becomes JSON."""
    if not isinstance(body, bytes):
        body = (body if isinstance(body, str) else json.dumps(body)).encode()
    lines = [
        f"HTTP/1.1 {status}",
        f"content-length: {length or len(body)}",
        "connection: close",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def infer_response(
    head: Any, data: bytes = b"", length: str | None = None, *headers: str
) -> bytes:
    """Return the response of an inference: JSON, then tensors."""
    text = (head if isinstance(head, str) else json.dumps(head)).encode()
    size = str(len(text)) if length is None else length
    name = f"inference-header-content-length: {size}"
    return http(text + data, name, *headers)


Respond = Callable[[str, bytes], bytes | Iterable[bytes]]


class HttpServer:
    """An HTTP server whose answers are the bytes that a function returns.

    Args:
        respond: Receives path and body of each request; bytes or pieces are sent as
            they are, and the connection is closed after them.
    """

    def __init__(self, respond: Respond, *, reads: bool = True) -> None:
        self.respond = respond
        self.reads = reads
        self.paths: list[str] = []
        self.sent_bytes = 0
        self._stopped = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def wait(self, seconds: float) -> bool:
        """Wait; return whether the server goes on."""
        return not self._stopped.wait(seconds)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(
                target=self._serve, args=(connection,), daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                if not self.reads:
                    self._stopped.wait(30)
                    return
                path, body = _read_request(connection)
                self.paths.append(path)
                answer = self.respond(path, body)
                pieces = [answer] if isinstance(answer, bytes) else answer
                for piece in pieces:
                    connection.sendall(piece)
                    self.sent_bytes += len(piece)
            except OSError:
                return  # the client has closed the connection


def _read_request(connection: socket.socket) -> tuple[str, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise OSError("closed")
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    sizes = [
        int(line.split(":")[1])
        for line in lines
        if line.lower().startswith("content-length:")
    ]
    while len(body) < sum(sizes):
        body += connection.recv(1 << 20)
    return lines[0].split()[1], body


def config_of(path: str, **changes: Any) -> dict[str, Any]:
    """Return the configuration of the model in a path `/v2/models/NAME/config`."""
    return {"name": path.split("/")[3], **CONFIG, **changes}


def people_config(name: str) -> dict[str, Any]:
    """Return a configuration of person_attributes with embeddings of 8 numbers."""
    parameters = {
        "max_people": "4",
        "female_probability.labels": "male,female",
        "female_probability.threshold": "0.5",
    }
    return {
        "name": name,
        "max_batch_size": 0,
        "input": [
            {
                "name": "encoded_frame",
                "data_type": "TYPE_UINT8",
                "dims": [-1],
                "optional": True,
            },
            {
                "name": "raw_frame",
                "data_type": "TYPE_UINT8",
                "dims": [-1],
                "optional": True,
            },
            {
                "name": "frame_size",
                "data_type": "TYPE_INT32",
                "dims": [2],
                "optional": True,
            },
            {"name": "boxes", "data_type": "TYPE_FP32", "dims": [-1, 4]},
        ],
        "output": [
            {"name": "female_probability", "data_type": "TYPE_FP32", "dims": [-1, 1]},
            {"name": "embedding", "data_type": "TYPE_FP32", "dims": [-1, 8]},
        ],
        "parameters": {k: {"string_value": v} for k, v in parameters.items()},
    }


def parse_config(config: dict[str, Any]) -> model_config_pb2.ModelConfig:
    """Return the message of a configuration."""
    message = model_config_pb2.ModelConfig(
        name=config["name"], max_batch_size=config["max_batch_size"]
    )
    for field in ("input", "output"):
        for tensor in config[field]:
            getattr(message, field).add(
                name=tensor["name"],
                data_type=model_config_pb2.DataType.Value(tensor["data_type"]),
                dims=tensor["dims"],
            )
    for key, value in config.get("parameters", {}).items():
        message.parameters[key].string_value = value["string_value"]
    return message


def _default_config(name: str) -> model_config_pb2.ModelConfig:
    return parse_config({"name": name, **CONFIG})


class GrpcServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """A gRPC server whose answers are those of functions.

    Args:
        infer: Returns the response of an inference, or aborts its context.
        configure: Returns the configuration of a model.
    """

    def __init__(
        self,
        infer: Callable[[Any, grpc.ServicerContext], Any],
        configure: Callable[[str], Any] | None = None,
    ) -> None:
        self.infer = infer
        self.configure = configure or (
            lambda name: parse_config({"name": name, **CONFIG})
        )
        self.stream: Callable[[Any], Iterator[Any]] = lambda _: iter(())
        self._server = grpc.server(
            ThreadPoolExecutor(8), options=[("grpc.max_send_message_length", -1)]
        )
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"grpc://127.0.0.1:{port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return self.infer(request, context)

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802, ARG002
        return service_pb2.ModelConfigResponse(config=self.configure(request.name))

    def ModelStreamInfer(self, requests: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802, ARG002
        for request in requests:
            yield from self.stream(request)


def grpc_response(
    request: Any, *outputs: tuple[str, str, list[int], bytes | None], **changes: Any
) -> Any:
    """Return a response with outputs (name, type, shape, data or None)."""
    fields = {"model_name": request.model_name, "id": request.id, **changes}
    response = service_pb2.ModelInferResponse(**fields)
    for name, datatype, shape, data in outputs:
        response.outputs.add(name=name, datatype=datatype, shape=shape)
        if data is not None:
            response.raw_output_contents.append(data)
    return response


def row_bytes(*values: float) -> bytes:
    return np.float32(values).tobytes()
