"""Retries, failover and deadlines of requests, without any I/O.

A call (`Call`) is a generator that yields requests and receives their replies. The
Dispatcher turns it into a generator of actions, Send and Pause, and the synchronous or
asynchronous client runs these, one with plain calls, the other with `await`. So there
is one implementation of each call and of these rules. The path of a request:

    Client.attributes()        AsyncClient.attributes()
              │                           │
              └─────────────┬─────────────┘
                            │  Call, from _calls.Calls: yields requests
                            ▼
    Dispatcher.run_call     one deadline for all requests of the call
      _send_traced          a span and trace headers for each inference
      _send_with_retries    choice of an endpoint, back-off, failover
      _send_once            the endpoint's exchange: SegmentPool.exchange moves large
                            tensors to shared memory, send_directly changes nothing
                            │
                            │  Send(transport, request, timeout_s), Pause(seconds)
              ┌─────────────┴─────────────┐
              ▼                           ▼
    _client.run_actions        _async_client.run_actions
              │                           │
              ▼                           ▼
    Transport.send()           AsyncTransport.send()    gRPC, gRPC stream, HTTP or mock

A reply travels back up the same path: `drive` passes it, or the error in place of it,
to the generator that yielded the request.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from personserve._errors import (
    ModelLoadingError,
    OverloadedError,
    PersonServeError,
    RequestTimeoutError,
    ServerUnavailableError,
)
from personserve._retry_policy import Retry, RetryBudget
from personserve._telemetry import Telemetry
from personserve._wire.requests import (
    Infer,
    ModelDescription,
    Outputs,
    Ready,
    Request,
)
from personserve._wire.transport import StreamingTransport

T = TypeVar("T")
A = TypeVar("A")
TransportT = TypeVar("TransportT")
"""A Transport or an AsyncTransport."""

Call = Generator[Request, Any, T]
"""A call in progress: yields requests, receives replies, returns its result."""

log = logging.getLogger("personserve")
log.addHandler(logging.NullHandler())


@dataclass(eq=False)
class Endpoint(Generic[TransportT]):
    """One server address and its recent failures.

    Attributes:
        name: The address, for log lines.
        transport: Connection to the endpoint.
        exchange: Turns a request into the requests that are sent for it.
        failures: Number of failures since the last answer.
        backoff_until: Time (time.monotonic) until which other endpoints are preferred.
    """

    name: str
    transport: TransportT
    exchange: Callable[[Request], Call[Any]]
    failures: int = 0
    backoff_until: float = 0.0


@dataclass(frozen=True)
class Send(Generic[TransportT]):
    """An action: send a request and answer with its reply.

    Attributes:
        transport: Connection to send the request through.
        request: The request.
        timeout_s: Seconds to wait for the reply.
    """

    transport: TransportT
    request: Request
    timeout_s: float


@dataclass(frozen=True)
class Pause:
    """An action: wait and answer with None.

    Attributes:
        seconds: Duration.
    """

    seconds: float


def send_directly(request: Request) -> Call[Any]:
    """Send a request unchanged: the exchange of an endpoint without shared memory.

    Args:
        request: The request.

    Returns:
        A call, which returns the reply.
    """
    return (yield request)


def drive(
    call: Call[T], send: Callable[[Request], Generator[A, Any, Any]]
) -> Generator[A, Any, T]:
    """Run a call by turning each of its requests into actions.

    Errors of `send` are thrown into the call first, so that it can handle them.

    Args:
        call: The call to run.
        send: Returns a generator of actions for a request, which returns its reply.

    Returns:
        A generator of the actions of all requests, which returns the call's result.
    """
    try:
        request = next(call)
        while True:
            try:
                reply = yield from send(request)
            except PersonServeError as exc:
                request = call.throw(exc)
            else:
                request = call.send(reply)
    except StopIteration as stop:
        result: T = stop.value
        return result


@dataclass
class Dispatcher(Generic[TransportT]):
    """Sends requests to the endpoints of one client, by its retry policy.

    Attributes:
        endpoints: The client's endpoints, at least one.
        retry: The retry policy.
        telemetry: Starts the spans.
        budget: Limits how often requests are repeated that servers refused because of
            their load.
    """

    endpoints: Sequence[Endpoint[TransportT]]
    retry: Retry
    telemetry: Telemetry
    budget: RetryBudget = field(default_factory=RetryBudget)
    _turns: Any = field(default_factory=itertools.count)

    def with_streams(self) -> tuple[Dispatcher[TransportT], list[TransportT]]:
        """Open a stream to each endpoint that supports it, for many requests in a row.

        Returns:
            A dispatcher that uses the streams, and the streams; the caller closes them.
        """
        endpoints, streams = [], []
        for endpoint in self.endpoints:
            transport = endpoint.transport
            if isinstance(transport, StreamingTransport):
                streams.append(transport.open_stream())
                endpoints.append(replace(endpoint, transport=streams[-1]))
            else:
                endpoints.append(endpoint)
        return replace(self, endpoints=endpoints), streams

    def run_call(
        self, call: Call[T], timeout_s: float
    ) -> Generator[Send[TransportT] | Pause, Any, T]:
        """Turn a call into actions.

        Args:
            call: The call to run.
            timeout_s: Seconds for all of its requests together, retries included.

        Returns:
            A generator of actions, which returns the call's result.
        """
        deadline = time.monotonic() + timeout_s
        return (yield from drive(call, lambda each: self._send_traced(each, deadline)))

    def _send_traced(
        self, request: Request, deadline: float
    ) -> Generator[Send[TransportT] | Pause, Any, Any]:
        if not isinstance(request, Infer):
            return (yield from self._send_with_retries(request, deadline))
        span = self.telemetry.start_span(request)
        start = time.monotonic()
        try:
            traced = replace(request, headers={**request.headers, **span.headers})
            reply = yield from self._send_with_retries(traced, deadline)
        except PersonServeError as exc:
            span.end_with_error(exc)
            raise
        span.end()
        log.debug(
            "%s %s: %.1f ms",
            request.model,
            request.request_id,
            (time.monotonic() - start) * 1e3,
        )
        return reply

    def _send_with_retries(
        self, request: Request, deadline: float
    ) -> Generator[Send[TransportT] | Pause, Any, Any]:
        preferred = getattr(request, "endpoint", "")
        for attempt in itertools.count(1):
            endpoint = self._choose_endpoint(preferred if attempt == 1 else "")
            try:
                reply = yield from self._send_once(endpoint, request, deadline)
            except (ServerUnavailableError, ModelLoadingError, OverloadedError) as exc:
                self._back_off(endpoint)
                if attempt >= self._max_attempts(request):
                    raise
                failover = self._has_alternative(endpoint)
                is_elsewhere = failover and attempt < len(self.endpoints)
                if isinstance(exc, OverloadedError) and not (
                    is_elsewhere or self.budget.withdraw()
                ):
                    raise
                pause_s = 0.0 if failover else self.retry.backoff_s(attempt)
                if time.monotonic() + pause_s >= deadline:
                    raise
                log.warning("%s, attempt %d: %s", endpoint.name, attempt, exc)
                if pause_s:
                    yield Pause(pause_s)
            else:
                endpoint.failures, endpoint.backoff_until = 0, 0.0
                if isinstance(request, Infer):
                    self.budget.deposit()
                return _name_endpoint(reply, request, endpoint.name)
        raise AssertionError

    def _send_once(
        self, endpoint: Endpoint[TransportT], request: Request, deadline: float
    ) -> Generator[Send[TransportT], Any, Any]:
        def send(part: Request) -> Generator[Send[TransportT], Any, Any]:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise RequestTimeoutError(
                    "no time is left for another request; raise timeout_s",
                    model=getattr(part, "model", None),
                )
            return (yield Send(endpoint.transport, part, remaining_s))

        return (yield from drive(endpoint.exchange(request), send))

    def _max_attempts(self, request: Request) -> int:
        if isinstance(request, Ready):
            return len(self.endpoints)  # each one once, without a pause
        if isinstance(request, Infer) and not request.repeatable:
            return 1
        return max(self.retry.attempts, len(self.endpoints))

    def next_endpoint(self) -> str:
        """Return the name of the endpoint whose turn it is."""
        return self._choose_endpoint().name

    def _choose_endpoint(self, preferred: str = "") -> Endpoint[TransportT]:
        """Return the next one that is not backing off, else the first to end that."""
        if preferred:
            for each in self.endpoints:
                if each.name == preferred and each.backoff_until <= time.monotonic():
                    return each
        start: int = next(self._turns)
        count = len(self.endpoints)
        now = time.monotonic()
        rotation = [self.endpoints[(start + i) % count] for i in range(count)]
        available = [each for each in rotation if each.backoff_until <= now]
        if available:
            return available[0]
        return min(rotation, key=lambda each: each.backoff_until)

    def _has_alternative(self, endpoint: Endpoint[TransportT]) -> bool:
        """Return whether another endpoint is available at once."""
        now = time.monotonic()
        return any(
            each is not endpoint and each.backoff_until <= now
            for each in self.endpoints
        )

    def _back_off(self, endpoint: Endpoint[TransportT]) -> None:
        endpoint.failures += 1
        backoff_s = self.retry.backoff_s(endpoint.failures)
        endpoint.backoff_until = time.monotonic() + backoff_s


def _name_endpoint(reply: Any, request: Request, name: str) -> Any:
    """Record which endpoint an answer or a description is from."""
    if isinstance(request, Infer) and isinstance(reply, dict):
        outputs = reply if isinstance(reply, Outputs) else Outputs(reply)
        outputs.endpoint = name
        return outputs
    if isinstance(reply, ModelDescription):
        return replace(reply, endpoint=name)
    return reply
