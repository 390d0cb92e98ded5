"""Requests to a server and its model descriptions, independent of the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from personserve._errors import IncompatibleServerError
from personserve.images.crops import CropShape

Array = npt.NDArray[Any]
"""A NumPy array of any data type."""

MAX_CROP_EDGE = 4096
"""Largest height or width of a network's crops in pixels."""

FRAME_INPUTS = frozenset({"encoded_frame", "raw_frame", "frame_size", "boxes"})
"""Inputs of the models that take a frame and the boxes of its people."""

MemoryKind = Literal["system", "cuda"]
"""Memory that client and server can share: /dev/shm, or a GPU's memory."""


class GpuArray(Protocol):
    """A contiguous array on a GPU, of torch, CuPy or Numba."""

    @property
    def __cuda_array_interface__(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class DeviceArray:
    """Address, shape and data type of a contiguous array on a GPU.

    Attributes:
        pointer: Device address of the first value.
        shape: Dimensions.
        dtype: NumPy data type of the values.
        owner: The array object, referenced to keep its memory allocated.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Any = field(repr=False)

    @classmethod
    def from_object(cls, value: Any) -> DeviceArray | None:
        """Read an object's `__cuda_array_interface__`.

        Args:
            value: Any object.

        Returns:
            Where the array is, or None if `value` is not an array on a GPU.

        Raises:
            ValueError: If the array is not contiguous.
        """
        interface = getattr(value, "__cuda_array_interface__", None)
        if interface is None:
            return None
        if interface.get("strides") is not None:
            raise ValueError("not contiguous on the GPU: make it contiguous first")
        pointer, _ = interface["data"]
        dtype = np.dtype(interface["typestr"])
        return cls(pointer, tuple(interface["shape"]), dtype, value)

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @property
    def refusal(self) -> str:
        """Error message for transports that need the array on the host."""
        return (
            f'an array {list(self.shape)} on the GPU needs shared_memory="cuda" and '
            "a server on the same GPU; copy it to the host to send it over a wire"
        )


@dataclass(frozen=True)
class SharedTensor:
    """A tensor in shared memory that is registered with the server.

    Attributes:
        region: Name under which the memory is registered.
        offset: Position of the first value in the region, in bytes.
        size_bytes: Size of the tensor in bytes.
        dtype: NumPy data type of the values.
        shape: Dimensions.
    """

    region: str
    offset: int
    size_bytes: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Infer:
    """Run a model. The reply is a dict of output arrays by name, such as Outputs.

    Attributes:
        model: Name of the model.
        inputs: Input tensors by name.
        request_id: Id of the request, for logs and traces.
        repeatable: Whether the request may be sent again when it is unknown whether
            the first one was executed; False for stateful models.
        headers: Headers of this request, such as its trace context.
        max_reply_bytes: Size in bytes above which the reply is refused, or None for
            the transport's own limit.
        endpoint: Address that the inputs were prepared for; the request goes to another
            one only if that does not answer. Empty for any.
    """

    model: str
    inputs: Mapping[str, Array | DeviceArray | SharedTensor]
    request_id: str = ""
    repeatable: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)
    max_reply_bytes: int | None = None
    endpoint: str = field(default="", repr=False, compare=False)


class Outputs(dict[str, Array]):
    """Output arrays of an inference by name.

    Attributes:
        model_version: Version of the model that answered; empty if unknown.
        endpoint: Address of the server that answered; empty if unknown.
    """

    model_version: str = ""
    endpoint: str = ""


@dataclass(frozen=True)
class DescribeModel:
    """Read a model's configuration. The reply is a ModelDescription.

    Attributes:
        model: Name of the model.
        endpoint: Address to ask first; empty for any.
    """

    model: str
    endpoint: str = field(default="", repr=False, compare=False)


@dataclass(frozen=True)
class ListModels:
    """List the server's model repository. The reply is a tuple of ModelState."""


@dataclass(frozen=True)
class Ready:
    """Check whether the server or a model is ready. The reply is a bool.

    Attributes:
        model: Name of the model, or None for the server.
    """

    model: str | None = None


@dataclass(frozen=True)
class RegisterMemory:
    """Map shared memory into the server. There is no reply value.

    Attributes:
        region: Name under which requests refer to the memory.
        key: Name of a file in /dev/shm with a leading slash, or a CUDA IPC handle.
        size_bytes: Size of the memory in bytes.
        gpu: Number of the GPU that the memory is on, or None for /dev/shm.
    """

    region: str
    key: str | bytes
    size_bytes: int
    gpu: int | None = None

    @property
    def memory(self) -> MemoryKind:
        """The kind of memory."""
        return "system" if self.gpu is None else "cuda"


@dataclass(frozen=True)
class UnregisterMemory:
    """Unmap shared memory from the server. There is no reply value.

    Attributes:
        region: Name under which the memory is registered.
        memory: The kind of memory.
    """

    region: str
    memory: MemoryKind = "system"


@dataclass(frozen=True)
class ListMemory:
    """List the registered shared memory. The reply is a tuple of region names.

    Attributes:
        memory: The kind of memory.
    """

    memory: MemoryKind = "system"


MAX_SERVER_TIMEOUT_S = 1e6
"""Longest timeout that is sent to a server. Triton computes with its nanoseconds."""


def server_timeout_us(timeout_s: float) -> int:
    """Return Triton's request parameter `timeout` for a client's timeout.

    Args:
        timeout_s: Seconds that the client waits.

    Returns:
        Microseconds, at least 1, because 0 means no limit.
    """
    return max(1, int(min(timeout_s, MAX_SERVER_TIMEOUT_S) * 1e6))


MemoryRequest = RegisterMemory | UnregisterMemory | ListMemory
"""The requests that a transport gets only if the client shares memory."""

Request = Infer | DescribeModel | ListModels | Ready | MemoryRequest
"""Everything that a transport can be given to send."""


@dataclass(frozen=True)
class TensorDescription:
    """An input or output tensor of a model.

    Attributes:
        name: Name of the tensor.
        data_type: Triton's name of the data type, for example "FP32" or "UINT8".
        shape: Dimensions, without the batch dimension if the model batches; -1 is a
            dimension of variable size.
        optional: Whether a request may leave the input out.
    """

    name: str
    data_type: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class ModelDescription:
    """A model's configuration on the server.

    Attributes:
        name: Name of the model.
        max_batch_size: Largest batch of one request; 0 if the model does not batch.
        inputs: Input tensors.
        outputs: Output tensors.
        parameters: The configuration's free-form parameters.
        stateful: Whether answers depend on earlier requests (sequence batching).
        endpoint: Address of the server that it describes; empty if unknown.
    """

    name: str
    max_batch_size: int
    inputs: Sequence[TensorDescription]
    outputs: Sequence[TensorDescription]
    parameters: Mapping[str, str]
    stateful: bool = False
    endpoint: str = field(default="", repr=False, compare=False)

    @property
    def stand_in_weights(self) -> tuple[str, ...]:
        """Names of the networks in it that run on untrained stand-in weights."""
        names = self.parameters.get("stand_in_weights", "")
        return tuple(names.split(",")) if names else ()

    @property
    def takes_frames(self) -> bool:
        """Whether the model takes a frame and boxes: it fits `Client.attributes`."""
        needed = {tensor.name for tensor in self.inputs if not tensor.optional}
        names = {tensor.name for tensor in self.inputs}
        returns_crops = any(tensor.data_type == "UINT8" for tensor in self.outputs)
        return needed <= FRAME_INPUTS <= names and not returns_crops

    @property
    def takes_crops(self) -> bool:
        """Whether the model takes crops: it fits `Client.attributes_of_crops`."""
        return bool(self.inputs) and all(
            tensor.data_type == "UINT8"
            and len(tensor.shape) == 3
            and f"{tensor.name}.interpolation" in self.parameters
            for tensor in self.inputs
        )

    def parameter(self, name: str) -> str:
        """Return the value of a parameter that this client needs.

        Args:
            name: Name of the parameter.

        Returns:
            Its value.

        Raises:
            IncompatibleServerError: If the model does not have the parameter.
        """
        if name not in self.parameters:
            raise self.lacks(name)
        return self.parameters[name]

    def crop_shape(self, tensor: str) -> CropShape:
        """Return the size and the resizing method of the crops that an input takes.

        Args:
            tensor: Name of the input.

        Returns:
            Height, width and interpolation.

        Raises:
            IncompatibleServerError: If the model does not have the input, or does not
                say how its crops are resized.
        """
        shapes = {each.name: each.shape for each in self.inputs}
        if tensor not in shapes:
            raise self.lacks(tensor)
        shape = shapes[tensor][-3:]
        edges = shape[:2]
        if shape[2:] != (3,) or not all(0 < size <= MAX_CROP_EDGE for size in edges):
            raise self.unusable(tensor, "crops [height, width, 3]", list(shape))
        height, width, _ = shape
        interpolation = self.parameter(f"{tensor}.interpolation")
        edge = None
        if (name := f"{tensor}.shorter_edge") in self.parameters:
            edge = self.integer_parameter(name, MAX_CROP_EDGE)
            if edge < max(height, width):
                raise self.unusable(name, f"at least {max(height, width)}", edge)
        try:
            return CropShape(height, width, interpolation, edge)
        except ValueError as exc:
            raise IncompatibleServerError(f"{tensor}: {exc}", model=self.name) from exc

    def integer_parameter(self, name: str, maximum: int = (1 << 31) - 1) -> int:
        """Return the value of a parameter that is a positive integer.

        Args:
            name: Name of the parameter.
            maximum: Largest possible value.

        Returns:
            Its value.

        Raises:
            IncompatibleServerError: If the model does not have the parameter, or its
                value is not an integer from 1 to the maximum.
        """
        text = self.parameter(name)
        # int() alone also accepts signs, spaces and numbers of thousands of digits
        if not (text.isascii() and text.isdigit() and len(text) <= 10):
            raise self.unusable(name, "a positive integer", text)
        if not 1 <= int(text) <= maximum:
            raise self.unusable(name, f"an integer from 1 to {maximum}", text)
        return int(text)

    def lacks(self, name: str) -> IncompatibleServerError:
        """Build the error for something that this client needs and the model lacks.

        Args:
            name: Name of the tensor or parameter.

        Returns:
            The error, to be raised by the caller.
        """
        return IncompatibleServerError(
            f"the server's model has no {name}; this client needs the model "
            "repository of its own version",
            model=self.name,
        )

    def unusable(self, name: str, expected: str, value: Any) -> IncompatibleServerError:
        """Build the error for a tensor or parameter that this client cannot use.

        Args:
            name: Name of the tensor or parameter.
            expected: What this client needs.
            value: What the model has, or what its answer contained.

        Returns:
            The error, to be raised by the caller.
        """
        return IncompatibleServerError(
            f"{name}: expected {expected}, got {str(value)[:200]}", model=self.name
        )


@dataclass(frozen=True)
class ModelState:
    """The state of a model in the server's repository.

    Attributes:
        name: Name of the model.
        version: Version, empty if no version is loaded.
        ready: Whether the version answers requests.
        reason: Why it does not.
    """

    name: str
    version: str
    ready: bool
    reason: str = ""
