"""What is asked of a server, and what it says of its models: no wire yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

Memory = Literal["system", "cuda"]
"""What client and server can share: /dev/shm, or a GPU's memory."""


class OnGpu(Protocol):
    """An array on a GPU: of torch, CuPy, Numba."""

    @property
    def __cuda_array_interface__(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class DeviceArray:
    """A contiguous array on a GPU, at address `pointer`; `owner` keeps it there."""

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Any = field(repr=False)

    @classmethod
    def of(cls, value: Any) -> DeviceArray | None:
        """From what is OnGpu, None otherwise. Raises ValueError for one with gaps."""
        found = getattr(value, "__cuda_array_interface__", None)
        if found is None:
            return None
        if found.get("strides") is not None:
            raise ValueError("not contiguous on the GPU: make it so first")
        pointer, _ = found["data"]
        return cls(pointer, tuple(found["shape"]), np.dtype(found["typestr"]), value)

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def needs_cuda(self) -> str:
        """What to say where it cannot be sent."""
        return (
            f'an array {list(self.shape)} on the GPU needs shared_memory="cuda" and '
            "a server on the same GPU; copy it to the host to send it over a wire"
        )


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
    inputs: Mapping[str, Array | DeviceArray | Region]
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
    """Have the server map memory as `region`; no reply. `key` is the name of a file in
    /dev/shm, or the CUDA IPC handle of memory on `gpu`.
    """

    region: str
    key: str | bytes
    byte_size: int
    gpu: int | None = None

    @property
    def memory(self) -> Memory:
        """Its kind."""
        return "system" if self.gpu is None else "cuda"


@dataclass(frozen=True)
class UnregisterMemory:
    """Have the server let go of `region`; no reply."""

    region: str
    memory: Memory = "system"


@dataclass(frozen=True)
class ListMemory:
    """Ask which regions are registered; the reply is a tuple of their names."""

    memory: Memory = "system"


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
