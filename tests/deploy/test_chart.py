"""The Helm chart: what it renders is valid, agrees with `serve`, and drains."""

from __future__ import annotations

import itertools
import json
from functools import cache
from typing import Any

import kubernetes_validate
import pytest

from builders.deployment.rules import SCALING_SIGNAL, render_rules
from builders.repository.layout import Repository
from builders.serve.endpoints import Ports
from builders.serve.run import HEALTH_PORT
from builders.serve.tritonserver import EXIT_TIMEOUT_S, TritonServer
from tests.deploy.tools import CHART, container_of, run_helm, select, template

STOCK = ("target=tensorrt", "supervised=false", "access.secretName=s")
CUSTOM_GROUPS = ("monitoring.coreos.com", "keda.sh", "serving.kserve.io")
"""API groups of operators: Kubernetes's own schemas do not have them."""

MATRIX = {
    "default": (),
    "everything": (
        *("autoscaling.kind=hpa", "monitoring.enabled=true"),
        *("monitoring.dashboard=true", "monitoring.labels.release=prometheus"),
        *("tls.secretName=t", "access.secretName=s", "access.token=true"),
        *("image.pullSecrets={a,b}", "podAnnotations.a=b", "nodeSelector.gpu=yes"),
        "tolerations[0].operator=Exists",
    ),
    "keda": ("autoscaling.kind=keda", "repository.existingClaim=models"),
    "stock": (*STOCK, "access.token=true", "models={person_attributes}"),
    "supervised GPU": ("target=tensorrt", "networkPolicy.enabled=false"),
    "proxy": ("proxy.enabled=true", "proxy.config=a: b", "proxy.tlsSecretName=t"),
    "kserve": (*STOCK, "kserve.enabled=true", "kserve.storageUri=s3://a/b"),
}
VERSIONS = [
    version
    for each in kubernetes_validate.utils.all_versions()
    if int((version := each.split("-")[0].rpartition(".")[0]).split(".")[1]) >= 30
]


@cache
def _render(name: str) -> list[dict[str, Any]]:
    return template(MATRIX[name])


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    """Each different object of the matrix, but for those of operators."""
    rendered = {
        json.dumps(document, sort_keys=True): document
        for name in MATRIX
        for document in _render(name)
        if document["apiVersion"].partition("/")[0] not in CUSTOM_GROUPS
    }
    return list(rendered.values())


