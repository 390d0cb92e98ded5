"""Supervision of a running server: find dead and hung processes, and restart it.

A tritonserver whose Python-backend process has died answers its health checks as
before, and fails or delays every request of that process's model. Triton 24.06 and
later do not restart the process, and loading the model again does not help, so the
whole server is restarted.

Dead and stopped processes are seen in /proc. A server that does not answer is hung if
its threads ask for no CPU time either; on a busy machine it may only be slow, and a
restart would make that worse. A symptom makes the server unready at once; it leads to a
restart when it is certain.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from builders.serve.errors import ServeError
from builders.serve.health import Health
from builders.serve.probes import Canaries, Repeated, Silence
from builders.serve.processes import (
    CANDIDATE,
    ServerProcess,
    Session,
    describe_exit,
    exit_code,
    name_stubs,
)
from builders.serve.tritonserver import TritonServer

POLL_INTERVAL_S = 0.25
PROBE_INTERVAL_S, PROBE_TIMEOUT_S = 0.5, 1.0
CANARY_INTERVAL_S, CANARY_TIMEOUT_S = 1.0, 1.0
CANARY_FAILURES = 2

OBSERVED_SILENCE_S = 0.7
"""Time without an answer after which the server's CPU demand is observed."""

HANG_TIMEOUT_S = 1.5
"""Time without an answer after which an idle server is hung."""

LATE_TIMEOUT_S = 5.0
"""Time without an answer after which a busy server is unready."""

BUSY_TIMEOUT_S = 30.0
"""Time without an answer after which a server is hung that is busy, starved by other
processes, or waits for a disk."""

STOPPED_TIMEOUT_S = 2.0
"""Time after which a tritonserver that a signal has stopped is restarted."""

MAX_POLL_GAP_S = 0.6
"""Time between two polls after which the supervisor was itself paused or starved: what
it has not heard meanwhile says nothing about the server."""

STOP_TIMEOUT_S = 3.0
"""Time for the requests of the healthy processes before a restart."""

COLLECT_GRACE_S = 30.0
"""Time for Triton to collect a process that has died while its model was loaded, or has
ended by itself because its model was unloaded; seconds on an idle machine."""

SETTLED_S = 5.0
"""Run time after which the next restart is immediate again."""

FIRST_BACKOFF_S, MAX_BACKOFF_S = 1.0, 30.0

ENDED, STOPPED = "ZX", "T"
"""States in /proc/PID/stat: ended, and stopped by a signal."""


KINDS = ("ended", "stopped", "hung", "stub-died", "stub-stopped", "canary")
"""Kinds of symptoms: the first three are tritonserver's own, the others those of its
Python processes."""


@dataclass(frozen=True)
class Symptom:
    """A fault of a server.

    Attributes:
        kind: One of KINDS, for metrics.
        text: What was seen, for a person.
        is_certain: Whether a restart is due, or it may pass.
    """

    kind: str
    text: str
    is_certain: bool = True


