"""Transports over one gRPC stream, which saves each request the cost of a call.

Many requests may be on a stream at once; each one waits for its own answer. Triton's
stream tells that a request failed, but not with which status, so a failed request is
sent again as a single call, whose error is complete.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any

import grpc

from personserve._errors import RequestTimeoutError
from personserve._wire.connection import Connection
from personserve._wire.grpc_messages import (
    error_from_rpc_error,
    message_from_infer,
    reply_from_message,
)
from personserve._wire.requests import Infer, Request

if TYPE_CHECKING:
    from personserve._wire.grpc import AsyncGrpcTransport, GrpcTransport


class StreamFailure(Exception):  # noqa: N818 - never leaves this module
    """A request failed on the stream, or the stream ended before its answer."""


class GrpcStream:
    """Transport over a stream of another transport, which it leaves open."""

    def __init__(self, transport: GrpcTransport, connection: Connection) -> None:
        self._transport = transport
        self._connection = connection
        self._lock = threading.Lock()
        self._stream: _OpenStream | None = None

    def send(self, request: Request, timeout_s: float | None) -> Any:
        """Send a request and wait for its reply."""
        if not isinstance(request, Infer):
            return self._transport.send(request, timeout_s)
        deadline = _deadline_after(timeout_s)
        with self._lock:
            answer = None
            if self._stream is not None:
                answer = self._stream.submit(request, timeout_s)
            if answer is None:
                self._stream = _OpenStream(self._transport)
                answer = self._stream.submit(request, timeout_s)
        if answer is None:  # the new stream ended at once
            return self._transport.send(request, timeout_s)
        try:
            response = answer.result(timeout_s)
        except StreamFailure:
            return self._transport.send(request, _remaining_s(deadline, request))
        except (FutureTimeoutError, TimeoutError) as exc:
            answer.cancel()
            raise _timeout_error(request) from exc
        except grpc.RpcError as exc:
            raise error_from_rpc_error(exc, request, self._connection) from exc
        return reply_from_message(request, response, self._connection)

    def close(self) -> None:
        """Close the stream."""
        with self._lock:
            if self._stream is not None:
                self._stream.close()
                self._stream = None


class _OpenStream:
    """One ModelStreamInfer call, from its first request to its end."""

    def __init__(self, transport: GrpcTransport) -> None:
        self._lock = threading.Lock()
        self._ended = False
        self._waiting: dict[str, Future[Any]] = {}
        self._outgoing: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._call = transport.start_stream_call(self._messages())
        threading.Thread(
            target=self._read_responses, name="personserve-stream", daemon=True
        ).start()

    def submit(self, request: Infer, timeout_s: float | None) -> Future[Any] | None:
        """Put a request on the stream; return None if the stream has ended."""
        answer: Future[Any] = Future()
        with self._lock:
            if self._ended:
                return None
            self._waiting[request.request_id] = answer
        self._outgoing.put(message_from_infer(request, timeout_s))
        return answer

    def close(self) -> None:
        self._outgoing.put(None)
        self._call.cancel()

    def _messages(self) -> Iterator[Any]:
        while (message := self._outgoing.get()) is not None:
            yield message

    def _read_responses(self) -> None:
        error: BaseException = StreamFailure()
        try:
            for response in self._call:
                self._resolve(response)
        except grpc.RpcError as exc:
            error = exc
        with self._lock:
            self._ended = True
            unanswered = list(self._waiting.values())
        self._outgoing.put(None)
        for answer in unanswered:
            if answer.set_running_or_notify_cancel():
                answer.set_exception(error)

    def _resolve(self, response: Any) -> None:
        with self._lock:
            answer = self._waiting.pop(response.infer_response.id, None)
        # the request's deadline has passed: its future is cancelled
        if answer is None or not answer.set_running_or_notify_cancel():
            return
        if response.error_message:
            answer.set_exception(StreamFailure())
        else:
            answer.set_result(response.infer_response)


class AsyncGrpcStream:
    """AsyncTransport over a stream of another transport, which it leaves open."""

    def __init__(self, transport: AsyncGrpcTransport, connection: Connection) -> None:
        self._transport = transport
        self._connection = connection
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self._outgoing: asyncio.Queue[Any] = asyncio.Queue()
        self._reader: asyncio.Task[None] | None = None

    async def send(self, request: Request, timeout_s: float | None) -> Any:
        """Send a request and wait for its reply."""
        if not isinstance(request, Infer):
            return await self._transport.send(request, timeout_s)
        deadline = _deadline_after(timeout_s)
        if self._reader is None or self._reader.done():
            self._outgoing = asyncio.Queue()
            call = self._transport.start_stream_call(_messages(self._outgoing))
            self._reader = asyncio.ensure_future(self._read_responses(call))
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[request.request_id] = answer
        self._outgoing.put_nowait(message_from_infer(request, timeout_s))
        try:
            response = await asyncio.wait_for(answer, timeout_s)
        except StreamFailure:
            remaining_s = _remaining_s(deadline, request)
            return await self._transport.send(request, remaining_s)
        except (asyncio.TimeoutError, TimeoutError) as exc:
            raise _timeout_error(request) from exc
        except grpc.RpcError as exc:
            raise error_from_rpc_error(exc, request, self._connection) from exc
        finally:
            self._waiting.pop(request.request_id, None)
        return reply_from_message(request, response, self._connection)

    async def close(self) -> None:
        """Close the stream."""
        if self._reader is not None:
            self._outgoing.put_nowait(None)
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def _read_responses(self, call: Any) -> None:
        error: BaseException = StreamFailure()
        try:
            async for response in call:
                answer = self._waiting.get(response.infer_response.id)
                if answer is None or answer.done():
                    continue
                if response.error_message:
                    answer.set_exception(StreamFailure())
                else:
                    answer.set_result(response.infer_response)
        except grpc.RpcError as exc:
            error = exc
        finally:
            call.cancel()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(error)


async def _messages(outgoing: asyncio.Queue[Any]) -> AsyncIterator[Any]:
    while (message := await outgoing.get()) is not None:
        yield message


def _deadline_after(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else time.monotonic() + timeout_s


def _remaining_s(deadline: float | None, request: Infer) -> float | None:
    """Return the rest of a request's timeout."""
    if deadline is None:
        return None
    remaining_s = deadline - time.monotonic()
    if remaining_s <= 0:
        raise _timeout_error(request)
    return remaining_s


def _timeout_error(request: Infer) -> RequestTimeoutError:
    return RequestTimeoutError(
        "no answer within the timeout; raise timeout_s or send less",
        model=request.model,
        request_id=request.request_id,
    )
