"""The asynchronous client: Client's methods with `await`."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Generator,
    Iterable,
    Sequence,
)
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from personserve._assembly import Assembled, assembled
from personserve._calls import Cut
from personserve._client import (
    DEFAULT_ADDRESS,
    DEFAULT_IN_FLIGHT,
    DEFAULT_TIMEOUT_S,
    _ready,
)
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
)
from personserve._results import Classification, Kinship, People
from personserve._transport import AsyncTransport, async_transport_to

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

Frames = Iterable[tuple[Picture, Boxes]] | AsyncIterable[tuple[Picture, Boxes]]


class AsyncClient:
    """Client for asyncio: the same arguments, the same methods, the same answers.

    async with AsyncClient("grpc://127.0.0.1:8001") as client:
        people = await client.attributes(frame, boxes)
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
        transport: AsyncTransport | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._parts: Assembled[AsyncTransport] = assembled(
            address,
            transport,
            async_transport_to,
            retry=retry,
            tls=tls,
            headers=headers,
            compression=compression,
            shared_memory=shared_memory,
            abstain_below=abstain_below,
        )
        self._calls = self._parts.calls
        self._release = weakref.finalize(self, self._parts.release_memory)

    async def attributes(
        self,
        frame: Picture,
        boxes: Boxes,
        *,
        crops: Cut = "server",
        timeout_s: float | None = None,
    ) -> People:
        """See Client.attributes."""
        return await self._run(self._calls.attributes(frame, boxes, crops), timeout_s)

    async def attributes_of_crops(
        self, crops: Pictures, *, timeout_s: float | None = None
    ) -> People:
        """See Client.attributes_of_crops."""
        return await self._run(self._calls.attributes_of_crops(crops), timeout_s)

    async def attributes_stream(
        self,
        frames: Frames,
        *,
        in_flight: int = DEFAULT_IN_FLIGHT,
        crops: Cut = "server",
        timeout_s: float | None = None,
    ) -> AsyncIterator[People]:
        """See Client.attributes_stream; `frames` may be asynchronous."""
        pending: deque[asyncio.Task[People]] = deque()
        delivery, streams = self._parts.delivery.streaming()
        try:
            async for frame, boxes in _each(frames):
                call = self._calls.attributes(frame, boxes, crops)
                pending.append(
                    asyncio.ensure_future(self._run(call, timeout_s, delivery))
                )
                if len(pending) >= in_flight:
                    yield await pending.popleft()
            while pending:
                yield await pending.popleft()
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            for stream in streams:
                await stream.close()

    async def kinship(
        self, face_a: Picture, face_b: Picture, *, timeout_s: float | None = None
    ) -> Kinship:
        """See Client.kinship."""
        call = self._calls.kinship_matrix([face_a], [face_b])
        return await self._run(call, timeout_s)

    async def kinship_matrix(
        self, faces_a: Pictures, faces_b: Pictures, *, timeout_s: float | None = None
    ) -> Kinship:
        """See Client.kinship_matrix."""
        call = self._calls.kinship_matrix(faces_a, faces_b)
        return await self._run(call, timeout_s)

    async def classify(
        self,
        pictures: Pictures,
        *,
        count: int = 5,
        labels: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> list[Classification]:
        """See Client.classify."""
        call = self._calls.classify(pictures, count, labels)
        return await self._run(call, timeout_s)

    async def infer(
        self, model: str, *, timeout_s: float | None = None, **arrays: Array | OnGpu
    ) -> dict[str, Array]:
        """See Client.infer."""
        return await self._run(self._calls.infer(model, arrays), timeout_s)

    async def describe(
        self, model: str, *, timeout_s: float | None = None
    ) -> ModelDescription:
        """See Client.describe."""
        return await self._run(self._calls.describe(model), timeout_s)

    async def models(self, *, timeout_s: float | None = None) -> tuple[ModelState, ...]:
        """See Client.models."""
        return await self._run(self._calls.models(), timeout_s)

    async def ready(self, model: str | None = None, *, timeout_s: float = 2.0) -> bool:
        """See Client.ready."""
        try:
            return await self._run(_ready(model), timeout_s)
        except PersonServeError:
            return False

    async def close(self) -> None:
        """See Client.close."""
        await asyncio.to_thread(self._release)
        for endpoint in self._parts.delivery.endpoints:
            await endpoint.transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _run(
        self,
        call: Call[T],
        timeout_s: float | None,
        delivery: Delivery[AsyncTransport] | None = None,
    ) -> T:
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        actions = (delivery or self._parts.delivery).run(call, timeout_s)
        return await _carried_out(actions)


async def _carried_out(
    actions: Generator[Send[AsyncTransport] | Pause, Any, T],
) -> T:
    try:
        action = next(actions)
        while True:
            if isinstance(action, Pause):
                await asyncio.sleep(action.seconds)
                action = actions.send(None)
                continue
            try:
                reply = await action.transport.send(action.request, action.timeout_s)
            except PersonServeError as exc:
                action = actions.throw(exc)
            except asyncio.CancelledError:
                actions.close()
                raise
            else:
                action = actions.send(reply)
    except StopIteration as stop:
        result: T = stop.value
        return result


async def _each(frames: Frames) -> AsyncIterator[tuple[Picture, Boxes]]:
    if isinstance(frames, AsyncIterable):
        async for each in frames:
            yield each
    else:
        for each in frames:
            yield each
