"""The parts of a client put together from its arguments, for both kinds of client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from personserve._calls import Calls
from personserve._connection import Address, Connection, Headers, Tls
from personserve._delivery import Delivery, Endpoint, Retry, directly
from personserve._errors import InvalidInputError, PersonServeError
from personserve._requests import Memory, UnregisterMemory
from personserve._segments import KINDS, cuda_runtime
from personserve._shared_memory import Pool
from personserve._telemetry import Telemetry
from personserve._transport import transport_to

W = TypeVar("W")

RELEASE_TIMEOUT_S = 1.0


@dataclass
class Assembled(Generic[W]):
    """What a client runs on; `pools` belong to the connection beside them."""

    calls: Calls
    delivery: Delivery[W]
    pools: Sequence[tuple[Connection, Pool]]

    def release_memory(self) -> None:
        """Have the servers let go of our memory. Runs when a client is collected, too,
        where there may be no event loop: so with a connection of its own.
        """
        for connection, pool in self.pools:
            segments = pool.taken()
            if not segments:
                continue
            wire = transport_to(connection)
            with suppress(PersonServeError):
                for segment in segments:
                    request = UnregisterMemory(segment.region, pool.memory)
                    wire.send(request, RELEASE_TIMEOUT_S)
            wire.close()


def assembled(
    address: str | Sequence[str],
    transport: W | None,
    wire_to: Callable[[Connection], W],
    *,
    retry: Retry | None,
    tls: Tls | None,
    headers: Headers | None,
    compression: Literal["gzip"] | None,
    shared_memory: Memory | None,
    abstain_below: float,
) -> Assembled[W]:
    """See Client for the arguments; `wire_to` makes transports where none is given.
    Raises InvalidInputError.
    """
    if compression not in {None, "gzip"}:
        raise InvalidInputError(f"compression={compression!r}: expected gzip or None")
    _check_memory(shared_memory)
    addresses = [address] if isinstance(address, str) else list(address)
    if not addresses:
        raise InvalidInputError("no address: expected at least one")
    pools: list[tuple[Connection, Pool]] = []
    endpoints: list[Endpoint[W]] = []
    for text in addresses:
        connection = Connection(
            Address.parse(text), tls or Tls(), headers or {}, compression
        )
        exchange = directly
        if shared_memory is not None:
            pool = Pool(shared_memory)
            pools.append((connection, pool))
            exchange = pool.exchange
        wire = wire_to(connection) if transport is None else transport
        endpoints.append(Endpoint(str(connection.address), wire, exchange))
    calls = Calls(abstain_below, shares_memory=shared_memory is not None)
    delivery = Delivery(endpoints, retry or Retry(), Telemetry())
    return Assembled(calls, delivery, pools)


def _check_memory(memory: Memory | None) -> None:
    if memory not in {None, *KINDS}:
        raise InvalidInputError(
            f"shared_memory={memory!r}: expected system, cuda or None"
        )
    if memory == "cuda":
        try:
            cuda_runtime()
        except OSError as exc:
            raise InvalidInputError(f'shared_memory="cuda": {exc}') from exc
