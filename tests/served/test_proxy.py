"""Envoy, nginx and gRPC's own names in front of two real servers.

`python -m tests.deploy.chaos_proxy` is the long form, with three.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from builders.repository.layout import Repository
from personserve import AccessDeniedError, Retry
from personserve.internal.access import GRPC_KEY_HEADER, GRPC_TOKEN_HEADER
from tests.deploy.chaos_proxy import Load, embeddings
from tests.deploy.fleet import (
    MODEL,
    PATIENCE_S,
    TOKEN,
    Fleet,
    count_healthy,
    envoy_path,
    nginx_command,
    open_envoy,
    open_fleet,
    open_nginx,
    wait_until,
    write_envoy,
)
from tests.deploy.fleet import render as render_file

WAYS = ("envoy", "nginx", "dns")
SERVERS = 2
CALLS = 120
LEAST_SHARE = 0.25
"""Of two servers; the standard deviation by chance is 0.05."""

REFUSED = (
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "ModelStatistics",
    "TraceSetting",
    "LogSettings",
    *(f"{kind}SharedMemory{verb}" for kind in ("System", "Cuda")
      for verb in ("Status", "Register", "Unregister")),
)  # fmt: skip


@dataclass
class Deployment:
    fleet: Fleet
    addresses: dict[str, str]
    admin_port: int


@pytest.fixture(scope="module")
def deployment(repository: Repository) -> Iterator[Deployment]:
    with ExitStack() as stack:
        fleet = stack.enter_context(open_fleet(repository, SERVERS))
        envoy, admin_port = stack.enter_context(open_envoy(fleet))
        nginx = stack.enter_context(open_nginx(fleet))
        addresses = {"envoy": envoy, "nginx": nginx, "dns": fleet.dns_address}
        yield Deployment(fleet, addresses, admin_port)


@pytest.mark.parametrize("way", WAYS)
def test_one_channel_reaches_every_server(deployment: Deployment, way: str) -> None:
    fleet = deployment.fleet
    with fleet.open_client(deployment.addresses[way]) as client:
        before = fleet.count_answers()
        for _ in range(CALLS):
            client.infer(MODEL, embeddings())
        after = fleet.count_answers()
    counts = [b - a for a, b in zip(before, after, strict=True)]
    assert sum(counts) >= CALLS
    assert min(counts) > LEAST_SHARE * CALLS, counts


@pytest.mark.parametrize("way", ["envoy", "nginx"])
def test_calls_that_change_a_server_end_at_the_proxy(
    deployment: Deployment, way: str
) -> None:
    fleet = deployment.fleet
    address = deployment.addresses[way].removeprefix("grpcs://")
    credentials = grpc.ssl_channel_credentials(fleet.ca_file.read_bytes())
    # even with the key of a server, which its own file tells here
    metadata = ((GRPC_TOKEN_HEADER, TOKEN), (GRPC_KEY_HEADER, "any"))
    with grpc.secure_channel(address, credentials) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for name in REFUSED:
            message = getattr(service_pb2, f"{name}Request")()
            with pytest.raises(grpc.RpcError) as error:
                getattr(stub, name)(message, metadata=metadata)
            assert error.value.code() == grpc.StatusCode.PERMISSION_DENIED, name
            assert "restricted" not in str(error.value.details()), "a server refused it"


@pytest.mark.parametrize("way", ["envoy", "nginx"])
def test_without_the_token_only_health_is_told(
    deployment: Deployment, way: str
) -> None:
    fleet = deployment.fleet
    with fleet.open_client(deployment.addresses[way], token="x" * 32) as client:
        assert client.ready(timeout_s=PATIENCE_S)
        with pytest.raises(AccessDeniedError):
            client.infer(MODEL, embeddings())


@pytest.mark.parametrize("way", ["envoy", "nginx"])
def test_large_requests_and_headers_are_refused(
    deployment: Deployment, way: str
) -> None:
    fleet = deployment.fleet
    address = deployment.addresses[way].removeprefix("grpcs://")
    credentials = grpc.ssl_channel_credentials(fleet.ca_file.read_bytes())
    message = service_pb2.ModelInferRequest(model_name=MODEL)
    token = (GRPC_TOKEN_HEADER, TOKEN)
    with grpc.secure_channel(address, credentials) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(message, metadata=(token, ("large", "x" * 70_000)))
        message.raw_input_contents.append(bytes(33 * 2**20))
        with pytest.raises(grpc.RpcError) as error:
            stub.ModelInfer(message, metadata=(token,))
        assert "expected" not in str(error.value.details()), "a server has read it"
    with fleet.open_client(deployment.addresses[way]) as client:
        client.infer(MODEL, embeddings())  # the proxy has not suffered


def test_a_server_that_leaves_the_name_leaves_the_proxy(
    deployment: Deployment,
) -> None:
    fleet = deployment.fleet
    log = fleet.folder / "envoy.log"
    gone = fleet.names.addresses.pop()
    try:
        wait_until(lambda: count_healthy(deployment.admin_port) == SERVERS - 1, log)
        with fleet.open_client(deployment.addresses["envoy"]) as client:
            client.infer(MODEL, embeddings())
    finally:
        fleet.names.addresses.append(gone)
    wait_until(lambda: count_healthy(deployment.admin_port) == SERVERS, log)


def test_the_files_are_valid(deployment: Deployment, tmp_path: Path) -> None:
    fleet = deployment.fleet
    values = fleet.values()
    envoy = [str(envoy_path()), "--mode", "validate", "-c"]
    checked = subprocess.run(
        [*envoy, str(write_envoy(fleet, values))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    assert "warning" not in checked.stderr, "a setting that Envoy will drop"
    path = tmp_path / "nginx.conf"
    path.write_text(render_file("nginx.conf", values))
    checked = subprocess.run(
        [*nginx_command(path), "-t"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "warn" not in checked.stderr


def test_no_call_fails_when_a_server_is_killed(deployment: Deployment) -> None:
    fleet = deployment.fleet
    with ExitStack() as stack:
        loads = []
        for address in deployment.addresses.values():
            client = stack.enter_context(fleet.open_client(address))
            loads.append(stack.enter_context(Load(client, callers=2)))
            loads[-1].start_stream()
        for each in loads:
            each.wait_for(CALLS // 4)
        (pid,) = fleet.servers[-1].triton_pids()
        os.kill(pid, signal.SIGKILL)
        for each in loads:
            each.wait_for(CALLS)
    for each in loads:
        assert each.outcome.failed == 0, each.outcome.text()


def test_envoy_repeats_what_a_server_refuses_that_has_unloaded_its_model(
    deployment: Deployment,
) -> None:
    fleet = deployment.fleet
    address = deployment.addresses["envoy"]
    log = fleet.folder / "envoy.log"
    wait_until(lambda: count_healthy(deployment.admin_port) == SERVERS, log)
    (pid,) = fleet.servers[0].triton_pids()
    with (
        fleet.open_client(address, retry=Retry(attempts=1)) as client,
        Load(client, callers=3) as load,
    ):
        load.wait_for(CALLS // 4)
        # Triton unloads its models, closes its port some time later, and ends
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: pid not in fleet.servers[0].triton_pids(), log)
        load.wait_for(load.count + CALLS // 4)
    refused = [each for each in load.outcome.calls if "no available version" in each]
    assert not refused, load.outcome.text()
