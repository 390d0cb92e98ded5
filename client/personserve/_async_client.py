"""The asynchronous client: the methods of Client with `await`."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from personserve._client import READY_TIMEOUT_S
from personserve._defaults import (
    DEFAULT_ADDRESS,
    DEFAULT_IN_FLIGHT,
    DEFAULT_TIMEOUT_S,
    FRAME_MODEL,
)
from personserve._errors import PersonServeError
from personserve._factory import ClientParts, build_client_parts
from personserve._results import Classification, InferResult, Kinship, People
from personserve._retry import Call, Dispatcher, Pause, Send
from personserve._retry_policy import Retry
from personserve._types import (
    Array,
    Boxes,
    CropSide,
    FrameInput,
    GpuArray,
    Headers,
    ImageInput,
    ImageInputs,
    MemoryKind,
)
from personserve._wire.connection import Tls
from personserve._wire.requests import ModelDescription, ModelState
from personserve._wire.transport import AsyncTransport, open_async_transport

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


class AsyncClient:
    """Client for asyncio, with the same arguments, methods and results as Client.

    async with AsyncClient("grpc://127.0.0.1:8001") as client:
        people = await client.attributes(frame, boxes)

    Args:
        address: See Client.
        timeout_s: See Client.
        retry: See Client.
        tls: See Client.
        headers: See Client.
        compression: See Client.
        shared_memory: See Client.
        abstain_below: See Client.
        transport: Used in place of the wire, for example AsyncMockTransport in tests.

    Raises:
        InvalidInputError: See Client.
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
        shared_memory: MemoryKind | None = None,
        abstain_below: float = 0.0,
        transport: AsyncTransport | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._parts: ClientParts[AsyncTransport] = build_client_parts(
            address,
            transport,
            open_async_transport,
            retry=retry,
            tls=tls,
            headers=headers,
            compression=compression,
            shared_memory=shared_memory,
            abstain_below=abstain_below,
        )
        self._calls = self._parts.calls
        self._release_memory = weakref.finalize(self, self._parts.release_memory)

    async def attributes(
        self,
        frame: ImageInput,
        boxes: Boxes,
        *,
        model: str = FRAME_MODEL,
        crop_on: CropSide = "server",
        timeout_s: float | None = None,
    ) -> People:
        """Return gender and embedding of the person in each box of a frame.

        Args:
            frame: See Client.attributes.
            boxes: See Client.attributes.
            model: See Client.attributes.
            crop_on: See Client.attributes.
            timeout_s: See Client.attributes.

        Returns:
            One Person for each box, in order.

        Raises:
            InvalidInputError: See Client.attributes.
            PersonServeError: See Client.attributes.
        """
        call = self._calls.frames.attributes(frame, boxes, crop_on, model)
        return await self._run(call, timeout_s)

    async def attributes_of_crops(
        self,
        crops: ImageInputs,
        *,
        model: str = FRAME_MODEL,
        timeout_s: float | None = None,
    ) -> People:
        """Return gender and embedding of the person in each crop.

        Args:
            crops: See Client.attributes_of_crops.
            model: See Client.attributes_of_crops.
            timeout_s: See Client.attributes_of_crops.

        Returns:
            One Person for each crop, in order.

        Raises:
            InvalidInputError: See Client.attributes_of_crops.
            PersonServeError: See Client.attributes_of_crops.
        """
        return await self._run(self._calls.crops.attributes(crops, model), timeout_s)

    async def attributes_stream(
        self,
        frames: Iterable[FrameInput] | AsyncIterable[FrameInput],
        *,
        in_flight: int = DEFAULT_IN_FLIGHT,
        model: str = FRAME_MODEL,
        crop_on: CropSide = "server",
        timeout_s: float | None = None,
    ) -> AsyncIterator[People]:
        """Yield `attributes` of each frame of a video, with several requests at once.

        Args:
            frames: Pairs of frame and boxes, from an iterable or async iterable.
            in_flight: See Client.attributes_stream.
            model: See Client.attributes_stream.
            crop_on: See Client.attributes_stream.
            timeout_s: See Client.attributes_stream.

        Yields:
            The people of each frame, in the order of the frames.

        Raises:
            PersonServeError: See Client.attributes_stream.
        """
        pending: deque[asyncio.Task[People]] = deque()
        dispatcher, streams = self._parts.dispatcher.with_streams()
        try:
            async for frame, boxes in _iterate(frames):
                call = self._calls.frames.attributes(frame, boxes, crop_on, model)
                pending.append(
                    asyncio.ensure_future(self._run(call, timeout_s, dispatcher))
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
        self, face_a: ImageInput, face_b: ImageInput, *, timeout_s: float | None = None
    ) -> Kinship:
        """Return the probability that two people are related, from their faces.

        Args:
            face_a: See Client.kinship.
            face_b: See Client.kinship.
            timeout_s: See Client.kinship.

        Returns:
            A Kinship whose `probability` is the answer.

        Raises:
            InvalidInputError: See Client.kinship.
            PersonServeError: See Client.kinship.
        """
        call = self._calls.faces.kinship_matrix([face_a], [face_b])
        return await self._run(call, timeout_s)

    async def kinship_matrix(
        self,
        faces_a: ImageInputs,
        faces_b: ImageInputs,
        *,
        timeout_s: float | None = None,
    ) -> Kinship:
        """Return the probability that two people are related, for all pairs of faces.

        Args:
            faces_a: See Client.kinship_matrix.
            faces_b: See Client.kinship_matrix.
            timeout_s: See Client.kinship_matrix.

        Returns:
            A Kinship whose `probabilities` are [N, M].

        Raises:
            InvalidInputError: See Client.kinship_matrix.
            PersonServeError: See Client.kinship_matrix.
        """
        call = self._calls.faces.kinship_matrix(faces_a, faces_b)
        return await self._run(call, timeout_s)

    async def classify(
        self,
        images: ImageInputs,
        *,
        count: int = 5,
        labels: Sequence[str] | None = None,
        timeout_s: float | None = None,
    ) -> list[Classification]:
        """Return the most probable ImageNet classes of each image.

        Args:
            images: See Client.classify.
            count: See Client.classify.
            labels: See Client.classify.
            timeout_s: See Client.classify.

        Returns:
            One Classification for each image, in order.

        Raises:
            InvalidInputError: See Client.classify.
            PersonServeError: See Client.classify.
        """
        call = self._calls.images.classify(images, count, labels)
        return await self._run(call, timeout_s)

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Array | GpuArray],
        *,
        timeout_s: float | None = None,
    ) -> InferResult:
        """Run any of the server's models.

        Args:
            model: See Client.infer.
            inputs: See Client.infer.
            timeout_s: See Client.infer.

        Returns:
            See Client.infer.

        Raises:
            InvalidInputError: See Client.infer.
            PersonServeError: See Client.infer.
        """
        return await self._run(self._calls.inference.infer(model, inputs), timeout_s)

    async def describe(
        self, model: str, *, timeout_s: float | None = None
    ) -> ModelDescription:
        """Return a model's configuration: tensors, limits and parameters.

        Args:
            model: See Client.describe.
            timeout_s: See Client.describe.

        Returns:
            The description, requested from the server by each call.

        Raises:
            ModelUnavailableError: See Client.describe.
            PersonServeError: See Client.describe.
        """
        return await self._run(self._calls.models.describe(model), timeout_s)

    async def models(self, *, timeout_s: float | None = None) -> tuple[ModelState, ...]:
        """Return the state of every model in the server's repository.

        Args:
            timeout_s: See Client.models.

        Returns:
            The states, sorted by name.

        Raises:
            PersonServeError: See Client.models.
        """
        return await self._run(self._calls.models.list_states(), timeout_s)

    async def frame_models(
        self, *, timeout_s: float | None = None
    ) -> tuple[ModelDescription, ...]:
        """Return the models that take frames, so that `attributes` can name them.

        Args:
            timeout_s: See Client.frame_models.

        Returns:
            Descriptions of those that are ready, sorted by name.

        Raises:
            PersonServeError: See Client.frame_models.
        """
        return await self._run(self._calls.models.list_for_frames(), timeout_s)

    async def ready(
        self, model: str | None = None, *, timeout_s: float = READY_TIMEOUT_S
    ) -> bool:
        """Return whether the server, or one of its models, is ready.

        Args:
            model: See Client.ready.
            timeout_s: See Client.ready.

        Returns:
            True if it is ready; False if it is not, or the server is unreachable.
        """
        try:
            return await self._run(self._calls.models.ready(model), timeout_s)
        except PersonServeError:
            return False

    async def close(self) -> None:
        """Close connections and release shared memory."""
        await asyncio.to_thread(self._release_memory)
        for endpoint in self._parts.dispatcher.endpoints:
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
        dispatcher: Dispatcher[AsyncTransport] | None = None,
    ) -> T:
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        dispatcher = dispatcher or self._parts.dispatcher
        return await run_actions(dispatcher.run_call(call, timeout_s))


async def run_actions(actions: Generator[Send[AsyncTransport] | Pause, Any, T]) -> T:
    """Run the actions of a call in the running event loop.

    Args:
        actions: Generator of actions, from Dispatcher.run_call.

    Returns:
        The call's result.

    Raises:
        PersonServeError: If the call fails.
    """
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


async def _iterate(
    frames: Iterable[FrameInput] | AsyncIterable[FrameInput],
) -> AsyncIterator[FrameInput]:
    if isinstance(frames, AsyncIterable):
        async for frame in frames:
            yield frame
    else:
        for frame in frames:
            yield frame
