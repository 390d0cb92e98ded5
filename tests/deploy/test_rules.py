"""Recording rules and alerts: each under promtool, each with a runbook paragraph."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from builders.deployment.render import FILES
from builders.deployment.rules import (
    PENDING_RATIO,
    PEOPLE_RATE,
    QUEUE_RATIO,
    RUNBOOK,
    SCALING_SIGNAL,
    alerts,
    recording_rules,
    render_rules,
)
from builders.repository.layout import ROOT
from tests.deploy.tools import find_program

RULES = FILES / "rules.yaml"
JOB = 'namespace="video",job="personserve"'
POD = f'{JOB},instance="10.0.0.1:8003"'
STEPS = 240
"""Samples of a series, one for each 15 seconds: an hour."""


def _series(metric: str, labels: str, start: float, step: float = 0) -> tuple[str, str]:
    return f"{metric}{{{POD}{labels}}}", f"{start:g}+{step:g}x{STEPS}"


def _counter(metric: str, labels: str, per_s: float) -> tuple[str, str]:
    return _series(metric, labels, 0, per_s * 15)


GENDER, FRAMES = ',model="person_gender"', ',model="person_attributes"'
PREPROCESS = ',model="person_preprocess"'
GPU = ',gpu_uuid="a"'
REFUSED = "personserve_requests_refused_total"

HEALTHY = dict(
    [
        _series("up", "", 1),
        _series("personserve_ready", "", 1),
        _series("personserve_restarts_total", ',reason="hung"', 1),
        _counter("nv_inference_queue_duration_us", GENDER, 0.2e6),
        _counter("nv_inference_queue_duration_us", PREPROCESS, 0),
        _counter("nv_inference_queue_duration_us", FRAMES, 99e6),
        _counter("nv_inference_compute_infer_duration_us", GENDER, 1.6e6),
        _counter("nv_inference_compute_infer_duration_us", PREPROCESS, 0.4e6),
        _counter("nv_inference_compute_infer_duration_us", FRAMES, 99e6),
        _series("nv_inference_pending_request_count", GENDER, 0.5),
        _series("nv_inference_pending_request_count", FRAMES, 99),
        _counter("nv_inference_request_success", GENDER, 10),
        _counter("nv_inference_request_success", PREPROCESS, 8),
        _counter("nv_inference_request_duration_us", GENDER, 20e6),
        _counter("nv_inference_request_failure", GENDER + ',reason="OTHER"', 0),
        _counter("nv_inference_count", GENDER, 40),
        _counter("nv_inference_count", PREPROCESS, 8),
        _counter("nv_inference_count", FRAMES, 500),
        *(
            _counter(REFUSED, f'{PREPROCESS},reason="{reason}"', 0.02)
            for reason in ("boxes", "image", "image_size", "overloaded", "cancelled")
        ),
        _counter(REFUSED, PREPROCESS + ',reason="failed"', 0),
        _series("nv_gpu_memory_used_bytes", GPU, 50e9),
        _series("nv_gpu_memory_total_bytes", GPU, 100e9),
    ]
)
"""A server with four people per frame and short queues; nothing is wrong."""

CASES: Mapping[str, Sequence[tuple[str, str]]] = {
    "PersonserveDown": [_series("up", "", 0)],
    "PersonserveNotReady": [_series("personserve_ready", "", 0)],
    "PersonserveRestarts": [
        _counter("personserve_restarts_total", ',reason="hung"', 5 / 900)
    ],
    "PersonserveMetricsMissing": [
        (f"nv_inference_pending_request_count{{{POD}{labels}}}", "_x240")
        for labels in (GENDER, FRAMES)
    ],
    "PersonserveOverloaded": [
        _counter("nv_inference_queue_duration_us", GENDER, 4.2e6),
    ],
    "PersonserveRequestsRefused": [
        _counter(REFUSED, PREPROCESS + ',reason="overloaded"', 0.2)
    ],
    "PersonserveRequestsInvalid": [
        _counter(REFUSED, PREPROCESS + ',reason="image"', 0.6)
    ],
    "PersonserveRequestsCancelled": [
        _counter(REFUSED, PREPROCESS + ',reason="cancelled"', 0.6)
    ],
    "PersonserveModelsFail": [_counter(REFUSED, PREPROCESS + ',reason="failed"', 0.01)],
    "PersonserveTritonFails": [
        _counter("nv_inference_request_failure", GENDER + ',reason="OTHER"', 0.1)
    ],
    "PersonserveSlow": [_counter("nv_inference_request_duration_us", GENDER, 60e6)],
    "PersonserveGpuMemory": [_series("nv_gpu_memory_used_bytes", GPU, 96e9)],
}
"""What is different when an alert must fire, and no other."""

FIRING = 'count by (alertname) (ALERTS{alertstate="firing"})'


def _test(
    series: Mapping[str, str], expected: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    return {
        "interval": "15s",
        "input_series": [{"series": s, "values": v} for s, v in series.items()],
        "promql_expr_test": [
            {
                "expr": expression,
                "eval_time": "40m",
                "exp_samples": [
                    {"labels": labels, "value": value}
                    for labels, value in samples.items()
                ],
            }
            for expression, samples in expected.items()
        ],
    }


def _run_promtool(tests: Sequence[dict[str, Any]], folder: Path) -> str:
    """Return what promtool prints; "" if all tests pass."""
    path = folder / "tests.yaml"
    document = {"rule_files": [str(RULES)], "tests": tests}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    done = subprocess.run(
        [find_program("promtool"), "test", "rules", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def _name_sample(name: str) -> str:
    return f"{name}{{{JOB}}}"


def test_recorded_values(tmp_path: Path) -> None:
    """0.2 waiting for 2.0 computed requests, and 0.5 pending; ensembles left out."""
    expected = {
        QUEUE_RATIO: 0.1,
        PENDING_RATIO: 0.25,
        SCALING_SIGNAL: 0.25,
        PEOPLE_RATE: 40.0,
    }
    assert set(expected) == set(recording_rules())
    samples = {name: {_name_sample(name): value} for name, value in expected.items()}
    assert _run_promtool([_test(HEALTHY, samples)], tmp_path) == ""


def test_the_signal_of_a_server_that_answers_nothing(tmp_path: Path) -> None:
    """Times are counted at the answer; what is pending is seen at once."""
    hung = dict(
        [
            _counter("nv_inference_queue_duration_us", GENDER, 0),
            _counter("nv_inference_compute_infer_duration_us", GENDER, 0),
            _series("nv_inference_pending_request_count", GENDER, 30),
        ]
    )
    samples = {SCALING_SIGNAL: {_name_sample(SCALING_SIGNAL): 30.0}, QUEUE_RATIO: {}}
    assert _run_promtool([_test(hung, samples)], tmp_path) == ""


def test_the_signal_of_an_idle_server_exists(tmp_path: Path) -> None:
    """An autoscaler without a value would keep the number of pods for ever."""
    idle = {series: re.sub(r"\+\S+x", "+0x", v) for series, v in HEALTHY.items()}
    idle |= dict([_series("nv_inference_pending_request_count", GENDER, 0)])
    samples = {SCALING_SIGNAL: {_name_sample(SCALING_SIGNAL): 0.0}}
    assert _run_promtool([_test(idle, samples)], tmp_path) == ""


def test_each_alert_fires_alone_and_none_without_a_fault(tmp_path: Path) -> None:
    assert set(CASES) == {each.name for each in alerts()}
    tests = [_test(HEALTHY, {FIRING: {}})]
    for name, changes in CASES.items():
        expected = {FIRING: {f'{{alertname="{name}"}}': 1.0}}
        tests.append(_test(HEALTHY | dict(changes), expected))
    assert _run_promtool(tests, tmp_path) == ""


def test_a_wrong_expectation_is_noticed(tmp_path: Path) -> None:
    wrong = _test(HEALTHY, {PEOPLE_RATE: {_name_sample(PEOPLE_RATE): 41.0}})
    assert "FAILED" in _run_promtool([wrong], tmp_path)


def test_each_alert_has_its_paragraph_in_the_runbook() -> None:
    text = (ROOT / RUNBOOK).read_text(encoding="utf-8")
    sections = dict(
        re.findall(r"^## (\w+)\n\n(.+?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    )
    names = [each.name for each in alerts()]
    assert [name for name in sections if name.startswith("Personserve")] == names
    for name, section in sections.items():
        assert len(section.split()) > 30, f"{name}: what it means, look at, do"
    for group in render_rules()["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                anchor = rule["annotations"]["runbook_url"].partition("#")[2]
                assert anchor == rule["alert"].lower()
