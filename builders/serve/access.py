"""Access to a server: TLS, tokens, and the endpoints that are off or restricted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from builders.serve.errors import ServeError
from personserve.internal.access import (
    KEY_HEADER,
    RESTRICTED_ENDPOINTS,
    TOKEN_ENDPOINTS,
    TOKEN_HEADER,
)

HEALTH = "health"

MIN_TOKEN_CHARS = 16


@dataclass(frozen=True)
class ServerTls:
    """Certificate and key files (PEM) of the gRPC endpoint.

    Attributes:
        cert_file: The server's certificate, with its chain.
        key_file: Private key of `cert_file`.
        ca_file: Authorities whose clients may connect (mTLS); None for any client.

    Raises:
        ServeError: A file is missing.
    """

    cert_file: Path
    key_file: Path
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        options = {"cert": self.cert_file, "key": self.key_file, "ca": self.ca_file}
        for name, path in options.items():
            if path is not None and not path.is_file():
                raise ServeError(f"--tls-{name} {path}: no such file")

    def arguments(self) -> list[str]:
        """Return tritonserver's arguments."""
        files = [
            "--grpc-use-ssl=true",
            f"--grpc-server-cert={self.cert_file}",
            f"--grpc-server-key={self.key_file}",
        ]
        if self.ca_file is not None:
            files += [
                "--grpc-use-ssl-mutual=true",
                f"--grpc-root-cert={self.ca_file}",
            ]
        return files


def read_token(path: Path) -> str:
    """Read the token that clients of a deployment send.

    Args:
        path: File with one line.

    Raises:
        ServeError: It cannot be read, or is no token that HTTP and gRPC can carry.
    """
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ServeError(f"--token-file {path}: {exc}") from exc
    # Triton ends the list of endpoints at the first colon and the name at the first =
    if len(token) < MIN_TOKEN_CHARS or not token.isprintable() or " " in token:
        raise ServeError(
            f"--token-file {path}: expected one line of at least {MIN_TOKEN_CHARS} "
            "printable ASCII characters without spaces, for example the output of "
            "`openssl rand -hex 32`"
        )
    return token


def restrictions(key: str, token: str | None) -> Iterator[str]:
    """Yield what tritonserver's options for restricted endpoints take.

    Args:
        key: Key of this run, for the endpoints that change the server.
        token: Token of the deployment, for inference; None for no token.
    """
    yield f"{','.join(RESTRICTED_ENDPOINTS)}:{KEY_HEADER}={key}"
    if token is not None:
        yield f"{','.join(TOKEN_ENDPOINTS)}:{TOKEN_HEADER}={token}"


def restrict_everything(key: str) -> str:
    """Return the option value that leaves an endpoint to the supervisor alone.

    Args:
        key: Key of this run.
    """
    endpoints: Sequence[str] = (*RESTRICTED_ENDPOINTS, *TOKEN_ENDPOINTS, HEALTH)
    return f"{','.join(endpoints)}:{KEY_HEADER}={key}"
