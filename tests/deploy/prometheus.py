"""A real Prometheus that scrapes servers of this machine, with the rules of deploy/."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

import yaml

from builders.deployment.dashboard import panels
from builders.deployment.render import FILES
from builders.deployment.rules import recording_rules, render_rules
from builders.repository.layout import ROOT
from builders.serve.endpoints import Ports
from tests.deploy.tools import NAMESPACE, RELEASE, find_program, select, template

JOB = f"{RELEASE}-personserve"
PATIENCE_S = 600.0
"""Time for what takes seconds on an idle machine."""

Samples = list[tuple[dict[str, str], float]]


@dataclass
class Prometheus:
    """A running Prometheus.

    Attributes:
        address: host:port of it.
    """

    address: str

    def query(self, expression: str) -> Samples:
        """Return labels and values of an instant query.

        Args:
            expression: The query in PromQL.
        """
        arguments = urllib.parse.urlencode({"query": expression})
        url = f"http://{self.address}/api/v1/query?{arguments}"
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:
            answer = json.load(response)
        return [
            (each["metric"], float(each["value"][1]))
            for each in answer["data"]["result"]
        ]

    def wait_for(self, expression: str) -> Samples:
        """Return the samples of a query as soon as there are some.

        Args:
            expression: The query in PromQL.
        """
        deadline = time.monotonic() + PATIENCE_S
        while True:
            samples = self.query(expression)
            # a rate needs two samples in time
            if samples and not any(isnan(value) for _, value in samples):
                return samples
            assert time.monotonic() < deadline, f"no value: {expression}"
            time.sleep(0.5)

    def is_ready(self) -> bool:
        """Return whether it answers."""
        try:
            url = f"http://{self.address}/-/ready"
            with urllib.request.urlopen(url, timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False


@contextmanager
def scraping(targets: Sequence[str], folder: Path) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes and evaluates every second.

    Args:
        targets: host:port of pages /metrics.
        folder: Empty folder for its files.
    """
    labels = {"namespace": NAMESPACE, "job": JOB}
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "rules.yaml")],
        "scrape_configs": [
            {
                "job_name": JOB,
                "static_configs": [{"targets": list(targets), "labels": labels}],
            }
        ],
    }
    rules = render_rules()
    for group in rules["groups"]:
        group["interval"] = "1s"
    for name, document in (("prometheus.yaml", config), ("rules.yaml", rules)):
        (folder / name).write_text(yaml.safe_dump(document), encoding="utf-8")
    address = f"127.0.0.1:{Ports.free().http}"
    command = [
        find_program("prometheus"),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
    ):
        try:
            prometheus = Prometheus(address)
            deadline = time.monotonic() + PATIENCE_S
            while not prometheus.is_ready():
                text = (folder / "log").read_text(encoding="utf-8")
                assert process.poll() is None, text
                assert time.monotonic() < deadline, text
                time.sleep(0.1)
            yield prometheus
        finally:
            process.terminate()


def list_expressions(*absent: str) -> Mapping[str, str]:
    """Return every expression of rules, dashboard, HPA and KEDA by its place.

    Args:
        absent: What is not there: "gpu", "supervisor".
    """
    expressions = {f"rule {name}": name for name in recording_rules()}
    variables = {"$namespace": NAMESPACE, "$job": JOB}
    for panel in panels():
        for legend, expression in panel.queries.items():
            text = expression
            for name, value in variables.items():
                text = text.replace(name, value)
            if panel.needs not in absent:
                expressions[f"panel {panel.title} [{legend}]"] = text
    scaler: dict[str, Any] = select(template(["autoscaling.kind=keda"]), "ScaledObject")
    (trigger,) = scaler["spec"]["triggers"]
    expressions["KEDA"] = trigger["metadata"]["query"]
    adapter = yaml.safe_load((ROOT / "deploy" / "prometheus-adapter.yaml").read_text())
    (rule,) = adapter["rules"]["external"]
    expressions["HPA, series"] = rule["seriesQuery"]
    expressions["HPA, metric"] = (
        rule["metricsQuery"]
        .replace("<<.Series>>", rule["seriesQuery"].partition("{")[0])
        .replace("<<.LabelMatchers>>", f'namespace="{NAMESPACE}",job="{JOB}"')
        .replace("<<.GroupBy>>", "namespace")
    )
    return expressions


def rule_expressions() -> Iterator[str]:
    """Yield the expressions of the rendered rules, alerts included."""
    document = yaml.safe_load((FILES / "rules.yaml").read_text(encoding="utf-8"))
    for group in document["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]
