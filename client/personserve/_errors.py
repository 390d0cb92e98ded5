"""Errors of the client, and their mapping from gRPC and HTTP statuses.

PersonServeError
├── InvalidInputError       (also ValueError) arguments that cannot be used
├── ServerUnavailableError  no server answers at the address, or it is shutting down
├── ModelUnavailableError   the server runs, but does not serve this model
│   └── ModelLoadingError   the model is being loaded or unloaded
├── OverloadedError         the server has more work than it can do in time
├── RequestTimeoutError     (also TimeoutError) no answer within timeout_s
├── AccessDeniedError       missing or insufficient credentials
├── IncompatibleServerError the models or answers are not what this client expects
└── ServerError             the server failed, or refused for another reason
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus


class PersonServeError(Exception):
    """Base class of all errors that the client raises.

    Args:
        message: What was expected, what came, and what to do about it.
        model: Name of the model that the failed request was for.
        request_id: Id of the failed request, as in the server's log and traces.

    Attributes:
        model: Name of the model, or None if the error has no request.
        request_id: Id of the request, or None if the error has no request.
    """

    def __init__(
        self,
        message: str,
        *,
        model: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.model = model
        self.request_id = request_id

    def __str__(self) -> str:
        about = ", ".join(
            f"{what} {value}"
            for what, value in (("model", self.model), ("request", self.request_id))
            if value
        )
        return f"{super().__str__()} ({about})" if about else super().__str__()


class InvalidInputError(PersonServeError, ValueError):
    """Invalid frames, boxes, crops or other arguments."""


class ServerUnavailableError(PersonServeError):
    """No server answers at the address."""


class ModelUnavailableError(PersonServeError):
    """The server does not have the model, or has not loaded it."""


class ModelLoadingError(ModelUnavailableError):
    """The server has the model, but is loading or unloading it at the moment."""


class OverloadedError(PersonServeError):
    """The server refused the request because too many others wait, or wait too long."""


class RequestTimeoutError(PersonServeError, TimeoutError):
    """No answer within timeout_s; the server may still have done the work."""


class AccessDeniedError(PersonServeError):
    """The server, or a proxy in front of it, rejected the credentials."""


class IncompatibleServerError(PersonServeError):
    """The server's models or answers are not what this client expects."""


class ServerError(PersonServeError):
    """The server failed to answer, or refused for a reason of its own."""


STATUS_ERRORS: Mapping[str, type[PersonServeError]] = {
    "CANCELLED": ServerUnavailableError,
    "UNKNOWN": ServerError,
    "INVALID_ARGUMENT": InvalidInputError,
    "DEADLINE_EXCEEDED": RequestTimeoutError,
    "NOT_FOUND": ModelUnavailableError,
    "ALREADY_EXISTS": ServerError,
    "PERMISSION_DENIED": AccessDeniedError,
    "RESOURCE_EXHAUSTED": ServerError,
    "FAILED_PRECONDITION": ServerError,
    "ABORTED": ServerError,
    "OUT_OF_RANGE": InvalidInputError,
    "UNIMPLEMENTED": IncompatibleServerError,
    "INTERNAL": ServerError,
    "UNAVAILABLE": ServerUnavailableError,
    "DATA_LOSS": ServerError,
    "UNAUTHENTICATED": AccessDeniedError,
}
"""Error class by gRPC status. A test compares the keys with grpc.StatusCode."""

HTTP_STATUSES: Mapping[int, str] = {
    HTTPStatus.BAD_REQUEST: "INVALID_ARGUMENT",
    HTTPStatus.UNAUTHORIZED: "UNAUTHENTICATED",
    HTTPStatus.FORBIDDEN: "PERMISSION_DENIED",
    HTTPStatus.NOT_FOUND: "NOT_FOUND",
    HTTPStatus.REQUEST_TIMEOUT: "DEADLINE_EXCEEDED",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "INVALID_ARGUMENT",
    HTTPStatus.TOO_MANY_REQUESTS: "UNAVAILABLE",
    499: "CANCELLED",
    HTTPStatus.NOT_IMPLEMENTED: "UNIMPLEMENTED",
    HTTPStatus.BAD_GATEWAY: "UNAVAILABLE",
    HTTPStatus.SERVICE_UNAVAILABLE: "UNAVAILABLE",
    HTTPStatus.GATEWAY_TIMEOUT: "DEADLINE_EXCEEDED",
}
"""gRPC status by HTTP status, those of Triton and of proxies; others are UNKNOWN."""


RESTRICTED = "is restricted, expecting header"
"""Part of Triton's message of an endpoint that demands a key."""

DEAD_PROCESS = re.compile(r"Stub process .*is not healthy|obtain the health mutex")
"""Part of Triton's message of a model whose Python process has died. Triton does not
replace the process, so another server has to answer."""

OVERLOADED = re.compile(
    r"Exceeds maximum queue size|Request timeout expired|is overloaded:"
    r"|Failed to increase the shared memory pool"
)
"""Part of the message of a server that refuses work: Triton's own two for a full queue
and for a request that waited too long, that of this project's preprocessing model, and
the Python backend's for a /dev/shm without room. They come as UNAVAILABLE (HTTP 503),
the last one as INTERNAL (HTTP 500)."""


NOT_GRPC = "Received http2 header with status"
"""Beginning of gRPC's message if an HTTP server answers that does not speak gRPC."""


def error_from_status(
    status: str, message: str, request: object, address: object
) -> PersonServeError:
    """Build the error for a failed request from its gRPC status.

    Args:
        status: Name of the gRPC status, for example "UNAVAILABLE".
        message: The server's own message.
        request: The request that failed; its model and id go into the error.
        address: Address of the server, for the message.

    Returns:
        The error, to be raised by the caller.
    """
    kind = STATUS_ERRORS.get(status, ServerError)
    # Triton says UNAVAILABLE over gRPC of an endpoint that demands a key
    if RESTRICTED in message:
        kind = AccessDeniedError
        message += (
            ". The key of a server on this machine is found by itself if the same user "
            "started it; for another server pass headers="
        )
    # Triton says UNAVAILABLE, or INVALID_ARGUMENT, of a model that is not loaded
    elif "unknown model" in message:
        loading = "no available versions" in message
        kind = ModelLoadingError if loading else ModelUnavailableError
    elif DEAD_PROCESS.search(message):
        kind = ServerUnavailableError
    elif OVERLOADED.search(message):
        kind = OverloadedError
        message = (
            f"the server at {address} is overloaded: {message}. Send fewer requests at "
            "once, or add servers"
        )
    elif NOT_GRPC in message:
        kind = ServerUnavailableError
        message = (
            f"no Triton server answers at {address}, but another HTTP server or a "
            f"proxy does ({message}). gRPC uses the proxy of http_proxy and "
            "https_proxy unless no_proxy lists the server's host"
        )
    elif status == "UNAVAILABLE":
        message = (
            f"no Triton server answers at {address}: {message}. Is it running "
            "(python -m builders serve), and is this its port for this protocol?"
        )
    elif status == "CANCELLED":
        message = f"the server at {address} has ended the call unanswered: {message}"
    elif status == "DEADLINE_EXCEEDED":
        message = "no answer within the timeout; raise timeout_s or send less"
    return kind(
        message,
        model=getattr(request, "model", None),
        request_id=getattr(request, "request_id", None),
    )
