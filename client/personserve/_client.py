"""The synchronous client."""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from personserve._assembly import Assembled, assembled
from personserve._calls import Cut
from personserve._connection import Headers, Tls
from personserve._delivery import Call, Delivery, Pause, Retry, Send
from personserve._errors import PersonServeError
from personserve._pictures import Boxes, Picture, Pictures
from personserve._requests import (
    Array,
    Memory,
    ModelDescription,
    ModelState,
    OnGpu,
    Ready,
)
from personserve._results import Classification, Kinship, People
from personserve._transport import Transport, transport_to

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

DEFAULT_ADDRESS = "grpc://127.0.0.1:8001"
DEFAULT_TIMEOUT_S = 30.0
DEFAULT_IN_FLIGHT = 4


class Client:
    """Asks a Triton server about people. One client may be used from many threads.

        with Client("grpc://127.0.0.1:8001") as client:
            for person in client.attributes(frame, boxes):
                print(person.gender.label, person.embedding.shape)

    `address` is grpc://, grpcs://, http:// or https://host:port; of several, requests
    go to each in turn, and around those that fail. `timeout_s` is the deadline of each
    call that does not name its own, retries included. `headers` go with every request;
    a callable is asked each time, for tokens that change. `compression` is "gzip" for
    slow networks. `shared_memory` hands frames and crops over where the server is on
    this machine: in /dev/shm ("system") or in the first GPU's memory ("cuda"). A gender
    less probable than `abstain_below`
    comes back as abstained. `transport` replaces the wire, for tests.

    Calls raise PersonServeError; `personserve._errors` draws its tree.
    """

    def __init__(
        self,
        address: str | Sequence[str] = DEFAULT_ADDRESS,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry: Retry | None = None,
        tls: Tls | None = None,
        headers: Headers | None = None,
        compression: Literal["gzip"] | None = None,
        shared_memory: Memory | None = None,
        abstain_below: float = 0.0,
        transport: Transport | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._parts: Assembled[Transport] = assembled(
            address,
            transport,
            transport_to,
            retry=retry,
            tls=tls,
            headers=headers,
            compression=compression,
            shared_memory=shared_memory,
            abstain_below=abstain_below,
        )
        self._calls = self._parts.calls
        self._close = weakref.finalize(self, _close, self._parts)

    def attributes(
        self,
        frame: Picture,
        boxes: Boxes,
        *,
        crops: Cut = "server",
        timeout_s: float | None = None,
    ) -> People:
        """Gender and embedding of the person in each of `boxes`.

        `frame` is a UINT8 array [H, W, 3] in BGR order (as OpenCV reads), a PIL image,
        or an encoded JPEG, PNG or WebP as bytes or as a path. `boxes` is [N, 4],
        (x0, y0, x1, y1) in pixels, or a detector's result that has them as `xyxy`
        (supervision, ultralytics). What overlaps the frame is clipped to it, what does
        not is refused by its index. No boxes make no call; more than the server takes
        at once are split and rejoined in order.

        `crops` says who cuts people out: the "server", this "client" (the same pixels
        from raw frames), or "auto" whichever sends less.
        """
        return self._run(self._calls.attributes(frame, boxes, crops), timeout_s)

    def attributes_of_crops(
        self, crops: Pictures, *, timeout_s: float | None = None
    ) -> People:
        """Gender and embedding of the person in each of `crops`, pictures of any size;
        they are resized here, and no Python runs on the server.
        """
        return self._run(self._calls.attributes_of_crops(crops), timeout_s)

    def attributes_stream(
        self,
        frames: Iterable[tuple[Picture, Boxes]],
        *,
        in_flight: int = DEFAULT_IN_FLIGHT,
        crops: Cut = "server",
        timeout_s: float | None = None,
    ) -> Iterator[People]:
        """`attributes` of each (frame, boxes) of a video, in order, with up to
        `in_flight` of them on their way (over gRPC on one stream, which costs less than
        half of single calls' CPU time for raw frames); a frame is taken when there is
        room for it.

        What a frame raises is raised in its turn, and ends the stream.
        """
        pending: deque[Future[People]] = deque()
        each = iter(frames)
        delivery, streams = self._parts.delivery.streaming()
        with ThreadPoolExecutor(in_flight) as pool:
            try:
                while True:
                    for frame, boxes in islice(each, in_flight - len(pending)):
                        call = self._calls.attributes(frame, boxes, crops)
                        pending.append(
                            pool.submit(self._run, call, timeout_s, delivery)
                        )
                    if not pending:
                        return
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()
                for stream in streams:
                    stream.close()

    def kinship(
        self, face_a: Picture, face_b: Picture, *, timeout_s: float | None = None
    ) -> Kinship:
        """P(related) of two faces, as `probability`."""
        return self._run(self._calls.kinship_matrix([face_a], [face_b]), timeout_s)

    def kinship_matrix(
        self, faces_a: Pictures, faces_b: Pictures, *, timeout_s: float | None = None
    ) -> Kinship:
        """P(related) of every face of `faces_a` with every one of `faces_b`, pictures
        of any size.

        Each face goes through the network's trunk once: N + M passes for N x M pairs.
        """
        return self._run(self._calls.kinship_matrix(faces_a, faces_b), timeout_s)

    def classify(
        self,
        pictures: Pictures,
        *,
        count: int = 5,
        labels: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> list[Classification]:
        """The `count` most probable ImageNet classes of each of `pictures`, of any
        size. `labels` are the classes' names in order, if you have them.
        """
        return self._run(self._calls.classify(pictures, count, labels), timeout_s)

    def infer(
        self, model: str, *, timeout_s: float | None = None, **arrays: Array | OnGpu
    ) -> dict[str, Array]:
        """Outputs of any of the server's models by name, for inputs by name; with
        `shared_memory="cuda"` inputs may be on the GPU (torch, CuPy).
        """
        return self._run(self._calls.infer(model, arrays), timeout_s)

    def describe(
        self, model: str, *, timeout_s: float | None = None
    ) -> ModelDescription:
        """How the server has `model` configured: tensors, limits and parameters."""
        return self._run(self._calls.describe(model), timeout_s)

    def models(self, *, timeout_s: float | None = None) -> tuple[ModelState, ...]:
        """What is in the server's repository, by name."""
        return self._run(self._calls.models(), timeout_s)

    def ready(self, model: str | None = None, *, timeout_s: float = 2.0) -> bool:
        """Whether a server, or its `model`, would answer now. Does not raise for a
        server that is not there.
        """
        try:
            return self._run(_ready(model), timeout_s)
        except PersonServeError:
            return False

    def close(self) -> None:
        """Let go of connections and shared memory."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(
        self,
        call: Call[T],
        timeout_s: float | None,
        delivery: Delivery[Transport] | None = None,
    ) -> T:
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        return _carried_out((delivery or self._parts.delivery).run(call, timeout_s))


def _carried_out(actions: Generator[Send[Transport] | Pause, Any, T]) -> T:
    try:
        action = next(actions)
        while True:
            if isinstance(action, Pause):
                time.sleep(action.seconds)
                action = actions.send(None)
                continue
            try:
                reply = action.transport.send(action.request, action.timeout_s)
            except PersonServeError as exc:
                action = actions.throw(exc)
            else:
                action = actions.send(reply)
    except StopIteration as stop:
        result: T = stop.value
        return result


def _ready(model: str | None) -> Call[bool]:
    return bool((yield Ready(model)))


def _close(parts: Assembled[Transport]) -> None:
    parts.release_memory()
    for endpoint in parts.delivery.endpoints:
        endpoint.transport.close()
