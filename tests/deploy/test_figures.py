"""The chart's figures equal what `serve` computes, for any models and cores."""

from __future__ import annotations

import json
from math import ceil
from typing import Any

import pytest

from builders.deployment.figures import FP32_BYTES, SERVER_BYTES
from builders.deployment.render import FILES, render_deployment
from builders.repository.config import count_instances
from builders.repository.layout import ARTEFACTS, Repository
from builders.serve.endpoints import Ports
from builders.serve.resources import (
    cuda_pool_bytes,
    instance_shm_bytes,
    process_bytes,
    total_shm_bytes,
)
from builders.serve.run import HEALTH_PORT
from builders.serve.selection import MAIN_MODELS, with_steps
from builders.spec.catalogue import catalogue
from builders.spec.ensemble import Ensemble
from builders.spec.model import Model
from tests.deploy.tools import container_of, select, template

CHOICES = (
    MAIN_MODELS,
    ("person_attributes_shared", "face_attributes_kinship"),
    ("person_attributes_r50_ibn", "kinship_pair", "se_resnet50"),
)
MIB = 1 << 20


def _weights_bytes(declaration: Any, target: str) -> int:
    if target != "cpu" or not isinstance(declaration, Model):
        return 0
    return FP32_BYTES * declaration.summary.parameter_count


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
@pytest.mark.parametrize("cores", [1, 16])
@pytest.mark.parametrize("models", CHOICES, ids="+".join)
def test_figures_of_the_chart(models: tuple[str, ...], cores: int, target: str) -> None:
    names = f"models={{{','.join(models)}}}"
    values = [f"target={target}", f"cores={cores}", "gpu.hostMemory=3Gi", names]
    documents = template(values)
    served = [catalogue()[name] for name in with_steps(models)]
    counted = [each for each in served if not isinstance(each, Ensemble)]
    counts = {each.name: count_instances(each, target, cores) for each in counted}
    pod = select(documents, "Deployment")["spec"]["template"]
    annotation = pod["metadata"]["annotations"]["personserve/instances"]
    assert json.loads(annotation) == counts
    volumes = {each["name"]: each for each in pod["spec"]["volumes"]}
    shm_mib = ceil(total_shm_bytes(served, target, cores) / MIB)
    assert volumes["shm"]["emptyDir"]["sizeLimit"] == f"{shm_mib}Mi"
    private = SERVER_BYTES + sum(
        counts[each.name] * process_bytes(_weights_bytes(each, target))
        for each in counted
    )
    gpu_mib = 3 * 1024 if target == "tensorrt" else 0
    resources = container_of(documents)["resources"]
    expected = {"cpu": cores, "memory": f"{shm_mib + ceil(private / MIB) + gpu_mib}Mi"}
    if target == "tensorrt":
        expected["nvidia.com/gpu"] = 1
    assert resources == {"requests": expected, "limits": expected}


def test_a_stock_server_reserves_what_serve_reserves() -> None:
    stock = ["target=tensorrt", "supervised=false", "access.secretName=s"]
    args = container_of(template(stock))["args"]
    served = [catalogue()[name] for name in with_steps(MAIN_MODELS)]
    reserved = instance_shm_bytes(served, "tensorrt")
    assert f"--backend-config=python,shm-default-byte-size={reserved}" in args
    pool = cuda_pool_bytes(served, "tensorrt")
    assert f"--cuda-memory-pool-byte-size=0:{pool}" in args


def test_declared_weights_are_as_large_as_built_files(repository: Repository) -> None:
    """The chart counts parameters, because the files are not built where it is used."""
    for name in with_steps(MAIN_MODELS):
        declaration = catalogue()[name]
        if isinstance(declaration, Model):
            path = repository.artefact_path(name, ARTEFACTS["cpu"])
            declared = _weights_bytes(declaration, "cpu")
            assert declared == pytest.approx(path.stat().st_size, rel=0.02)


def test_ports_and_probes() -> None:
    container = container_of(template())
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"grpc": Ports.grpc, "metrics": HEALTH_PORT}
    assert container["readinessProbe"]["httpGet"] == {
        "path": "/ready",
        "port": "metrics",
    }
    assert container["livenessProbe"]["httpGet"] == {"path": "/live", "port": "metrics"}
    stock = container_of(
        template(["target=tensorrt", "supervised=false", "access.secretName=s"])
    )
    ports = {each["name"]: each["containerPort"] for each in stock["ports"]}
    assert ports == {"grpc": Ports.grpc, "metrics": Ports.metrics}
    assert stock["readinessProbe"]["grpc"] == {"port": Ports.grpc}
    assert stock["livenessProbe"]["exec"]["command"][-1].endswith("/liveness.py")


def test_rendered_files_are_up_to_date() -> None:
    assert render_deployment(check=True) == [], "run: python -m builders render"
    assert {path.name for path in FILES.iterdir()} == {
        "dashboard.json",
        "figures.json",
        "rules.yaml",
    }
