"""Processes of the server that are paused: an error, never another's answer."""

from __future__ import annotations

from builders.repository.layout import Repository
from builders.serve.tritonserver import Ports, TritonServer
from tests.chaos_callers import ENSEMBLE, HEALTHY_TIMEOUT_S
from tests.chaos_pauses import run_trials

PAUSES = [("stub", 1.2), ("tritonserver", 1.2), ("all", 1.5)]


def test_no_pause_gives_a_wrong_answer(repository: Repository) -> None:
    server = TritonServer(repository, models=[ENSEMBLE], ports=Ports.free(), cores=2)
    with server:
        outcome = run_trials(server, PAUSES, callers=3)
    assert outcome.right > 0
    assert outcome.wrong == []
    assert outcome.crashes == 0, "tritonserver itself survives every pause"
    assert len(outcome.failures) == 2, "a pause of tritonserver alone harms nothing"
    assert all("was ended by SIGKILL" in text for text in outcome.failures)
    assert max(outcome.recovery_s) < HEALTHY_TIMEOUT_S
