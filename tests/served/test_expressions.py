"""Expressions of rules, dashboard and autoscalers on the metrics of a real server."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import promql_parser
import pytest

from builders.deployment.rules import PEOPLE_RATE, recording_rules
from builders.repository.layout import Repository
from personserve import Client
from tests.deploy.prometheus import list_expressions, rule_expressions, scraping
from tests.serve_command import Serving, serving

SUMMARIES = "--metrics-config=summary_latencies=true"
"""What the chart passes too: the quantiles of the dashboard."""

PROMETHEUS_OWN = {"up", "ALERTS"}
SCRAPED_LABELS = {"namespace", "job", "instance", "__name__"}
BOXES = [(10, 10, 200, 300), (210, 10, 400, 300)]


@pytest.fixture(scope="module")
def served(repository: Repository) -> Iterator[Serving]:
    with serving(repository, "--model", "person_attributes", SUMMARIES) as served:
        _ask(served)
        yield served


def _ask(served: Serving) -> None:
    frame = np.zeros((480, 640, 3), np.uint8)
    with Client(f"127.0.0.1:{served.ports.grpc}", timeout_s=300) as client:
        client.attributes(frame, BOXES, model="person_attributes")


def _selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Yield name and labels of the metrics that an expression reads."""
    selectors: list[promql_parser.VectorSelector] = []

    def visit(node: promql_parser.Expr) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            selectors.append(node)
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    for selector in selectors:
        labels = {each.name for each in selector.matchers.matchers}
        yield selector.name or "", labels - SCRAPED_LABELS


def test_each_metric_is_on_the_page_of_a_server(served: Serving) -> None:
    _, page = served.health("metrics")
    exposed: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? ", page, re.MULTILINE):
        exposed.setdefault(name, set()).update(re.findall(r"(\w+)=", labels))
    known = PROMETHEUS_OWN | set(recording_rules()) | {""}
    expressions = [*list_expressions("gpu").values(), *rule_expressions()]
    for expression in expressions:
        for name, labels in _selectors(expression):
            if name in known or name.startswith("nv_gpu_"):
                continue
            assert name in exposed, f"{name} in {expression}"
            assert labels <= exposed[name], f"{labels} of {name} in {expression}"
    assert len(exposed) > 10


def test_each_expression_has_a_value(served: Serving, tmp_path: Path) -> None:
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            _ask(served)

    with scraping([f"127.0.0.1:{served.health_port}"], tmp_path) as prometheus:
        thread = threading.Thread(target=ask)
        thread.start()
        try:
            for place, expression in list_expressions("gpu").items():
                for _, value in prometheus.wait_for(expression):
                    assert 0 <= value < 1e6, place
            while not any(value > 0 for _, value in prometheus.query(PEOPLE_RATE)):
                assert thread.is_alive()
        finally:
            stop.set()
            thread.join()
