"""Getting requests answered: deadline, retries, failover. Does no I/O.

`Delivery.run` turns a call into actions, Send and Pause, which the sync and the async
client carry out; what comes back is the reply, or a PersonServeError thrown in.
"""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from personserve._errors import (
    InvalidInputError,
    ModelLoadingError,
    PersonServeError,
    RequestTimeoutError,
    ServerUnavailableError,
)
from personserve._requests import Infer, Ready, Request
from personserve._telemetry import Telemetry
from personserve._transport import Streams

T = TypeVar("T")
A = TypeVar("A")
W = TypeVar("W")
"""A transport of either kind."""

Call = Generator[Request, Any, T]
"""A call in progress: yields requests, is sent replies, returns its result."""

log = logging.getLogger("personserve")
log.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Retry:
    """How often a request is tried in all, on whichever endpoints, and how long the
    pauses between are: random, up to `first_pause_s`, doubling up to `longest_pause_s`.

    Only what may be repeated is: no server answered, the connection broke, or the model
    is just being loaded; never after a deadline, and never a stateful model.
    """

    attempts: int = 4
    first_pause_s: float = 0.1
    longest_pause_s: float = 2.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise InvalidInputError(f"Retry: attempts {self.attempts}; at least 1")

    def pause_s(self, failures: int) -> float:
        """A pause after so many failures (full jitter, as AWS's builders' library)."""
        longest = min(self.longest_pause_s, self.first_pause_s * 2 ** (failures - 1))
        return random.uniform(0.0, longest)  # noqa: S311 - spreads load, no secret


@dataclass(eq=False)
class Endpoint(Generic[W]):
    """One server. After a failure it rests until `resting_until` (monotonic), longer
    each time, while others can be asked instead.
    """

    name: str
    transport: W
    exchange: Callable[[Request], Call[Any]]
    failures: int = 0
    resting_until: float = 0.0


@dataclass(frozen=True)
class Send(Generic[W]):
    """Send `request` through `transport`."""

    transport: W
    request: Request
    timeout_s: float


@dataclass(frozen=True)
class Pause:
    """Wait."""

    seconds: float


def directly(request: Request) -> Call[Any]:
    """The exchange of a request for its reply, with nothing else."""
    return (yield request)


def _through(
    call: Call[T], answered: Callable[[Request], Generator[A, Any, Any]]
) -> Generator[A, Any, T]:
    """The result of `call`, each of its requests `answered`; errors are its own to
    take first.
    """
    try:
        request = next(call)
        while True:
            try:
                reply = yield from answered(request)
            except PersonServeError as exc:
                request = call.throw(exc)
            else:
                request = call.send(reply)
    except StopIteration as stop:
        result: T = stop.value
        return result


@dataclass
class Delivery(Generic[W]):
    """The endpoints of one client, and its rules."""

    endpoints: Sequence[Endpoint[W]]
    retry: Retry
    telemetry: Telemetry
    _turns: Any = field(default_factory=itertools.count)

    def streaming(self) -> tuple[Delivery[W], list[W]]:
        """The same for many requests in a row, over streams where there are any, which
        are the caller's to close.
        """
        endpoints, streams = [], []
        for endpoint in self.endpoints:
            wire = endpoint.transport
            if isinstance(wire, Streams):
                streams.append(wire.stream())
                endpoints.append(replace(endpoint, transport=streams[-1]))
            else:
                endpoints.append(endpoint)
        return replace(self, endpoints=endpoints), streams

    def run(
        self, call: Call[T], timeout_s: float
    ) -> Generator[Send[W] | Pause, Any, T]:
        """Carry out `call`; all of its requests together have `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        return (yield from _through(call, lambda each: self._deliver(each, deadline)))

    def _deliver(
        self, request: Request, deadline: float
    ) -> Generator[Send[W] | Pause, Any, Any]:
        if not isinstance(request, Infer):
            return (yield from self._attempts(request, deadline))
        span = self.telemetry.started(request)
        began = time.monotonic()
        try:
            traced = replace(request, headers={**request.headers, **span.headers})
            reply = yield from self._attempts(traced, deadline)
        except PersonServeError as exc:
            span.failed(exc)
            raise
        span.finished()
        log.debug(
            "%s %s: %.1f ms",
            request.model,
            request.request_id,
            (time.monotonic() - began) * 1e3,
        )
        return reply

    def _attempts(
        self, request: Request, deadline: float
    ) -> Generator[Send[W] | Pause, Any, Any]:
        for attempt in itertools.count(1):
            endpoint = self._chosen()
            try:
                reply = yield from self._exchanged(endpoint, request, deadline)
            except (ServerUnavailableError, ModelLoadingError) as exc:
                self._rest(endpoint)
                if attempt >= self._allowed(request):
                    raise
                pause_s = 0.0 if self._other(endpoint) else self.retry.pause_s(attempt)
                if time.monotonic() + pause_s >= deadline:
                    raise
                log.warning("%s, attempt %d: %s", endpoint.name, attempt, exc)
                if pause_s:
                    yield Pause(pause_s)
            else:
                endpoint.failures, endpoint.resting_until = 0, 0.0
                return reply
        raise AssertionError

    def _exchanged(
        self, endpoint: Endpoint[W], request: Request, deadline: float
    ) -> Generator[Send[W], Any, Any]:
        def sent(part: Request) -> Generator[Send[W], Any, Any]:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise RequestTimeoutError(
                    "no time is left for another request; raise timeout_s",
                    model=getattr(part, "model", None),
                )
            return (yield Send(endpoint.transport, part, remaining_s))

        return (yield from _through(endpoint.exchange(request), sent))

    def _allowed(self, request: Request) -> int:
        if isinstance(request, Ready):
            return len(self.endpoints)  # asked once each, and now
        if isinstance(request, Infer) and not request.repeatable:
            return 1
        return max(self.retry.attempts, len(self.endpoints))

    def _chosen(self) -> Endpoint[W]:
        """The next one that is not resting, else the one that rests the shortest."""
        start = next(self._turns)
        count = len(self.endpoints)
        now = time.monotonic()
        turn = [self.endpoints[(start + i) % count] for i in range(count)]
        awake = [endpoint for endpoint in turn if endpoint.resting_until <= now]
        return awake[0] if awake else min(turn, key=lambda e: e.resting_until)

    def _other(self, endpoint: Endpoint[W]) -> bool:
        """Whether another one can be asked at once."""
        now = time.monotonic()
        return any(e is not endpoint and e.resting_until <= now for e in self.endpoints)

    def _rest(self, endpoint: Endpoint[W]) -> None:
        endpoint.failures += 1
        endpoint.resting_until = time.monotonic() + self.retry.pause_s(
            endpoint.failures
        )
