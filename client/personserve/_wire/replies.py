"""Limits and checks of replies that both protocols share."""

from __future__ import annotations

from personserve._errors import IncompatibleServerError, ServerError
from personserve._wire.requests import Infer, ModelDescription, Request

MAX_REPLY_BYTES = 256 << 20
"""Largest reply to an inference in bytes, for outputs of unknown size."""

MAX_DOCUMENT_BYTES = 4 << 20
"""Largest reply to any other request in bytes: configurations and lists of names."""

MAX_DIMENSION = (1 << 31) - 1
"""Largest dimension of a described tensor."""

PARSE_ERRORS = (ValueError, KeyError, TypeError, OverflowError, RecursionError)
"""Exceptions of code that reads a malformed reply; RecursionError is json's."""


def reply_limit(request: Request) -> int:
    """Return the largest acceptable reply to a request.

    Args:
        request: The request.

    Returns:
        Size in bytes, after decompression.
    """
    if not isinstance(request, Infer):
        return MAX_DOCUMENT_BYTES
    if request.max_reply_bytes is None:
        return MAX_REPLY_BYTES
    return min(request.max_reply_bytes, MAX_REPLY_BYTES)


def too_large_error(request: Request, limit_bytes: int) -> IncompatibleServerError:
    """Build the error for a reply that exceeds its limit.

    Args:
        request: The request.
        limit_bytes: Largest acceptable reply in bytes.

    Returns:
        The error, to be raised by the caller.
    """
    return IncompatibleServerError(
        f"the server's answer is larger than {limit_bytes} bytes, the limit that "
        "follows from the model's description",
        model=getattr(request, "model", None),
        request_id=getattr(request, "request_id", None),
    )


def malformed_error(
    request: Request, address: object, reason: Exception | str
) -> IncompatibleServerError:
    """Build the error for a reply that does not follow the protocol.

    Args:
        request: The request.
        address: Address of the server.
        reason: What is wrong with the reply.

    Returns:
        The error, to be raised by the caller.
    """
    detail = reason if isinstance(reason, str) else repr(reason)
    return IncompatibleServerError(
        f"{address} does not answer as a Triton server ({detail[:300]})",
        model=getattr(request, "model", None),
        request_id=getattr(request, "request_id", None),
    )


def check_identity(request: Infer, model: str, request_id: str) -> None:
    """Check that an answer belongs to a request.

    Args:
        request: The request.
        model: The answer's model; empty if the answer has none.
        request_id: The answer's request id; empty if the answer has none.

    Raises:
        ServerError: If the answer is that of another request or model.
    """
    if request_id and request.request_id and request_id != request.request_id:
        raise ServerError(
            f"expected the answer of this request, got that of {request_id[:80]!r}",
            model=request.model,
            request_id=request.request_id,
        )
    if model and model != request.model:
        raise ServerError(
            f"expected the answer of this model, got that of {model[:80]!r}",
            model=request.model,
            request_id=request.request_id,
        )


def check_description(description: ModelDescription, model: str) -> ModelDescription:
    """Check that a description is a possible one of the requested model.

    Args:
        description: The description that the server gave.
        model: Name of the model in the request.

    Returns:
        The description.

    Raises:
        ValueError: If it is of another model, or a tensor's name or shape is invalid.
    """
    if description.name != model:
        raise ValueError(f"described {description.name[:80]!r}, expected {model!r}")
    if not 0 <= description.max_batch_size <= MAX_DIMENSION:
        raise ValueError(f"max_batch_size: {description.max_batch_size}")
    for tensors in (description.inputs, description.outputs):
        names = [tensor.name for tensor in tensors]
        if "" in names or len(set(names)) < len(names):
            raise ValueError(f"tensors {names}: expected different names")
        for tensor in tensors:
            if any(not -1 <= size <= MAX_DIMENSION for size in tensor.shape):
                raise ValueError(f"{tensor.name}: shape {list(tensor.shape)}")
    return description
