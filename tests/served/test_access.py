"""Restricted endpoints: what a neighbour on the network or a web page cannot do."""

from __future__ import annotations

import json
import stat
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from builders.repository.layout import Repository
from builders.serve.access import ServerTls, read_token
from builders.serve.endpoints import Endpoints
from builders.serve.tritonserver import Ports, ServeError, TritonServer
from personserve import AccessDeniedError, Client, token_headers
from personserve.internal import access

EVERYWHERE = "0.0.0.0"  # noqa: S104 - nothing is bound to it
CODE = "open('/tmp/personserve-was-here', 'w')"
MODEL = "person_preprocess"


class _NoErrors(urllib.request.HTTPErrorProcessor):
    """Return every response, whatever its status."""

    def http_response(self, _request, response):
        return response


def _post(server: TritonServer, path: str, headers: dict[str, str]) -> int:
    body = json.dumps(
        {"parameters": {"config": "{}", "file:1/model.py": CODE}}
    ).encode()
    request = urllib.request.Request(
        f"http://{server.http_address}/v2/{path}", body, headers, method="POST"
    )
    opener = urllib.request.build_opener(_NoErrors)
    with opener.open(request, timeout=120) as response:
        return int(response.status)


PATHS = [
    f"repository/models/{MODEL}/load",
    f"repository/models/{MODEL}/unload",
    "repository/index",
    "systemsharedmemory/region/x/register",
    "cudasharedmemory/unregister",
    "trace/setting",
    "logging",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        # what a web page can send without a preflight request
        {"Content-Type": "text/plain", "Origin": "https://example.org"},
        {access.KEY_HEADER: "guess"},
    ],
    ids=["bare", "web page", "wrong key"],
)
def test_http_endpoints_demand_the_key(
    server: TritonServer, path: str, headers: dict[str, str]
) -> None:
    assert _post(server, path, headers) == 403


def test_grpc_endpoints_demand_the_key(server: TritonServer) -> None:
    requests = {
        "RepositoryModelLoad": service_pb2.RepositoryModelLoadRequest(model_name=MODEL),
        "RepositoryModelUnload": service_pb2.RepositoryModelUnloadRequest(
            model_name=MODEL
        ),
        "RepositoryIndex": service_pb2.RepositoryIndexRequest(),
        "SystemSharedMemoryStatus": service_pb2.SystemSharedMemoryStatusRequest(),
        "TraceSetting": service_pb2.TraceSettingRequest(),
        "LogSettings": service_pb2.LogSettingsRequest(),
        "ModelStatistics": service_pb2.ModelStatisticsRequest(),
    }
    with grpc.insecure_channel(server.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for method, request in requests.items():
            with pytest.raises(grpc.RpcError) as caught:
                getattr(stub, method)(request, timeout=120)
            assert "restricted" in caught.value.details(), method


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_tools_of_the_same_user_find_the_key(
    scheme: str, server: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = server.grpc_address if scheme == "grpc" else server.http_address
    with Client(f"{scheme}://{address}", timeout_s=30) as client:
        assert client.models()
        monkeypatch.setattr(access, "_key_path", lambda _port: access.Path("/nowhere"))
        with pytest.raises(AccessDeniedError, match="restricted"):
            client.models()


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_without_the_key_frames_take_the_wire(
    scheme: str,
    server: TritonServer,
    photograph: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = server.grpc_address if scheme == "grpc" else server.http_address
    monkeypatch.setattr(access, "_key_path", lambda _port: access.Path("/nowhere"))
    with Client(
        f"{scheme}://{address}", timeout_s=60, shared_memory="system"
    ) as client:
        people = client.attributes(photograph, [[20, 5, 500, 512]])
    assert len(people) == 1


def test_only_the_user_reads_the_key(server: TritonServer) -> None:
    for port in vars(server.ports).values():
        path = access._key_path(port)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o644)
    assert access.read_access_key("127.0.0.1", port) is None
    path.chmod(0o600)
    assert access.read_access_key("127.0.0.1", port)
    assert access.read_access_key("192.0.2.1", port) is None


def test_a_key_lasts_as_long_as_its_server() -> None:
    with access.published_access_key("secret", [1]):
        assert access.read_access_key("localhost", 1) == "secret"
    assert access.read_access_key("localhost", 1) is None


@pytest.fixture
def tls(tmp_path: Path) -> ServerTls:
    for name in ("cert", "key", "ca"):
        (tmp_path / name).touch()
    return ServerTls(tmp_path / "cert", tmp_path / "key")


def test_the_network_is_not_reached_by_accident(tls: ServerTls) -> None:
    def check(**settings: Any) -> None:
        Endpoints(host="192.0.2.1", **settings).check()

    with pytest.raises(ServeError, match=r"without TLS .* and authenticat.*--exposed"):
        check()
    with pytest.raises(ServeError, match=r"server without authentication"):
        check(tls=tls)
    with pytest.raises(ServeError, match=r"server without TLS \(--tls-cert"):
        check(token="t" * 32)
    check(tls=tls, token="t" * 32)
    check(tls=replace(tls, ca_file=tls.cert_file.with_name("ca")))
    check(exposed=True)
    Endpoints(host="::1").check()
    with pytest.raises(ServeError, match="HTTP endpoint has no TLS"):
        Endpoints(http=True, tls=tls).check()
    with pytest.raises(ServeError, match=r"--tls-key .*no such file"):
        ServerTls(tls.cert_file, Path("nowhere.pem"))


def test_http_is_off_unless_asked_for(tls: ServerTls) -> None:
    arguments = set(Endpoints().arguments("key"))
    assert "--allow-http=false" in arguments
    assert "http" not in Endpoints().listening
    exposed = Endpoints(host=EVERYWHERE, http=True, exposed=True)
    assert exposed.listening["http"] == (EVERYWHERE, 8000)
    assert exposed.listening["metrics"] == ("127.0.0.1", 8002), "never the network"
    inner = Endpoints(host=EVERYWHERE, tls=tls)
    assert inner.listening["http"] == ("127.0.0.1", 8000), "for the supervisor"
    (restricted,) = (a for a in inner.arguments("key") if "--http-restricted" in a)
    for endpoint in ("health", "inference", "metadata", "model-repository"):
        assert endpoint in restricted.partition(":")[0]


@pytest.mark.parametrize("text", ["", "short", "two words " * 3, "\N{SNOWMAN}" * 20])
def test_tokens_are_checked(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text("a" * 32 + "\n")
    assert read_token(path) == "a" * 32
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ServeError, match="--token-file"):
        read_token(path)


def test_a_token_is_demanded_for_inference(repository: Repository) -> None:
    crops = {"crops": np.zeros((1, 224, 224, 3), np.uint8)}
    server = TritonServer(
        repository,
        models=["person_gender"],
        ports=Ports.free(),
        cores=1,
        http=True,
        token="t" * 32,
    )
    with server:
        for address in (server.grpc_address, f"http://{server.http_address}"):
            with Client(address, headers=token_headers("t" * 32)) as client:
                assert client.infer("person_gender", crops)
            for headers in ({}, token_headers("u" * 32)):
                with Client(address, headers=headers) as client:
                    assert client.ready(), "probes have no token"
                    with pytest.raises(AccessDeniedError):
                        client.infer("person_gender", crops)
        canaries = server.open_canaries()
        assert canaries is not None
        canaries.send(30)
        assert canaries.failures == 0
        canaries.close()
