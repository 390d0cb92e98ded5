# Rendered by `python -m builders render` from builders/repository/runtimes/admission.py; edit that file.
"""Limit on the people that wait for the networks behind the preprocessing model.

Triton cannot limit the requests in an ensemble (builders/repository/queue_limits.py
says why), and preprocessing is much faster than the networks, so that without a limit
every frame would wait in memory for the networks. The preprocessing model therefore
refuses frames before it decodes them. It estimates the number of people that wait from
Triton's gauge of pending requests, `nv_inference_pending_request_count`, and the frames
that it passed on itself. Without a metrics endpoint there is no limit.

A number of people is not a time: on a machine that other work slows down, they wait
longer. The people that a network has finished while others waited, counted by
`nv_inference_count`, give its present speed, and so the expected wait, which has a
limit, too. A network with little to do is slower than it can be, so that its speed says
nothing about a long queue: until some seconds of one were seen, only the number of
people counts.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

METRICS_VARIABLE = "PERSONSERVE_METRICS_URL"
"""Environment variable with the address of Triton's metrics."""

DEFAULT_METRICS_URL = "http://127.0.0.1:8002/metrics"
FETCH_TIMEOUT_S = 0.5
INTERVAL_S = 0.125
"""Time between two readings of the gauge, for each instance of the model: all instances
together read it eight times a second, at 1 ms each."""

MAX_INTERVAL_S = 1.0
MAX_AGE_S = 2.0
"""Age after which a reading says nothing about the present load."""

RECENT_FRAMES = 64

MAX_WAIT_S = 15.0
"""Longest expected wait for a network, and longest wait in any queue
(builders/repository/queue_limits.py says why)."""

SPEED_WINDOW_S, MIN_WINDOW_S = 10.0, 3.0
"""Longest and shortest time over which the speed of a network is measured."""

MAX_QUEUE_RATIO = 4
"""Largest ratio of the present queue to that of a time that tells the speed."""


class OverloadError(Exception):
    """Too many people wait for the networks; the message is for the client."""


class Network:
    """What Triton's metrics say about a network.

    Args:
        name: Name of the network.

    Attributes:
        pending: Requests that wait for it or are computed, at the last reading.
    """

    def __init__(self, name: str) -> None:
        self._patterns = [
            re.compile(
                rf'^{metric}{{model="{re.escape(name)}",[^}}]*}} (\S+)$', re.MULTILINE
            )
            for metric in ("nv_inference_pending_request_count", "nv_inference_count")
        ]
        self.pending = 0.0
        self._readings: deque[tuple[float, float, float]] = deque()

    def read(self, metrics: str, now_s: float) -> None:
        """Read the metrics.

        Args:
            metrics: Triton's metrics as text.
            now_s: The time of the monotonic clock.
        """
        self.pending, finished = (
            sum(float(value) for value in pattern.findall(metrics))
            for pattern in self._patterns
        )
        self._readings.append((now_s, self.pending, finished))
        while self._readings[0][0] < now_s - SPEED_WINDOW_S:
            self._readings.popleft()

    def expected_wait_s(self, people: float, people_per_frame: float) -> float:
        """Return the time in which it computes some people; 0 if its speed is unknown.

        Args:
            people: Number of people.
            people_per_frame: Mean number of people of a request.
        """
        if not self._readings or not self.pending:
            return 0.0
        now_s, _, finished = first = self._readings[-1]
        for reading in reversed(self._readings):
            if reading[1] * MAX_QUEUE_RATIO < self.pending:
                break
            first = reading
        window_s = now_s - first[0]
        if window_s < MIN_WINDOW_S:
            return 0.0
        # of a frame more than was finished: one may be about to finish
        return people * window_s / (finished - first[2] + people_per_frame)


class Admission:
    """Admits frames while few people wait for the networks, for a short time.

    Args:
        networks: Names of the networks behind the model.
        max_waiting: Largest number of people that wait.
        instances: Number of instances of the model, which share the load evenly.
        fetch: Returns Triton's metrics as text; None to read them from the server.
    """

    def __init__(
        self,
        networks: Sequence[str],
        max_waiting: int,
        instances: int,
        fetch: Callable[[], str] | None = None,
    ) -> None:
        self._networks = [Network(name) for name in networks]
        self._max_waiting = max_waiting
        self._instances = instances
        self._fetch = fetch or fetch_metrics
        self._lock = threading.Lock()
        self._recent: deque[int] = deque(maxlen=RECENT_FRAMES)
        self._read_at = -MAX_AGE_S
        self._passed_on = 0
        self._used = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="admission", daemon=True)

    def start(self) -> None:
        """Read the gauge from now on, while frames arrive."""
        self._thread.start()

    def admit(self, people: int) -> None:
        """Admit a frame and count its people; one of any size while nothing waits.

        Args:
            people: Number of people in the frame.

        Raises:
            OverloadError: Too many people wait already.
        """
        self._used.set()
        with self._lock:
            waiting, wait_s = self._estimate()
            if waiting and waiting + people > self._max_waiting:
                raise OverloadError(
                    f"the server is overloaded: about {waiting:.0f} people wait for "
                    f"the networks, and at most {self._max_waiting} may"
                )
            if wait_s > MAX_WAIT_S:
                raise OverloadError(
                    f"the server is overloaded: about {waiting:.0f} people wait for "
                    f"the networks, for {wait_s:.0f} s at their present speed, and at "
                    f"most {MAX_WAIT_S:g} s may be expected"
                )
            self._recent.append(people)
            self._passed_on += people

    def close(self) -> None:
        """Stop reading the gauge."""
        self._stopped.set()
        self._used.set()
        self._thread.join()

    def read(self) -> None:
        """Read the gauge once."""
        with self._lock:
            passed_on = self._passed_on
        try:
            text = self._fetch()
        except OSError:
            return
        with self._lock:
            self._read_at = time.monotonic()
            for network in self._networks:
                network.read(text, self._read_at)
            # what was passed on while the gauge was read may not be in it yet
            self._passed_on -= passed_on

    def _estimate(self) -> tuple[float, float]:
        """Return the number of people that wait, and for how many seconds."""
        if time.monotonic() - self._read_at > MAX_AGE_S:
            return 0.0, 0.0
        people_per_frame = sum(self._recent) / len(self._recent) if self._recent else 1
        coming = self._passed_on * self._instances
        waiting = [
            network.pending * people_per_frame + coming for network in self._networks
        ]
        waits_s = [
            network.expected_wait_s(people, people_per_frame)
            for network, people in zip(self._networks, waiting, strict=True)
        ]
        return max(waiting, default=0.0), max(waits_s, default=0.0)

    def _run(self) -> None:
        interval_s = min(MAX_INTERVAL_S, INTERVAL_S * self._instances)
        while not self._stopped.is_set():
            self._used.wait()
            self._used.clear()
            self.read()
            self._stopped.wait(interval_s)


def fetch_metrics() -> str:
    """Return the metrics of the server that this process belongs to.

    Raises:
        OSError: The server has no metrics endpoint there, or does not answer in time.
    """
    url = urlsplit(os.environ.get(METRICS_VARIABLE, DEFAULT_METRICS_URL))
    # urllib would use the proxies of the environment, and takes twice the CPU time
    connection = HTTPConnection(url.hostname or "", url.port, timeout=FETCH_TIMEOUT_S)
    try:
        connection.request("GET", url.path)
        return connection.getresponse().read().decode("utf-8", "replace")
    except HTTPException as exc:
        raise OSError(f"{url.geturl()} does not answer as Triton: {exc!r}") from exc
    finally:
        connection.close()
