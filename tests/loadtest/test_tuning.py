"""What tuning concludes from measured candidates, and what it prints."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from builders.spec.model import Batching
from loadtest import tune
from loadtest.model_config import (
    LiveConfig,
    Settings,
    config_diff,
    config_with_settings,
)
from loadtest.tuning import Trial, Tuning, find_best

CONFIG = {
    "max_batch_size": 64,
    "instance_group": [{"kind": "KIND_CPU", "count": 2}],
    "parameters": {},
}


def _tune(
    rates: dict[Settings, list[float]], limit_ms: float, folder: Path
) -> tuple[Tuning, str, str]:
    """The result, the output and the report where settings give these people/s (and
    1000 / people/s as p99)."""
    console = Console(file=StringIO(), width=200)

    def run_trials(
        candidates: Sequence[Settings], rounds: int
    ) -> dict[Settings, Trial]:
        del rounds
        slow = [1.0, 1.0]
        return {
            each: Trial(
                rates.get(each, slow), [1000 / v for v in rates.get(each, slow)]
            )
            for each in candidates
        }

    declared = Settings(2, None)
    tuning = find_best(
        *("person_gender", declared, [1, 2, 4], (8,), run_trials, 2, limit_ms),
        is_cpu=True,
    )
    tune.conclude(tuning, config_diff(CONFIG, tuning.chosen), folder, console)
    report = (folder / "report.md").read_text(encoding="utf-8")
    return tuning, console.file.getvalue(), report


def test_a_better_setting_becomes_a_line_to_paste(tmp_path: Path) -> None:
    two, four, merged = Settings(2, None), Settings(4, None), Settings(4, 2000, (8,))
    rates = {two: [10, 11], four: [12, 13], merged: [20, 21]}
    tuning, said, report = _tune(rates, 1000, tmp_path)
    assert tuning.reaches_goal
    line = (
        "batching=Batching(cpu_instances=4, cpu_queue_delay_us=2000, "
        "preferred_batch_sizes=(8,))"
    )
    assert line in said
    assert line in report
    assert '+      "count": 4' in report, "the difference of the configuration"
    assert '+    "max_queue_delay_microseconds": 2000' in said
    assert "1.95 of the declared settings' people/s" in said
    tuning, said, report = _tune({two: [10, 13], four: [12, 14]}, 1000, tmp_path)
    assert tuning.reaches_goal
    assert "Batching(" not in said + report, "the rounds overlap"
    assert "keeps its declared settings" in said
    tuning, said, report = _tune({two: [10, 11], four: [40, 50]}, 30, tmp_path)
    assert tuning.reaches_goal, "four reach what two do not"
    assert "Batching(cpu_instances=4" in report
    tuning, said, _ = _tune({two: [10, 11]}, 10, tmp_path)
    assert not tuning.reaches_goal
    assert "nothing reaches 10 ms" in said


@pytest.mark.parametrize(
    ("is_cpu", "settings", "expected"),
    [
        (True, Settings(3, None), Batching(cpu_instances=3)),
        (
            True,
            Settings(3, 500, (8, 16)),
            Batching(
                cpu_instances=3,
                cpu_queue_delay_us=500,
                preferred_batch_sizes=(8, 16),
            ),
        ),
        (False, Settings(2, 0), Batching(gpu_instances=2)),
        (
            False,
            Settings(1, 2000, (4,)),
            Batching(queue_delay_us=2000, preferred_batch_sizes=(4,)),
        ),
    ],
)
def test_the_line_builds_a_batching(
    is_cpu: bool, settings: Settings, expected: Batching
) -> None:
    trial = Trial([1.0], [1.0])
    tuning = Tuning(
        *("person_gender", is_cpu, 1000.0, Settings(9, 0), settings),
        *({settings: trial}, {Settings(9, 0): trial, settings: trial}),
    )
    line = tune.declaration_line(tuning)
    code = f"dict({line})"
    arguments: dict[str, Any] = eval(code, {"Batching": Batching})  # noqa: S307
    assert arguments == {"batching": expected}


def test_a_gpu_s_declaration_always_merges() -> None:
    tried: list[Settings] = []

    def run_trials(
        candidates: Sequence[Settings], rounds: int
    ) -> dict[Settings, Trial]:
        tried.extend(candidates)
        return {each: Trial([1.0] * rounds, [1.0] * rounds) for each in candidates}

    find_best(*("m", Settings(1, 0), [1, 2], (), run_trials, 1, 9.0), is_cpu=False)
    assert Settings(2, 0) in tried
    assert all(each.queue_delay_us is not None for each in tried)


def test_the_queue_policy_survives_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = {"max_queue_size": 48}
    config = {
        **CONFIG,
        "max_batch_size": 64,
        "dynamic_batching": {
            "preferred_batch_size": [1],
            "default_queue_policy": policy,
        },
    }
    monkeypatch.setattr("loadtest.model_config.get_config", lambda *_: config)
    assert LiveConfig("there", "m").declared.queue_delay_us is None, "merges nothing"
    for settings in (Settings(2, None), Settings(2, 500, (8,))):
        batching = config_with_settings(config, settings)["dynamic_batching"]
        assert batching["default_queue_policy"] == policy
        assert batching["preferred_batch_size"] == list(settings.preferred or [1])
    plain = {key: CONFIG[key] for key in CONFIG if key != "dynamic_batching"}
    assert "dynamic_batching" not in config_with_settings(plain, Settings(2, None))
