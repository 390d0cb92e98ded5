"""Requests over one gRPC stream, which saves each of them the cost of a call.

A stream is a transport like any other: many requests may be on it, each waits for its
own answer. Triton's stream tells that a request failed, but not with which status; such
a request is asked again as a plain call, whose error says everything.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any

import grpc

from personserve._connection import Connection
from personserve._errors import RequestTimeoutError
from personserve._grpc_messages import error_of, infer_message, outputs_of
from personserve._requests import Infer, Request

if TYPE_CHECKING:
    from personserve._grpc import AsyncGrpcTransport, GrpcTransport


class Refused(Exception):  # noqa: N818 - never leaves this module
    """The request failed, or was not answered before the stream ended."""


class GrpcStream:
    """Transport over a stream of `transport`, which it leaves open."""

    def __init__(self, transport: GrpcTransport, connection: Connection) -> None:
        self._transport = transport
        self._connection = connection
        self._lock = threading.Lock()
        self._opened: _Opened | None = None

    def send(self, request: Request, timeout_s: float | None) -> Any:
        if not isinstance(request, Infer):
            return self._transport.send(request, timeout_s)
        with self._lock:
            answer = None if self._opened is None else self._opened.ask(request)
            if answer is None:
                self._opened = _Opened(self._transport)
                answer = self._opened.ask(request)
        if answer is None:  # it ended as soon as it began
            return self._transport.send(request, timeout_s)
        try:
            return outputs_of(answer.result(timeout_s))
        except Refused:
            return self._transport.send(request, timeout_s)
        except (FutureTimeoutError, TimeoutError) as exc:
            answer.cancel()
            raise _late(request) from exc
        except grpc.RpcError as exc:
            raise error_of(exc, request, self._connection) from exc

    def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None


class _Opened:
    """One stream, from its first request to its end."""

    def __init__(self, transport: GrpcTransport) -> None:
        self._lock = threading.Lock()
        self._ended = False
        self._waiting: dict[str, Future[Any]] = {}
        self._outgoing: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._call = transport.open_stream(self._messages())
        threading.Thread(
            target=self._read, name="personserve-stream", daemon=True
        ).start()

    def ask(self, request: Infer) -> Future[Any] | None:
        """What will be answered; None where the stream has ended."""
        answer: Future[Any] = Future()
        with self._lock:
            if self._ended:
                return None
            self._waiting[request.request_id] = answer
        self._outgoing.put(infer_message(request))
        return answer

    def close(self) -> None:
        self._outgoing.put(None)
        self._call.cancel()

    def _messages(self) -> Iterator[Any]:
        while (message := self._outgoing.get()) is not None:
            yield message

    def _read(self) -> None:
        error: BaseException = Refused()
        try:
            for response in self._call:
                self._answer(response)
        except grpc.RpcError as exc:
            error = exc
        with self._lock:
            self._ended = True
            left = list(self._waiting.values())
        self._outgoing.put(None)
        for answer in left:
            if answer.set_running_or_notify_cancel():
                answer.set_exception(error)

    def _answer(self, response: Any) -> None:
        with self._lock:
            answer = self._waiting.pop(response.infer_response.id, None)
        # nobody waits where the time was up
        if answer is None or not answer.set_running_or_notify_cancel():
            return
        if response.error_message:
            answer.set_exception(Refused())
        else:
            answer.set_result(response.infer_response)


class AsyncGrpcStream:
    """AsyncTransport over a stream of `transport`, which it leaves open."""

    def __init__(self, transport: AsyncGrpcTransport, connection: Connection) -> None:
        self._transport = transport
        self._connection = connection
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self._outgoing: asyncio.Queue[Any] = asyncio.Queue()
        self._reading: asyncio.Task[None] | None = None

    async def send(self, request: Request, timeout_s: float | None) -> Any:
        if not isinstance(request, Infer):
            return await self._transport.send(request, timeout_s)
        if self._reading is None or self._reading.done():
            self._outgoing = asyncio.Queue()
            call = self._transport.open_stream(_messages(self._outgoing))
            self._reading = asyncio.ensure_future(self._read(call))
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[request.request_id] = answer
        self._outgoing.put_nowait(infer_message(request))
        try:
            response = await asyncio.wait_for(answer, timeout_s)
        except Refused:
            return await self._transport.send(request, timeout_s)
        except (asyncio.TimeoutError, TimeoutError) as exc:
            raise _late(request) from exc
        except grpc.RpcError as exc:
            raise error_of(exc, request, self._connection) from exc
        finally:
            self._waiting.pop(request.request_id, None)
        return outputs_of(response)

    async def close(self) -> None:
        if self._reading is not None:
            self._outgoing.put_nowait(None)
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self, call: Any) -> None:
        error: BaseException = Refused()
        try:
            async for response in call:
                answer = self._waiting.get(response.infer_response.id)
                if answer is None or answer.done():
                    continue
                if response.error_message:
                    answer.set_exception(Refused())
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


def _late(request: Infer) -> RequestTimeoutError:
    return RequestTimeoutError(
        "no answer within the timeout; raise timeout_s or send less",
        model=request.model,
        request_id=request.request_id,
    )
