"""Control of a running server's models, through Triton's model repository API.

The server must run with `--model-control-mode=explicit`, as `serve` starts it, and read
the model repository that the commands work on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builders.errors import BuildersError
from personserve import Client, Tls
from personserve.internal.access import (
    GRPC_KEY_HEADER,
    access_headers,
    token_headers,
)

if TYPE_CHECKING:
    from typing_extensions import Self

LOAD_TIMEOUT_S = 300.0
CALL_TIMEOUT_S = 30.0
POLL_INTERVAL_S = 0.05

READY, UNLOADING = "READY", "UNLOADING"
"""States of a model version in Triton's index."""


class RolloutError(BuildersError, RuntimeError):
    """A rollout or rollback failed; the message names the version in service."""


class LoadError(RolloutError):
    """The server could not load a model; the version before stays in service."""


@dataclass(frozen=True)
class ServerAccess:
    """Address and credentials of a server.

    Attributes:
        address: host:port of its gRPC endpoint; grpcs://host:port with TLS.
        ca_file: Certificates that the server's certificate is checked against; None
            for those of the system.
        key: Key of the endpoints that change the server; None for the key of the
            server that `serve` started on this machine.
        token: Token of its clients; None if it demands none.
    """

    address: str
    ca_file: Path | None = None
    key: str | None = None
    token: str | None = None

    @property
    def has_tls(self) -> bool:
        """Whether the endpoint is encrypted."""
        return self.address.startswith("grpcs://")

    @property
    def host_port(self) -> str:
        """The address without its scheme."""
        return self.address.rpartition("://")[2]

    def headers(self) -> dict[str, str]:
        """Return the headers of requests that change the server."""
        headers = {} if self.token is None else token_headers(self.token)
        if self.key is not None:
            return headers | {GRPC_KEY_HEADER: self.key}
        host, _, port = self.host_port.rpartition(":")
        if not port.isdecimal():
            raise RolloutError(f"--server {self.address}: expected host:port")
        return headers | access_headers(host, int(port), is_grpc=True)

    def open_client(self) -> Client:
        """Return a client for inference."""
        scheme = "grpcs" if self.has_tls else "grpc"
        return Client(
            f"{scheme}://{self.host_port}",
            timeout_s=CALL_TIMEOUT_S,
            tls=Tls(ca_file=self.ca_file),
            headers={} if self.token is None else token_headers(self.token),
        )


@dataclass
class ModelControl:
    """Connection to the model control of a server, as a context manager.

    Attributes:
        access: The server.
    """

    access: ServerAccess

    def __post_init__(self) -> None:
        from tritonclient.grpc import InferenceServerClient

        self.access.headers()  # an address without a port is an error here
        ca_file = self.access.ca_file
        self._server = InferenceServerClient(
            self.access.host_port,
            ssl=self.access.has_tls,
            root_certificates=None if ca_file is None else str(ca_file),
        )

    @property
    def _headers(self) -> dict[str, str]:
        # read for each call: a server that was restarted has another key
        return self.access.headers()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def list_versions(self, state: str = READY) -> dict[str, int]:
        """Return the highest version of each model that is in a state.

        Args:
            state: State in Triton's index.
        """
        with self._reporting(RolloutError, "list the models"):
            index = self._server.get_model_repository_index(
                headers=self._headers, client_timeout=CALL_TIMEOUT_S
            )
        versions: dict[str, int] = {}
        for each in index.models:
            if each.state == state:
                number = max(int(each.version), versions.get(each.name, 0))
                versions[each.name] = number
        return versions

    def read_config(self, model: str) -> dict[str, Any]:
        """Return the configuration that the server runs a model with.

        Args:
            model: Name of the model.
        """
        with self._reporting(RolloutError, f"describe {model}"):
            reply: dict[str, Any] = self._server.get_model_config(
                model,
                headers=self._headers,
                as_json=True,
                client_timeout=CALL_TIMEOUT_S,
            )
        config: dict[str, Any] = reply["config"]
        return config

    def load(
        self,
        model: str,
        config: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Load a model, beside its version that serves until the new one is ready.

        Args:
            model: Name of the model.
            config: Configuration to use; None for the one in the repository.
            files: Contents by "file:VERSION/NAME" to use; None for the repository.

        Raises:
            LoadError: The model does not load.
        """
        with self._reporting(LoadError, f"load {model}"):
            self._server.load_model(
                model,
                headers=self._headers,
                config=None if config is None else json.dumps(config),
                files=None if files is None else dict(files),
                client_timeout=LOAD_TIMEOUT_S,
            )

    def unload(self, model: str) -> None:
        """Unload a model, and wait until its requests are answered.

        Args:
            model: Name of the model.
        """
        with self._reporting(RolloutError, f"unload {model}"):
            self._server.unload_model(
                model, headers=self._headers, client_timeout=CALL_TIMEOUT_S
            )
        deadline = time.monotonic() + CALL_TIMEOUT_S
        while time.monotonic() < deadline and (
            model in self.list_versions() or model in self.list_versions(UNLOADING)
        ):
            time.sleep(POLL_INTERVAL_S)

    @contextmanager
    def _reporting(self, error: type[RolloutError], what: str) -> Iterator[None]:
        from tritonclient.utils import InferenceServerException

        try:
            yield
        except InferenceServerException as exc:
            raise self._describe(exc, error, what) from exc

    def _describe(self, exc: Any, error: type[RolloutError], what: str) -> RolloutError:
        text = str(exc.message() or exc).strip().partition("\n")[0]
        if "restricted" in text:
            return RolloutError(
                f"{self.access.address} demands a key to {what}; run this on the "
                "server's machine as the user who started it, or pass --key-file"
            )
        if "explicit model" in text:
            return RolloutError(
                f"{self.access.address} does not allow model control ({text}); start "
                "it with --model-control-mode=explicit"
            )
        if exc.status() in {"StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED"}:
            return RolloutError(f"{self.access.address} does not {what}: {text}")
        return error(f"{self.access.address} cannot {what}: {text}")
