"""TLS and mTLS, against Triton's own gRPC endpoint and a Python HTTPS server."""

from __future__ import annotations

import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import trustme

from builders.repository.layout import Repository
from builders.serve.access import ServerTls
from builders.serve.tritonserver import Ports, TritonServer
from personserve import (
    AccessDeniedError,
    Client,
    IncompatibleServerError,
    InvalidInputError,
    Retry,
    ServerUnavailableError,
    Tls,
)

CROPS = np.zeros((1, 224, 224, 3), np.uint8)
ONCE = Retry(attempts=1)


@dataclass(frozen=True)
class Files:
    authority: Path
    server_certificate: Path
    server_key: Path
    client_certificate: Path
    client_key: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    for name in ("localhost", "client"):
        issued = authority.issue_cert(name, "127.0.0.1")
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
    return Files(
        folder / "authority.pem",
        folder / "localhost.pem",
        folder / "localhost.key",
        folder / "client.pem",
        folder / "client.key",
    )


def test_grpcs_with_both_sides_certified(repository: Repository, files: Files) -> None:
    server = TritonServer(
        repository,
        models=["person_gender"],
        ports=Ports.free(),
        cores=1,
        tls=ServerTls(files.server_certificate, files.server_key, files.authority),
    )
    ours = Tls(files.authority, files.client_certificate, files.client_key)
    with server:
        address = f"grpcs://localhost:{server.ports.grpc}"
        with Client(address, tls=ours) as client:
            found = client.infer("person_gender", {"crops": CROPS})
            assert found["female_probability"].shape == (1, 1)
        for tls in (Tls(files.authority), Tls(), ours):
            plain = address.replace("grpcs", "grpc" if tls is ours else "grpcs")
            with (
                Client(plain, tls=tls, retry=ONCE, timeout_s=5) as client,
                pytest.raises(ServerUnavailableError),
            ):
                client.models()
        # the supervisor has no certificate: it uses HTTP, which is closed to others
        probe, canaries = server.open_probe(), server.open_canaries()
        assert probe.ask("live", 5)
        assert canaries is not None
        canaries.send(30)
        assert canaries.failures == 0
        canaries.close()
        for page in ("health/live", "models/person_gender"):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(
                    f"http://127.0.0.1:{server.ports.http}/v2/{page}", timeout=120
                )


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        allowed = self.headers["Authorization"] == "Bearer sesame"
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(b"<html>no Triton</html>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def https(files: Files) -> Iterator[str]:
    """Asks for a certificate and a token, and is no Triton server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server_certificate, files.server_key)
    context.load_verify_locations(files.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    server = HTTPServer(("127.0.0.1", 0), _Answers)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"https://localhost:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_https_with_certificate_and_token(https: str, files: Files) -> None:
    ours = Tls(files.authority, files.client_certificate, files.client_key)
    tokens = iter(["Bearer sesame", "Bearer wrong"])
    with Client(
        https, tls=ours, headers=lambda: {"Authorization": next(tokens)}
    ) as client:
        with pytest.raises(IncompatibleServerError, match="as a Triton server"):
            client.describe("m")
        with pytest.raises(AccessDeniedError, match="401"):
            client.describe("m")
    for tls in (Tls(), Tls(files.authority)):
        with (
            Client(https, tls=tls, retry=ONCE) as client,
            pytest.raises(ServerUnavailableError),
        ):
            client.describe("m")


def test_tls_files_are_checked_when_they_are_named(files: Files) -> None:
    with pytest.raises(InvalidInputError, match="belong together"):
        Tls(cert_file=files.client_certificate)
    with pytest.raises(InvalidInputError, match=r"ca_file .*no such file"):
        Tls("nowhere.pem")