class Supervisor:
    """Restart a server when one of its processes has died or hangs.

    Args:
        server: The server, started.
        log: Called with one line or paragraph for each failure and restart.
        health: Where the state is reported; None for no report.

    Attributes:
        failures: What was found, one text for each restart.
    """

    def __init__(
        self,
        server: TritonServer,
        log: Callable[[str], None],
        health: Health | None = None,
    ) -> None:
        self.failures: list[str] = []
        self._server = server
        self._log = log
        self._health = health or Health()
        self._backoff_s = 0.0
        self._names: dict[int, str] = {}
        self._since: dict[tuple[str, int], float] = {}
        self._silence = Silence(lambda: [pid] if (pid := server.pid) else [])
        self._canaries: Canaries | None = None
        self._observe_start()
        for kind in KINDS:
            self._count_restart(kind, 0)

    def run(self, stop: threading.Event | None = None) -> None:
        """Watch the server and restart it until told to stop.

        Args:
            stop: Ends the supervision when set; None to supervise until an exception,
                for example KeyboardInterrupt.
        """
        stop = stop or threading.Event()
        while not stop.is_set():
            with self._probing():
                symptom = self._watch(stop)
            if symptom is not None:
                self.restart(symptom, stop)

    def _watch(self, stop: threading.Event) -> Symptom | None:
        """Poll until a symptom is certain; None if told to stop."""
        polled_at = time.monotonic()
        while not stop.wait(POLL_INTERVAL_S):
            if time.monotonic() - polled_at > MAX_POLL_GAP_S:
                self._silence.end()
            polled_at = time.monotonic()
            symptom = self.find_symptom()
            if symptom is None:
                self._health.set_ready()
                continue
            self._health.set_unready(symptom.text)
            if symptom.is_certain:
                return symptom
        return None

    @contextmanager
    def _probing(self) -> Iterator[None]:
        """Send liveness calls and canaries in threads of their own."""
        probe, self._canaries = self._server.open_probe(), self._server.open_canaries()
        threads = [Repeated(lambda: self._ask(probe.ask), PROBE_INTERVAL_S, "liveness")]
        if (canaries := self._canaries) is not None:
            send = lambda: canaries.send(CANARY_TIMEOUT_S)  # noqa: E731
            threads.append(Repeated(send, CANARY_INTERVAL_S, "canaries"))
        try:
            yield
        finally:
            for thread in threads:
                thread.stop()
            probe.close()
            if canaries is not None:
                canaries.close()
            self._canaries = None

    def _ask(self, ask: Callable[[str, float], bool]) -> None:
        if ask("live", PROBE_TIMEOUT_S):
            self._silence.end()

    def find_symptom(self) -> Symptom | None:
        """Return the fault of the server, None if it is healthy."""
        code = self._server.exit_code
        if code is not None:
            return Symptom("ended", f"tritonserver {describe_exit(code)}")
        processes = {each.pid: each for each in self._session.look()}
        self._learn_names(processes)
        return (
            self._find_ended(processes)
            or self._find_stopped(processes)
            or self._find_hang()
            or self._find_canary()
        )

    def _find_ended(self, processes: Mapping[int, ServerProcess]) -> Symptom | None:
        # Triton collects a process soon after the unload of its model, after about two
        # seconds when it has died while its model was loaded, and never when it has
        # died later
        for pid, lasted_s in self._lasting_in(ENDED, processes):
            code = exit_code(processes[pid].wait_status)
            # 0 after an unload; unknown if it died before it was looked at
            is_expected = code == 0 or pid not in self._names
            if CANDIDATE in self._name(pid):
                continue
            if is_expected and lasted_s < COLLECT_GRACE_S:
                continue
            end = describe_exit(code)
            text = f"the Python process of {self._name(pid)} (process {pid}) {end}"
            return Symptom("stub-died", text, is_certain=lasted_s > 0)
        return None

    def _find_stopped(self, processes: Mapping[int, ServerProcess]) -> Symptom | None:
        for pid, lasted_s in self._lasting_in(STOPPED, processes):
            if pid == self._server.pid:
                text = "tritonserver is stopped by a signal"
                return Symptom("stopped", text, lasted_s > STOPPED_TIMEOUT_S)
            name = self._name(pid)
            text = f"the Python process of {name} (process {pid}) is stopped"
            return Symptom("stub-stopped", text, is_certain=lasted_s > 0)
        return None

    def _lasting_in(
        self, states: str, processes: Mapping[int, ServerProcess]
    ) -> list[tuple[int, float]]:
        """Return the processes in one of these states, and for how long in seconds."""
        now = time.monotonic()
        since = {
            (states, pid): self._since.get((states, pid), now)
            for pid, process in processes.items()
            if process.state in states
        }
        self._since = {
            key: moment for key, moment in self._since.items() if key[0] != states
        } | since
        return [(pid, now - moment) for (_, pid), moment in since.items()]

    def _name(self, pid: int) -> str:
        return self._names.get(pid, "a model")

    def _learn_names(self, processes: Iterable[int]) -> None:
        self._names |= name_stubs([pid for pid in processes if pid not in self._names])

    def _find_hang(self) -> Symptom | None:
        silent_s = self._silence.seconds
        if silent_s < OBSERVED_SILENCE_S:
            return None
        use = self._silence.observe()
        is_certain = silent_s > BUSY_TIMEOUT_S
        text = f"tritonserver has not answered for {silent_s:.1f} s"
        if use == "busy":
            is_late = silent_s > LATE_TIMEOUT_S
            return Symptom("hung", text, is_certain) if is_late else None
        if silent_s < HANG_TIMEOUT_S:
            return None
        if use == "disk":
            return Symptom("hung", f"{text} and waits for a disk", is_certain)
        return Symptom("hung", f"{text} and computes nothing")

    def _find_canary(self) -> Symptom | None:
        canaries = self._canaries
        if canaries is None or not canaries.failures:
            return None
        is_certain = canaries.failures >= CANARY_FAILURES
        return Symptom("canary", canaries.error, is_certain)

    def _observe_start(self) -> None:
        self._started_at = time.monotonic()
        self._silence.end()
        self._since.clear()
        self._names.clear()
        # an ended process has no command line to read the name from
        self._session = Session(self._server.pid)
        self._learn_names(each.pid for each in self._session.look())

    def _count_restart(self, kind: str, amount: int = 1) -> None:
        text = "Restarts of the server, by what was wrong with it."
        self._health.metrics.count("restarts", text, amount, reason=kind)

    def restart(self, symptom: Symptom, stop: threading.Event) -> None:
        """Stop the server and start it again, with growing pauses between attempts.

        Args:
            symptom: The reason, for the log.
            stop: Ends the attempts when set.
        """
        began = time.monotonic()
        self.failures.append(symptom.text)
        self._count_restart(symptom.kind)
        self._health.set_unready(f"restarting: {symptom.text}")
        self._log(
            f"{symptom.text}; restarting the server\n{self._server.describe_failure()}"
        )
        # a tritonserver that is stopped or hung cannot finish any request
        can_answer = symptom.kind not in {"ended", "stopped", "hung"}
        self._server.stop(STOP_TIMEOUT_S if can_answer else 0)
        if began - self._started_at > SETTLED_S:
            self._backoff_s = 0.0
        while not stop.wait(self._backoff_s):
            doubled_s = 2 * self._backoff_s or FIRST_BACKOFF_S
            self._backoff_s = min(MAX_BACKOFF_S, doubled_s)
            try:
                self._server.start(cancel=stop)
            except ServeError as exc:
                self._health.count_failed_start()
                self._log(f"{exc}; next attempt in {self._backoff_s:g} s")
            else:
                seconds = time.monotonic() - began
                self._log(f"the server is ready again after {seconds:.1f} s")
                break
        self._observe_start()
