"""Every error that the client raises, and which server status becomes which.

PersonServeError
├── InvalidInputError       (also ValueError) the call's own data is wrong
├── ServerUnavailableError  nothing answers at the address, or it shuts down
├── ModelUnavailableError   the server runs, but not this model
│   └── ModelLoadingError   not yet, or not any more
├── RequestTimeoutError     (also TimeoutError) no answer within timeout_s
├── AccessDeniedError       who we are is not known there, or may not do this
├── IncompatibleServerError the server's models are not what this client knows
└── ServerError             the server failed, or refused for another reason
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus


class PersonServeError(Exception):
    """Base of all. `model` and `request_id` are None where there was no request."""

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
    """Frames, boxes, crops or arguments that cannot be used."""


class ServerUnavailableError(PersonServeError):
    """No server answers at the address."""


class ModelUnavailableError(PersonServeError):
    """The server does not have the model, or has not loaded it."""


class ModelLoadingError(ModelUnavailableError):
    """The server has the model, but is just loading it, or shutting down."""


class RequestTimeoutError(PersonServeError, TimeoutError):
    """No answer within timeout_s; the server may still have done the work."""


class AccessDeniedError(PersonServeError):
    """The server, or what stands before it, does not let us in."""


class IncompatibleServerError(PersonServeError):
    """The server's model lacks something this client needs."""


class ServerError(PersonServeError):
    """The server failed while answering, or refused for a reason of its own."""


STATUS_ERRORS: Mapping[str, type[PersonServeError]] = {
    "CANCELLED": ServerError,
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
"""Error by gRPC status. A test holds it against grpc.StatusCode."""

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
"""gRPC status by HTTP status, Triton's and those of proxies; any other is UNKNOWN."""


def error_of_status(
    status: str, message: str, request: object, address: object
) -> PersonServeError:
    """The error for a gRPC `status` that `address` answered `request` with."""
    kind = STATUS_ERRORS.get(status, ServerError)
    # Triton says UNAVAILABLE, or INVALID_ARGUMENT, of a model that is not loaded
    if "unknown model" in message:
        loading = "no available versions" in message
        kind = ModelLoadingError if loading else ModelUnavailableError
    elif status == "UNAVAILABLE":
        message = (
            f"no Triton server answers at {address}: {message}. Is it running "
            "(python -m builders serve), and is this its port for this protocol?"
        )
    elif status == "DEADLINE_EXCEEDED":
        message = "no answer within the timeout; raise timeout_s or send less"
    return kind(
        message,
        model=getattr(request, "model", None),
        request_id=getattr(request, "request_id", None),
    )
