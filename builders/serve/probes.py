"""Probes of a running server: does it answer, and do its Python processes compute.

Liveness is Triton's own call ServerLive, which no queue delays. The same connection
unloads models when the server is stopped. A canary is a small
inference of one model; the models take turns. Both use a connection of their own and
run in threads, so that a silent server delays neither them nor the supervisor.
"""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from itertools import cycle
from typing import TYPE_CHECKING, Literal, Protocol

import grpc
import numpy as np

from builders.serve.processes import CpuDemand, read_cpu_demand
from builders.spec.ensemble import Declaration, Ensemble
from builders.spec.model import Network
from personserve import (
    Client,
    InvalidInputError,
    PersonServeError,
    RequestTimeoutError,
    Retry,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

SERVICE = "/inference.GRPCInferenceService/"
TRUE = b"\x08\x01"
"""Answer of ServerLive and ServerReady: field 1, a boolean, is true."""

UNLOAD_CALL, INDEX_CALL = "RepositoryModelUnload", "RepositoryIndex"

UNLOADING = b"UNLOADING"
"""State in the index of a model that answers its last requests."""

DEAD_PROCESS = re.compile(r"Stub process .*is not healthy|obtain the health mutex")
"""Part of Triton's message of a model whose Python process has died."""

CANARY_SIDE = 32
"""Side of a canary's frame and of the one person in it, in pixels."""

IDLE_SHARE = 0.1
"""CPU demand of a waiting process, in cores at most. A server that answers nothing
because others starve it asks for much more, and one that is locked for less."""


CpuUse = Literal["busy", "disk", "idle"]
"""What a server that does not answer is doing: it works or is starved, it waits for a
disk or for swapped memory, or it does nothing."""


class Probe(Protocol):
    """A connection to a server's health calls and to the control of its models."""

    def ask(self, call: str, timeout_s: float) -> bool:
        """Return whether the server answers a health call with yes.

        Args:
            call: "live" or "ready".
            timeout_s: Seconds to wait for the answer.
        """
        ...

    def unload(self, model: str, timeout_s: float) -> bool:
        """Unload a model; return whether the server has accepted that.

        Args:
            model: Name of the model.
            timeout_s: Seconds to wait for the answer.
        """
        ...

    def is_unloading(self, timeout_s: float) -> bool | None:
        """Return whether a model is being unloaded; None if the server does not answer.

        Args:
            timeout_s: Seconds to wait for the answer.
        """
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class GrpcProbe:
    """Health and control calls over gRPC.

    Args:
        address: host:port of the server.
        headers: Headers of the control calls, for example the access key.
    """

    def __init__(self, address: str, headers: Mapping[str, str]) -> None:
        options = [
            ("grpc.enable_http_proxy", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
        ]
        self._channel = grpc.insecure_channel(address, options)
        # the messages are too small for classes of their own: bytes in, bytes out
        self._calls: dict[str, Callable[..., bytes]] = {
            call: self._channel.unary_unary(SERVICE + call)
            for call in ("ServerLive", "ServerReady", UNLOAD_CALL, INDEX_CALL)
        }
        self._headers = list(headers.items())

    def ask(self, call: str, timeout_s: float) -> bool:
        """See Probe."""
        return self._call(f"Server{call.title()}", b"", timeout_s) == TRUE

    def unload(self, model: str, timeout_s: float) -> bool:
        """See Probe."""
        name = model.encode()  # field 2 of the request, with its length
        message = bytes([0x12, len(name)]) + name
        return self._call(UNLOAD_CALL, message, timeout_s) is not None

    def is_unloading(self, timeout_s: float) -> bool | None:
        """See Probe."""
        index = self._call(INDEX_CALL, b"", timeout_s)
        return None if index is None else UNLOADING in index

    def _call(self, call: str, message: bytes, timeout_s: float) -> bytes | None:
        headers = self._headers if call in {UNLOAD_CALL, INDEX_CALL} else []
        try:
            return self._calls[call](message, timeout=timeout_s, metadata=headers)
        except (grpc.RpcError, ValueError):  # ValueError: closed meanwhile
            return None

    def close(self) -> None:
        """See Probe."""
        self._channel.close()


class HttpProbe:
    """Health and control calls over HTTP, for a server whose gRPC demands certificates.

    Args:
        address: host:port of the server.
        headers: Headers of each call, for example the access key.
    """

    def __init__(self, address: str, headers: Mapping[str, str]) -> None:
        self._address = address
        # proxies of the environment have no business with the loopback
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._opener.addheaders = list(headers.items())

    def ask(self, call: str, timeout_s: float) -> bool:
        """See Probe."""
        return self._call(f"health/{call}", None, timeout_s) is not None

    def unload(self, model: str, timeout_s: float) -> bool:
        """See Probe."""
        path = f"repository/models/{model}/unload"
        return self._call(path, b"{}", timeout_s) is not None

    def is_unloading(self, timeout_s: float) -> bool | None:
        """See Probe."""
        index = self._call("repository/index", b"{}", timeout_s)
        return None if index is None else UNLOADING in index

    def _call(self, path: str, body: bytes | None, timeout_s: float) -> bytes | None:
        """Return the body of a successful response, None for any other."""
        url = f"http://{self._address}/v2/{path}"
        try:
            with self._opener.open(url, body, timeout=timeout_s) as response:
                return bytes(response.read()) if response.status == 200 else None
        except (OSError, HTTPException):
            return None

    def close(self) -> None:
        """See Probe."""


class Silence:
    """Time without an answer, and the CPU time that the server used meanwhile.

    Args:
        list_pids: Returns the processes whose CPU demand counts.
    """

    def __init__(self, list_pids: Callable[[], Sequence[int]]) -> None:
        self._list_pids = list_pids
        self.end()

    def end(self) -> None:
        """Record an answer."""
        self._began_at = time.monotonic()
        self._first: tuple[float, CpuDemand] | None = None

    @property
    def seconds(self) -> float:
        """Time since the last answer."""
        return time.monotonic() - self._began_at

    def observe(self) -> CpuUse:
        """Return the processes' work since the first call of this method."""
        now, demand = time.monotonic(), read_cpu_demand(self._list_pids())
        if self._first is None:
            self._first = now, demand
            return "busy"
        began_at, before = self._first
        asked_s = abs(demand.seconds - before.seconds)  # threads may have ended
        if asked_s >= IDLE_SHARE * (now - began_at):
            return "busy"
        return "disk" if demand.waits_for_disk else "idle"


class Canaries:
    """Small inferences of the models that a server has loaded, one after another.

    A model that does not answer is asked again before it is the next one's turn. A
    rollout may replace a model by one with inputs of other sizes; its refusal has the
    declarations read again.

    Args:
        address: Address of the server, as Client takes it.
        list_models: Returns the networks and Python models that take turns, as the
            repository serves them now.
        headers: Headers of each request.
        list_pids: Returns the server's processes.

    Attributes:
        failures: Consecutive failures of the present model. A timeout counts only if
            the processes were idle; a full queue is no failure.
        error: Text of the last failure, with the name of the model.
    """

    def __init__(
        self,
        address: str,
        list_models: Callable[[], Sequence[Declaration]],
        headers: Mapping[str, str],
        list_pids: Callable[[], Sequence[int]],
    ) -> None:
        self.failures, self.error = 0, ""
        self._client = Client(address, retry=Retry(attempts=1), headers=headers)
        self._list_pids = list_pids
        self._list_models = list_models
        self._inputs = self._make_inputs()
        self._turns = cycle(self._inputs)
        self._model = next(self._turns, None)

    def send(self, timeout_s: float) -> None:
        """Ask the present model, and choose the next one if it answers.

        Args:
            timeout_s: Seconds to wait for the answer.
        """
        if self._model is None:
            return
        silence = Silence(self._list_pids)
        silence.observe()
        error = None
        try:
            self._client.infer(
                self._model, self._inputs[self._model], timeout_s=timeout_s
            )
        except RequestTimeoutError:
            if silence.observe() == "idle":
                error = f"it did not answer within {timeout_s:g} s and computed nothing"
        except InvalidInputError:
            self._inputs |= self._make_inputs()
        except PersonServeError as exc:
            # any other error is an answer: overloaded, unloaded, restricted
            if DEAD_PROCESS.search(str(exc)):
                error = str(exc)
        if error is None:
            self.failures = 0
            self._model = next(self._turns, None)
        else:
            self.failures += 1
            self.error = f"a canary of {self._model} failed: {error}"

    def _make_inputs(self) -> dict[str, dict[str, NDArray[np.generic]]]:
        return {model.name: canary_inputs(model) for model in self._list_models()}

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def canary_inputs(declaration: Declaration) -> dict[str, NDArray[np.generic]]:
    """Return the smallest request of a model: zeros, one person, one small frame.

    Args:
        declaration: A network or Python model; an ensemble has no canary.
    """
    if isinstance(declaration, Ensemble):
        return {}
    inputs: dict[str, NDArray[np.generic]] = {}
    for tensor in declaration.inputs:
        shape = (1, *tensor.shape) if isinstance(declaration, Network) else tensor.shape
        sizes = [size if size > 0 else 1 for size in shape]
        kind = np.dtype(tensor.data_type.lower().replace("fp", "float"))
        if tensor.name == "raw_frame":
            inputs[tensor.name] = np.zeros(CANARY_SIDE * CANARY_SIDE * 3, kind)
        elif tensor.name == "frame_size":
            inputs[tensor.name] = np.array([CANARY_SIDE, CANARY_SIDE], kind)
        elif tensor.optional:
            continue
        elif tensor.name == "boxes":
            inputs[tensor.name] = np.array([[0, 0, CANARY_SIDE, CANARY_SIDE]], kind)
        else:
            inputs[tensor.name] = np.zeros(sizes, kind)
    return inputs


class Repeated:
    """A thread that calls a function again and again, as a context manager.

    Args:
        function: What to call.
        interval_s: Seconds from the start of one call to the start of the next.
        name: Name of the thread.
    """

    def __init__(
        self, function: Callable[[], object], interval_s: float, name: str
    ) -> None:
        self._function = function
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its present call."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stop.wait(pause_s):
            began = time.monotonic()
            self._function()
            pause_s = max(0.0, self._interval_s - (time.monotonic() - began))
