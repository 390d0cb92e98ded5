"""What the client makes of a proxy's way to say that a server has gone."""

from __future__ import annotations

import grpc
import pytest

from personserve import PersonServeError, ServerError, ServerUnavailableError
from personserve._wire.connection import Address, Connection
from personserve._wire.grpc_messages import error_from_rpc_error
from personserve._wire.requests import Infer


class Failure(grpc.RpcError):
    """A failed call, as gRPC raises it."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


# nginx 1.31, when the server of a stream was killed
CUT_OFF = "Stream removed (RST_STREAM (Received RST_STREAM with error code 2))"


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (grpc.StatusCode.UNKNOWN, CUT_OFF, ServerUnavailableError),
        (grpc.StatusCode.INTERNAL, CUT_OFF, ServerUnavailableError),
        (grpc.StatusCode.INTERNAL, "the model failed", ServerError),
    ],
)
def test_a_stream_that_is_cut_off_is_a_broken_connection(
    code: grpc.StatusCode, details: str, kind: type[PersonServeError]
) -> None:
    connection = Connection(Address.parse("grpcs://proxy"))
    error = error_from_rpc_error(
        Failure(code, details), Infer("person_gender", {}), connection
    )
    assert type(error) is kind
