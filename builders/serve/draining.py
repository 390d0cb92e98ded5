"""The drained end of a server: it refuses new requests, answers those in flight, exits.

Triton 2.51 drains a network after SIGTERM, but not an ensemble: the networks of an
ensemble refuse its next step, so that frames in flight fail, and the ensemble takes new
requests, each of which fails as well. Ensembles are therefore unloaded before SIGTERM.
An unloaded model takes no new requests and answers those in flight.

A gRPC stream holds the requests that it has answered, and with them the models, until
its client closes it. Triton would wait for that, during the whole of its exit timeout.
An idle server is therefore not waited for, nor one without Python processes: these end
after all requests in flight.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Sequence

from builders.serve.probes import Probe
from builders.serve.processes import list_session, read_cpu_demand

CALL_TIMEOUT_S = 1.0
POLL_INTERVAL_S = 0.05
EXIT_INTERVAL_S = 0.1

IDLE_S, IDLE_SHARE = 0.5, 0.2
"""Time after which a server is idle that asks for less CPU time, in cores. A request in
flight asks for a core; the calls of POLL_INTERVAL_S and waiting threads for hundredths.
"""

UNLOADED_GRACE_S = 2.0
"""Time to exit for a server whose Python processes have all ended."""

ENDED = "ZX"
"""States in /proc/PID/stat of an ended process."""


def unload_models(
    probe: Probe,
    models: Sequence[str],
    server_pid: int,
    timeout_s: float,
    abort: threading.Event,
) -> None:
    """Unload models, and wait until their requests in flight are answered.

    Args:
        probe: Connection to the server.
        models: Names of the models.
        server_pid: Process id of the server, which leads a session.
        timeout_s: Seconds to wait.
        abort: Ends the wait when set.
    """
    deadline = time.monotonic() + timeout_s
    accepted = [probe.unload(model, CALL_TIMEOUT_S) for model in models]
    if not any(accepted):
        return
    pids = [each.pid for each in list_session(server_pid)]
    idle_since, demand_s = time.monotonic(), read_cpu_demand(pids).seconds
    while probe.is_unloading(CALL_TIMEOUT_S):
        now, present_s = time.monotonic(), read_cpu_demand(pids).seconds
        # processes may have ended, with their demand
        if abs(present_s - demand_s) > IDLE_SHARE * IDLE_S:
            idle_since, demand_s = now, present_s
        if now > min(deadline, idle_since + IDLE_S):
            return
        if abort.wait(POLL_INTERVAL_S):
            return


def list_python_processes(server_pid: int) -> list[int]:
    """Return the running processes of a server other than itself.

    Args:
        server_pid: Process id of the server, which leads a session.
    """
    return [
        each.pid
        for each in list_session(server_pid)
        if each.pid != server_pid and each.state not in ENDED
    ]


def wait_for_exit(
    process: subprocess.Popen[bytes],
    timeout_s: float,
    abort: threading.Event,
    *,
    had_python: bool,
) -> None:
    """Wait until a server that was told to stop has exited, or waits for nothing.

    Args:
        process: The server, which leads a session.
        timeout_s: Seconds to wait.
        abort: Ends the wait when set.
        had_python: Whether it had Python processes before it was told.
    """
    deadline = time.monotonic() + timeout_s
    is_unloaded = not had_python
    while time.monotonic() < deadline and not abort.is_set():
        if not is_unloaded and not list_python_processes(process.pid):
            is_unloaded = True
            deadline = min(deadline, time.monotonic() + UNLOADED_GRACE_S)
        try:
            process.wait(EXIT_INTERVAL_S)
        except subprocess.TimeoutExpired:
            continue
        return
