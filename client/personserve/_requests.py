"""What is asked of a server, and what it says of its models: no wire yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Region:
    """A tensor that lies in memory registered with the server as `region`."""

    region: str
    offset: int
    byte_size: int
    data_type: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Infer:
    """Run `model` on `inputs`; the reply is {output: array}. `repeatable` ones may be
    sent again when nobody knows whether they arrived.
    """

    model: str
    inputs: Mapping[str, Array | Region]
    request_id: str = ""
    repeatable: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DescribeModel:
    """Ask how `model` is configured; the reply is a ModelDescription."""

    model: str


@dataclass(frozen=True)
class ListModels:
    """Ask what is in the server's repository; the reply is a tuple of ModelState."""


@dataclass(frozen=True)
class Ready:
    """Ask whether `model`, or the server, can answer; the reply is a bool."""

    model: str | None = None


@dataclass(frozen=True)
class RegisterMemory:
    """Have the server map the shared memory file `key` as `region`; no reply."""

    region: str
    key: str
    byte_size: int


@dataclass(frozen=True)
class UnregisterMemory:
    """Have the server let go of `region`; no reply."""

    region: str


@dataclass(frozen=True)
class ListMemory:
    """Ask which regions are registered; the reply is a tuple of their names."""


Request = (
    Infer
    | DescribeModel
    | ListModels
    | Ready
    | RegisterMemory
    | UnregisterMemory
    | ListMemory
)


@dataclass(frozen=True)
class TensorDescription:
    """A tensor of the server's model; -1 is a dimension that varies. `shape` is
    without the batch dimension where the model batches.
    """

    name: str
    data_type: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelDescription:
    """What the server's config says about a model. What a `stateful` one answers
    depends on the requests before.
    """

    name: str
    max_batch_size: int
    inputs: Sequence[TensorDescription]
    outputs: Sequence[TensorDescription]
    parameters: Mapping[str, str]
    stateful: bool = False


@dataclass(frozen=True)
class ModelState:
    """A model in the server's repository. `reason` says why one is not `ready`."""

    name: str
    version: str
    ready: bool
    reason: str = ""
