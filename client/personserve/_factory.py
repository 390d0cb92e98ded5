"""Assembly of a client from its arguments, for both kinds of client."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from personserve._calls import Calls
from personserve._errors import (
    AccessDeniedError,
    InvalidInputError,
    PersonServeError,
    ServerUnavailableError,
)
from personserve._retry import Dispatcher, Endpoint, send_directly
from personserve._retry_policy import Retry
from personserve._shared_memory.pool import SEGMENT_TYPES, SegmentPool
from personserve._shared_memory.segment import Segment
from personserve._telemetry import Telemetry
from personserve._types import Headers, MemoryKind
from personserve._wire.connection import Address, Connection, Tls
from personserve._wire.requests import UnregisterMemory
from personserve._wire.transport import Transport, open_transport
from personserve.internal.cuda import load_cuda_runtime

TransportT = TypeVar("TransportT")

log = logging.getLogger("personserve")

RELEASE_TIMEOUT_S = 2.0
"""Time for unregistering all segments of one server, in seconds."""

RELEASE_PAUSE_S = 0.05

IN_USE = re.compile(r"in use", re.IGNORECASE)
"""Part of Triton's message if a request still reads the region."""


@dataclass
class ClientParts(Generic[TransportT]):
    """The parts that a client consists of.

    Attributes:
        calls: The calls, and what they have learnt about the server's models.
        dispatcher: Sends the requests of the calls.
        pools: The segment pools, each with the connection to its server.
    """

    calls: Calls
    dispatcher: Dispatcher[TransportT]
    pools: Sequence[tuple[Connection, SegmentPool]]

    def release_memory(self) -> None:
        """Unregister the client's shared memory from the servers.

        This also runs when a client is garbage-collected, possibly without an event
        loop, so it opens synchronous connections of its own. Regions that the server
        still uses are tried again for RELEASE_TIMEOUT_S in all.
        """
        for connection, pool in self.pools:
            segments = pool.take_registered()
            if not segments:
                continue
            transport = open_transport(connection)
            _unregister(transport, pool.memory, segments)
            transport.close()


def build_client_parts(
    address: str | Sequence[str],
    transport: TransportT | None,
    open_for: Callable[[Connection], TransportT],
    *,
    retry: Retry | None,
    tls: Tls | None,
    headers: Headers | None,
    compression: Literal["gzip"] | None,
    shared_memory: MemoryKind | None,
    abstain_below: float,
) -> ClientParts[TransportT]:
    """Build a client's parts from its arguments.

    Args:
        address: See Client.
        transport: See Client.
        open_for: Opens a transport for a connection, if `transport` is None.
        retry: See Client.
        tls: See Client.
        headers: See Client.
        compression: See Client.
        shared_memory: See Client.
        abstain_below: See Client.

    Returns:
        The parts; nothing is connected yet.

    Raises:
        InvalidInputError: If an argument is invalid, or needs a package or a GPU that
            is missing.
    """
    if compression not in {None, "gzip"}:
        raise InvalidInputError(f"compression={compression!r}: expected gzip or None")
    _check_memory(shared_memory)
    addresses = [address] if isinstance(address, str) else list(address)
    if not addresses:
        raise InvalidInputError("no address: expected at least one")
    pools: list[tuple[Connection, SegmentPool]] = []
    endpoints: list[Endpoint[TransportT]] = []
    for text in addresses:
        connection = Connection(
            Address.parse(text), tls or Tls(), headers or {}, compression
        )
        exchange = send_directly
        if shared_memory is not None:
            pool = SegmentPool(shared_memory)
            pools.append((connection, pool))
            exchange = pool.exchange
        endpoints.append(
            Endpoint(
                str(connection.address),
                open_for(connection) if transport is None else transport,
                exchange,
            )
        )
    dispatcher = Dispatcher(endpoints, retry or Retry(), Telemetry())
    calls = Calls(
        abstain_below,
        shares_memory=shared_memory is not None,
        choose_endpoint=dispatcher.next_endpoint,
    )
    return ClientParts(calls, dispatcher, pools)


def _unregister(
    transport: Transport, memory: MemoryKind, segments: Sequence[Segment]
) -> None:
    """Unregister segments; an error of one does not keep the others registered."""
    deadline = time.monotonic() + RELEASE_TIMEOUT_S
    remaining = list(segments)
    while remaining:
        in_use: list[Segment] = []
        for segment in remaining:
            timeout_s = deadline - time.monotonic()
            if timeout_s <= 0:
                log.warning("%d regions are still registered", len(remaining))
                return
            try:
                transport.send(UnregisterMemory(segment.region, memory), timeout_s)
            except (ServerUnavailableError, AccessDeniedError) as exc:
                log.warning("cannot unregister shared memory: %s", exc)
                return
            except PersonServeError as exc:
                log.info("%s: %s", segment.region, exc)
                if IN_USE.search(str(exc)):
                    in_use.append(segment)
        remaining = in_use
        if remaining:
            time.sleep(RELEASE_PAUSE_S)


def _check_memory(memory: MemoryKind | None) -> None:
    if memory not in {None, *SEGMENT_TYPES}:
        raise InvalidInputError(
            f"shared_memory={memory!r}: expected system, cuda or None"
        )
    if memory == "cuda":
        try:
            load_cuda_runtime()
        except OSError as exc:
            raise InvalidInputError(f'shared_memory="cuda": {exc}') from exc
