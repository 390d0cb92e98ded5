"""The synchronous client."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from personserve._calls import Boxes, Call, Calls, Frame, Pictures
from personserve._errors import PersonServeError
from personserve._results import Kinship, People
from personserve._transport import (
    Array,
    GrpcTransport,
    ModelDescription,
    Ready,
    Transport,
)

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

DEFAULT_ADDRESS = "127.0.0.1:8001"
DEFAULT_TIMEOUT_S = 30.0


class Client:
    """Asks a Triton server about people, over gRPC.

    One client may be used from many threads at once. `timeout_s` is the deadline of
    each call that does not name its own. `transport` replaces the wire, for tests.

        with Client("127.0.0.1:8001") as client:
            for person in client.attributes(frame, boxes):
                print(person.gender.label, person.embedding.shape)

    Calls raise PersonServeError; `personserve._errors` draws its tree.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        transport: Transport | None = None,
    ) -> None:
        self._transport = transport or GrpcTransport(address)
        self._timeout_s = timeout_s
        self._calls = Calls()

    def attributes(
        self, frame: Frame, boxes: Boxes, *, timeout_s: float | None = None
    ) -> People:
        """Gender and embedding of the person in each of `boxes`.

        `frame` is a UINT8 array [H, W, 3] in BGR order (as OpenCV reads), or an
        encoded JPEG, PNG or WebP as bytes or as a path. `boxes` is [N, 4],
        (x0, y0, x1, y1) in pixels; what overlaps the frame is clipped to it, what
        does not is refused by its index. No boxes make no call; more than the server
        takes at once are split and rejoined in order, each part with the whole
        deadline.
        """
        return self._run(self._calls.attributes(frame, boxes), timeout_s)

    def attributes_of_crops(
        self, crops: Pictures, *, timeout_s: float | None = None
    ) -> People:
        """Gender and embedding of the person in each of `crops`, UINT8 [H, W, 3] BGR
        arrays of any size; they are resized here, and no Python runs on the server.
        """
        return self._run(self._calls.attributes_of_crops(crops), timeout_s)

    def kinship_matrix(
        self, faces_a: Pictures, faces_b: Pictures, *, timeout_s: float | None = None
    ) -> Kinship:
        """P(related) of every face of `faces_a` with every one of `faces_b`, UINT8
        [H, W, 3] BGR arrays of any size.

        Each face goes through the network's trunk once: N + M passes for N x M pairs.
        The deadline holds for each of the requests that this takes.
        """
        return self._run(self._calls.kinship_matrix(faces_a, faces_b), timeout_s)

    def infer(
        self, model: str, *, timeout_s: float | None = None, **arrays: Array
    ) -> dict[str, Array]:
        """Outputs of any of the server's models by name, for inputs by name."""
        return self._run(self._calls.infer(model, arrays), timeout_s)

    def describe(
        self, model: str, *, timeout_s: float | None = None
    ) -> ModelDescription:
        """How the server has `model` configured: tensors, limits and parameters."""
        return self._run(self._calls.describe(model), timeout_s)

    def ready(self, model: str | None = None, *, timeout_s: float = 2.0) -> bool:
        """Whether the server, or its `model`, would answer now. Does not raise for a
        server that is not there.
        """
        try:
            return bool(self._transport.send(Ready(model), timeout_s))
        except PersonServeError:
            return False

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, call: Call[T], timeout_s: float | None) -> T:
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            request = next(call)
            while True:
                try:
                    reply = self._transport.send(request, timeout_s)
                except PersonServeError as exc:
                    request = call.throw(exc)
                else:
                    request = call.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result
