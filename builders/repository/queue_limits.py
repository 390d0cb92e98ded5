"""Limits of the queues in front of the models, and where Triton can apply them.

Triton queues without a limit unless a model's `dynamic_batching` has a queue policy. A
request that finds the queue full, or waits too long in it, is then refused with
UNAVAILABLE, which the client raises as OverloadedError.

**Networks that are steps of an ensemble have no policy.** In Triton before 26.03 an
ensemble whose parallel steps refuse a request never completes it: a full queue leaves
the caller without an answer, a wait that is too long leaves the request in memory, and
both keep the model from unloading (triton-inference-server/core, pull requests 466 and
483; seen with 24.10). Half of what such a queue lets pass would be work for nothing
anyway, because each of two queues refuses other requests. Frames are therefore counted
before the first step: builders/repository/runtimes/admission.py.

`max_inflight_requests` of ensembles, in Triton 25.12 and later, is no limit for this
purpose either: until 26.03 it counts the responses of one request, and since then it
blocks instead of refusing (core, pull request 482). Servers that have it accept the
configurations as they are.
"""

from __future__ import annotations

from typing import Any

from builders.repository.runtimes.admission import MAX_WAIT_S

TIMEOUT_S = MAX_WAIT_S
"""Longest wait in a queue. Half of the client's default deadline, so that the other
half is left for another server; and twice the longest wait among the published load
tests (32 callers with four people each on 2 cores: 7.2 s). A request's own timeout,
which is what is left of its caller's deadline, shortens the wait."""

CPU_REQUESTS_PER_INSTANCE, MIN_REQUESTS = 24, 48
"""Requests that wait for each instance on the CPU, and for a model at least: 48 on 2
cores, of which the largest published load test needs 32. Frames of four people then
wait for 8 s at most, less than TIMEOUT_S, so that what is too much is refused at once
and not after a wait."""

GPU_BATCHES = 4
"""Full batches of single-row requests that wait for a model on a GPU, where a batch
takes milliseconds: two to compute, and two that arrive meanwhile."""

PEOPLE_PER_CORE = 128
"""People between preprocessing and the networks. A core does 12 people a second with
both networks (loadtest/BENCHMARKS.md), so that they wait 11 s at most. The published
load tests have 128 people in flight on 2 cores, half of what is allowed there. Their
memory is bounded by this number, and their time on a slower machine by MAX_WAIT_S."""

PEOPLE_PER_GPU = 8192
"""The same on a GPU, whose networks do 22,650 people a second on an H100. Their crops
take 2.5 GB of its memory."""

GPU_FRAMES = 256
"""Frames that wait for preprocessing on a GPU, which takes them over at once."""


def cpu_queue_policy(instances: int) -> dict[str, Any]:
    """Return the fields of `default_queue_policy` of a model on the CPU.

    Args:
        instances: Number of instances of the model.
    """
    return queue_policy(max(MIN_REQUESTS, CPU_REQUESTS_PER_INSTANCE * instances))


def queue_policy(max_requests: int) -> dict[str, Any]:
    """Return the fields of `default_queue_policy`.

    Args:
        max_requests: Largest number of waiting requests.
    """
    return {
        "timeout_action": "REJECT",
        "default_timeout_microseconds": int(TIMEOUT_S * 1e6),
        "allow_timeout_override": True,
        "max_queue_size": max_requests,
    }
