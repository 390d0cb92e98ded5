"""Mutated requests, killed processes and a full /dev/shm: the scripts in short form."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from builders.repository.layout import Repository
from builders.serve.tritonserver import Ports, TritonServer
from tests.chaos_callers import ENSEMBLE, HEALTHY_TIMEOUT_S, list_unrepeatable
from tests.chaos_kills import run_kills
from tests.chaos_shared_memory import can_unshare, run_in_namespace
from tests.fuzz_requests import Protocol, fuzz

KILLS = [("stub", signal.SIGKILL), ("tritonserver", signal.SIGKILL)]


@pytest.fixture(scope="module")
def own(repository: Repository) -> Iterator[TritonServer]:
    """A server that a test may harm."""
    server = TritonServer(
        repository, models=[ENSEMBLE], ports=Ports.free(), cores=1, http=True
    )
    with server:
        yield server


@pytest.mark.parametrize(("protocol", "count"), [("grpc", 300), ("http", 100)])
def test_mutated_requests_harm_no_other(
    own: TritonServer, protocol: Protocol, count: int
) -> None:
    findings = fuzz(own, range(count), protocol=protocol, seed=4)
    assert findings.is_clean, findings.text()
    assert findings.requests == count
    assert findings.canaries == count // 25
    assert len(findings.statuses) > 3, "answers of several kinds"


def test_killed_processes_are_replaced_and_no_answer_is_wrong(
    own: TritonServer,
) -> None:
    outcome = run_kills(own, KILLS, callers=2)
    assert outcome.right > 0
    assert outcome.wrong == []
    assert outcome.errors, "callers were there"
    assert list_unrepeatable(outcome) == []
    assert len(outcome.failures) == len(KILLS)
    assert max(outcome.recovery_s) < HEALTHY_TIMEOUT_S


@pytest.mark.skipif(not can_unshare(), reason="mount namespaces need privileges here")
def test_a_full_shared_memory_is_an_error_and_a_truncated_one_a_restart(
    repository: Repository,
) -> None:
    findings = run_in_namespace(repository.root, free_mib=1, people=[1, 64])
    assert findings.right > 0
    assert findings.wrong == []
    assert findings.unhealthy == []
    assert findings.restarts == []
    assert findings.errors, "there was too little space"
    assert all("OverloadedError" in text for text in findings.errors)
    assert findings.truncation == ["tritonserver was ended by SIGBUS"]