@pytest.mark.parametrize("version", sorted(set(VERSIONS)))
def test_all_objects_are_valid_in_each_kubernetes(
    version: str, documents: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # the package reads a megabyte of definitions for each object
    read = cache(kubernetes_validate.utils.schema_contents)
    monkeypatch.setattr(kubernetes_validate.utils, "schema_contents", read)
    for document in documents:
        used = kubernetes_validate.validate(document, version, strict=True)
        assert used == version, "validated by an older schema"
    kinds = {document["kind"] for document in documents}
    assert {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"} <= kinds
    assert {"HorizontalPodAutoscaler", "ConfigMap"} <= kinds


def test_the_versions_are_those_that_the_chart_allows() -> None:
    assert {"1.30", "1.37"} <= set(VERSIONS)
    chart = (CHART / "Chart.yaml").read_text(encoding="utf-8")
    assert 'kubeVersion: ">=1.30.0-0"' in chart
    done = run_helm("template", "x", str(CHART), "--kube-version", "1.29")
    assert done.returncode, "the preStop action needs 1.30"


def test_a_wrong_field_is_noticed() -> None:
    document = select(template(), "Deployment")
    document["spec"]["template"]["spec"]["terminationGracePeriod"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, "1.37", strict=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("autoscaling.kind=both", "autoscaling"),
        ("autoscaling.hpa=true", "hpa"),
        ("supervised=false", "supervised"),
        ("access.token=true", "secretName"),
        ("cores=0", "cores"),
        ("proxy.enabled=true", "tlsSecretName"),
        ("core=4", "core"),
        ("models={person_genderr}", "no model"),
        ("kserve.enabled=true,autoscaling.kind=keda", "kind"),
        (
            "target=tensorrt,supervised=false,access.secretName=s,tls.secretName=t",
            "tls",
        ),
        ("kserve.enabled=true,kserve.storageUri=s3://a", "supervised"),
    ],
)
def test_values_that_contradict_are_refused(values: str, message: str) -> None:
    done = run_helm(
        *("template", "x", str(CHART), "--kube-version", "1.34", "--set", values)
    )
    assert done.returncode
    assert message in done.stderr


@pytest.mark.parametrize("kind", ["hpa", "keda"])
def test_one_autoscaler_follows_the_recorded_signal(kind: str) -> None:
    documents = template([f"autoscaling.kind={kind}"])
    kinds = {each["kind"] for each in documents}
    assert len(kinds & {"HorizontalPodAutoscaler", "ScaledObject"}) == 1
    deployment = select(documents, "Deployment")
    assert "replicas" not in deployment["spec"], "would fight with the autoscaler"
    if kind == "keda":
        scaler = select(documents, "ScaledObject")
        (trigger,) = scaler["spec"]["triggers"]
        name = deployment["metadata"]["name"]
        expected = f'max({SCALING_SIGNAL}{{namespace="video",job="{name}"}})'
        assert trigger["metadata"]["query"] == expected
    else:
        scaler = select(documents, "HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


def test_the_rules_of_the_operator_are_the_rendered_ones() -> None:
    assert select(_render("everything"), "PrometheusRule")["spec"] == render_rules()


def test_prometheus_scrapes_each_pod_once() -> None:
    documents = _render("everything")
    monitor = select(documents, "ServiceMonitor")["spec"]
    matched = [
        each
        for each in documents
        if each["kind"] == "Service"
        and monitor["selector"]["matchLabels"].items()
        <= each["metadata"]["labels"].items()
    ]
    assert [each["spec"]["clusterIP"] for each in matched] == ["None"]
    (endpoint,) = monitor["endpoints"]
    names = {port["name"] for port in matched[0]["spec"]["ports"]}
    assert endpoint["port"] in names
    # the alert of a server that is down knows the job by its name
    assert "personserve" in matched[0]["metadata"]["labels"][monitor["jobLabel"]]


@pytest.mark.parametrize(
    ("delay", "timeout"), list(itertools.product((1, 60), (1, 300)))
)
def test_the_grace_period_covers_the_whole_drain(delay: int, timeout: int) -> None:
    values = [f"drain.delaySeconds={delay}", f"drain.timeoutSeconds={timeout}"]
    documents = template(values)
    pod = select(documents, "Deployment")["spec"]["template"]["spec"]
    container = container_of(documents)
    assert container["lifecycle"]["preStop"]["sleep"]["seconds"] == delay
    assert f"--drain-timeout={timeout}" in container["args"]
    assert "--drain-delay=2" in container["args"]
    needed = delay + 2 + timeout + EXIT_TIMEOUT_S
    assert pod["terminationGracePeriodSeconds"] > needed
    stock = container_of(template([*STOCK, *values]))
    assert f"--exit-timeout-secs={timeout}" in stock["args"]
    assert stock["lifecycle"]["preStop"]["sleep"]["seconds"] == delay


def _names(arguments: list[str]) -> set[str]:
    return {each.partition("=")[0] for each in arguments if each.startswith("--")}


def test_a_stock_server_has_the_arguments_of_serve(repository: Repository) -> None:
    """What `serve` passes to tritonserver, but for what needs its process."""
    server = TritonServer(
        repository,
        models=["person_attributes", "person_attributes_crops"],
        ports=Ports(),
        token="t" * 32,
    )
    command, environment = server.command("k" * 32)
    container = container_of(template([*STOCK, "access.token=true"]))
    own = {"--backend-directory", "--model-config-name"}
    assert _names(command) - own <= _names(container["args"])
    for secret, variable in (("k" * 32, "KEY"), ("t" * 32, "TOKEN")):
        for argument in command:
            if secret in argument:
                reference = argument.replace(secret, f"$(PERSONSERVE_{variable})")
                assert reference in container["args"]
    names = {each["name"] for each in container["env"]}
    assert {"PERSONSERVE_KEY", "PERSONSERVE_TOKEN"} <= names
    assert {"PYTHONDONTWRITEBYTECODE", "PERSONSERVE_METRICS_URL"} <= names
    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"


@pytest.mark.parametrize("name", ["default", "everything", "stock"])
def test_pods_are_restricted(name: str) -> None:
    """The restricted profile of Kubernetes's pod security standards, and more."""
    pod = select(_render(name), "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert pod["automountServiceAccountToken"] is False
    for container in (*pod["initContainers"], *pod["containers"]):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"]["drop"] == ["ALL"]
        assert container["resources"]["limits"]["memory"]
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"


def test_the_network_policy_lets_the_proxy_in() -> None:
    documents = _render("proxy")
    (proxy,) = (
        each["spec"]["template"]["metadata"]["labels"]
        for each in documents
        if each["kind"] == "Deployment" and each["metadata"]["name"].endswith("-proxy")
    )
    policy = select(documents, "NetworkPolicy")["spec"]
    rule = policy["ingress"][0]
    wanted = rule["from"][0]["podSelector"]["matchLabels"]
    assert wanted.items() <= proxy.items()
    # Envoy asks for /ready (deploy/proxy/envoy.yaml)
    assert {each["port"] for each in rule["ports"]} == {Ports.grpc, HEALTH_PORT}
    guarded = policy["podSelector"]["matchLabels"]
    assert not guarded.items() <= proxy.items(), "the proxy takes requests from all"


def test_only_a_closed_server_is_not_exposed() -> None:
    assert "--exposed" in container_of(_render("default"))["args"]
    closed = container_of(_render("everything"))["args"]
    assert "--exposed" not in closed
    assert {"--tls-cert=/tls/tls.crt", "--token-file=/access/token"} <= set(closed)
