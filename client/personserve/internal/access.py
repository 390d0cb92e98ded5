"""Access keys: how tools on this machine reach a local server's restricted endpoints.

`python -m builders serve` restricts the endpoints that change the server (model
control, shared memory, tracing, logging) and those that reveal its use (statistics).
They demand a header with a key that is made anew for each run and written to a file
that only the server's user can read. Clients, load tests and the builder's commands
read it there. Triton takes the key from its command line, so it protects against the
network and against web pages, not against other users of the same machine.
"""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

KEY_HEADER = "personserve-key"
"""Header over HTTP."""

GRPC_KEY_HEADER = f"triton-grpc-protocol-{KEY_HEADER}"
"""Metadata key over gRPC; Triton adds the prefix by itself."""

TOKEN_HEADER = "personserve-token"  # noqa: S105 - a name
GRPC_TOKEN_HEADER = f"triton-grpc-protocol-{TOKEN_HEADER}"

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})

RESTRICTED_ENDPOINTS = (
    "model-repository",
    "shared-memory",
    "statistics",
    "trace",
    "logging",
)
"""Triton's names of the endpoints that demand the key."""

TOKEN_ENDPOINTS = ("inference", "metadata", "model-config")
"""Triton's names of the endpoints that demand a token, where a deployment has one.
Health calls stay open, because probes and load balancers have no token."""


def token_headers(token: str) -> dict[str, str]:
    """Return the headers that carry a deployment's token, for a client's `headers`.

    Args:
        token: The token, as `python -m builders serve --token-file` reads it.

    Returns:
        The same token for gRPC and for HTTP; a server ignores the other's.
    """
    return {GRPC_TOKEN_HEADER: token, TOKEN_HEADER: token}


def read_access_key(host: str, port: int) -> str | None:
    """Return the key of the server that listens at an address of this machine.

    Args:
        host: Host name or IP address.
        port: Any of the server's ports.

    Returns:
        The key, or None for another machine or where no key of ours is found.
    """
    if host not in LOOPBACK_HOSTS:
        return None
    try:
        descriptor = os.open(_key_path(port), os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    with os.fdopen(descriptor, encoding="utf-8") as file:
        status = os.fstat(file.fileno())
        is_private = status.st_uid == os.getuid() and not status.st_mode & 0o077
        return file.read(256).strip() if is_private else None


def access_headers(host: str, port: int, *, is_grpc: bool) -> dict[str, str]:
    """Return the headers that restricted endpoints of a local server demand.

    Args:
        host: Host name or IP address.
        port: The port that the request goes to.
        is_grpc: Whether that port speaks gRPC.

    Returns:
        One header, or none where no key is found.
    """
    key = read_access_key(host, port)
    if key is None:
        return {}
    return {GRPC_KEY_HEADER if is_grpc else KEY_HEADER: key}


def generate_access_key() -> str:
    """Return a new random key."""
    return secrets.token_urlsafe(24)


@contextmanager
def published_access_key(key: str, ports: Sequence[int]) -> Iterator[None]:
    """Write a server's key where tools of the same user find it, until the block ends.

    Args:
        key: The key.
        ports: Ports of the server.
    """
    paths = [_key_path(port) for port in ports]
    for path in paths:
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(key)
    try:
        yield
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def _key_path(port: int) -> Path:
    return _key_folder() / f"{port}.key"


def _key_folder() -> Path:
    """Return a folder that belongs to this user alone.

    Raises:
        PermissionError: Another user owns it, or others can enter it.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    folder = (
        Path(base) / "personserve"
        if base
        else Path(tempfile.gettempdir()) / f"personserve-{os.getuid()}"
    )
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if (
        not stat.S_ISDIR(status.st_mode)
        or status.st_uid != os.getuid()
        or status.st_mode & 0o077
    ):
        raise PermissionError(
            f"{folder}: expected a folder that only this user can enter; remove it"
        )
    return folder
