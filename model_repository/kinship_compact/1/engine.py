# Rendered by `python -m builders render` from builders/tensorrt/engine.py; edit that file.
"""Plan execution: a TensorRT engine with buffers that are allocated once.

The server runs a copy of this file next to Triton's Python model, so it imports only
NumPy, cuda-bindings and the TensorRT module that its caller passes in, and it is one
file although it is longer than 300 lines. For the same reason EngineError is not a
BuildersError: inside builders, `Library.load_engine` raises PlanError instead.

An inference is `put` for each input (several times where a batch is put together from
parts), then `run`.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

VERSION_MISMATCH = ("version tag", "Version tag", "serialization version", "magic tag")
"""Parts of TensorRT's error messages for plans of another version."""

MAX_GRAPHS = 16
"""Largest number of CUDA graphs, one per batch size; small batches gain most."""


class EngineError(RuntimeError):
    """A plan cannot be loaded or run; the message gives the reason and a fix."""


@dataclass(frozen=True)
class Gpu:
    """The GPU of this machine that runs plans.

    Attributes:
        name: Product name, for example "NVIDIA H200".
        capability: Compute capability, for example "sm_90".
        driver: CUDA version of the driver, for example "CUDA 13.0".
    """

    name: str
    capability: str
    driver: str


def current_gpu() -> Gpu | None:
    """Return the first GPU.

    Returns:
        The GPU, or None if there is no GPU, no driver or no cuda-bindings package.
    """
    try:
        from cuda.bindings import runtime
    except ImportError:
        return None
    status, count = runtime.cudaGetDeviceCount()
    if int(status) != 0 or count == 0:
        return None
    _, properties = runtime.cudaGetDeviceProperties(0)
    _, driver = runtime.cudaDriverGetVersion()
    return Gpu(
        properties.name.decode(),
        f"sm_{properties.major}{properties.minor}",
        f"CUDA {driver // 1000}.{driver % 1000 // 10}",
    )


@dataclass
class _Binding:
    """One tensor of the engine: its shape without the batch, and its two buffers."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    device: int
    host: Array

    @property
    def item_bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize


class Engine:
    """A loaded plan with buffers for its largest batch and one CUDA stream.

    Attributes:
        inputs: Input tensors by name.
        outputs: Output tensors by name.
        max_batch: Largest batch of the plan.
    """

    def __init__(self, trt: Any, plan: bytes, device_id: int = 0) -> None:
        """Load a plan on a GPU.

        Args:
            trt: The module `tensorrt` or `tensorrt_rtx`, of the version that built the
                plan.
            plan: Content of the plan file.
            device_id: Ordinal of the GPU, among those that CUDA_VISIBLE_DEVICES leaves.

        Raises:
            EngineError: If there is no GPU, or this TensorRT or GPU cannot load the
                plan.
        """
        self._trt = trt
        self._cuda = _import_cuda()
        self._device_id = device_id
        self.use_device()
        self._errors: list[str] = []
        self._logger = create_logger(trt, self._errors)
        self._runtime = trt.Runtime(self._logger)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(self._load_error(len(plan)))
        self._engine = engine
        self._context = engine.create_execution_context()
        if self._context is None:
            raise EngineError(
                f"no memory for the engine's activations: {'; '.join(self._errors)}"
            )
        self._stream = self._check(self._cuda.cudaStreamCreate())
        self._graphs: dict[int, Any] = {}
        self._batch_sizes: set[int] = set()
        self.inputs: dict[str, _Binding] = {}
        self.outputs: dict[str, _Binding] = {}
        self.max_batch = self._max_batch()
        for index in range(engine.num_io_tensors):
            self._bind(engine.get_tensor_name(index))

    def __call__(self, **arrays: Array) -> dict[str, Array]:
        """Run the engine on host arrays.

        Args:
            **arrays: One array [N, ...] per input, N from 1 to `max_batch`.

        Returns:
            A copy of each output [N, ...] by name.

        Raises:
            EngineError: If inputs are missing, or have another shape, type or size.
        """
        if set(arrays) != set(self.inputs):
            raise EngineError(
                f"expected inputs {sorted(self.inputs)}, got {sorted(arrays)}"
            )
        (count, *rest) = {len(array) for array in arrays.values()}
        if rest:
            raise EngineError("inputs have different batch sizes")
        self._check_count(0, count)
        for name, array in arrays.items():
            self.put(name, array)
        return {name: view.copy() for name, view in self.run(count).items()}

    def use_device(self) -> None:
        """Make the engine's GPU the current one of this thread.

        CUDA keeps it for each thread, and a new thread has the first GPU: call this
        before `put` in a thread that did not create the engine.

        Raises:
            EngineError: There is no such GPU.
        """
        self._check(self._cuda.cudaSetDevice(self._device_id))

    def put(self, name: str, array: Array, start: int = 0) -> None:
        """Copy a host array into an input buffer.

        Args:
            name: Name of the input.
            array: Array [n, ...] of the input's shape and dtype.
            start: First row of the batch that the array fills.

        Raises:
            EngineError: If the shape or dtype differs, or the batch gets too large.
        """
        binding = self.inputs[name]
        if array.shape[1:] != binding.shape or array.dtype != binding.dtype:
            raise EngineError(
                f"{name}: expected {binding.dtype} [N, {_dims(binding.shape)}], got "
                f"{array.dtype} [{_dims(array.shape)}]"
            )
        stop = self._check_count(start, len(array))
        binding.host[start:stop] = array
        self._copy(
            binding.device + start * binding.item_bytes,
            binding.host[start:stop].ctypes.data,
            len(array) * binding.item_bytes,
            self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice,
        )

    def put_dlpack(self, name: str, capsule: Any, start: int = 0) -> int:
        """Copy a GPU tensor into an input buffer, from GPU memory to GPU memory.

        Args:
            name: Name of the input.
            capsule: DLPack capsule of a contiguous GPU tensor [n, ...] of the input's
                shape and dtype.
            start: First row of the batch that the tensor fills.

        Returns:
            The number of rows, n.

        Raises:
            EngineError: If the shape differs, or the batch gets too large.
        """
        binding = self.inputs[name]
        pointer, shape = _dlpack_tensor(capsule)
        if shape[1:] != binding.shape:
            raise EngineError(
                f"{name}: expected [N, {_dims(binding.shape)}], got [{_dims(shape)}]"
            )
        self._check_count(start, shape[0])
        self._copy(
            binding.device + start * binding.item_bytes,
            pointer,
            shape[0] * binding.item_bytes,
            self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice,
        )
        return shape[0]

    def run(self, count: int) -> dict[str, Array]:
        """Run the first rows of the input buffers and wait for the outputs.

        Args:
            count: Number of rows.

        Returns:
            Views [count, ...] of the output buffers by name, valid until the next run.

        Raises:
            EngineError: If the engine fails.
        """
        self.enqueue(count)
        for binding in self.outputs.values():
            self._copy(
                binding.host.ctypes.data,
                binding.device,
                count * binding.item_bytes,
                self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost,
            )
        self._check(self._cuda.cudaStreamSynchronize(self._stream))
        return {name: b.host[:count] for name, b in self.outputs.items()}

    def enqueue(self, count: int) -> None:
        """Start the engine without waiting for it.

        The second use of a batch size captures a CUDA graph, and later ones replay it.

        Args:
            count: Number of rows.

        Raises:
            EngineError: If the engine refuses the batch or fails.
        """
        graph = self._graphs.get(count)
        if (
            graph is None
            and count in self._batch_sizes
            and len(self._graphs) < MAX_GRAPHS
        ):
            graph = self._graphs[count] = self._capture_graph(count)
        if graph is not None:
            self._check(self._cuda.cudaGraphLaunch(graph, self._stream))
            return
        self._batch_sizes.add(count)
        self._execute(count)

    def median_ms(self, count: int, repeats: int) -> float:
        """Measure the time of one batch on the GPU by CUDA events, without copies.

        Args:
            count: Number of rows.
            repeats: Number of timed runs.

        Returns:
            The median in milliseconds.
        """
        cuda = self._cuda
        events = [self._check(cuda.cudaEventCreate()) for _ in range(repeats + 1)]
        for _ in range(10):
            self.enqueue(count)
        self._check(cuda.cudaEventRecord(events[0], self._stream))
        for event in events[1:]:
            self.enqueue(count)
            self._check(cuda.cudaEventRecord(event, self._stream))
        self._check(cuda.cudaStreamSynchronize(self._stream))
        times = [
            self._check(cuda.cudaEventElapsedTime(a, b))
            for a, b in zip(events, events[1:])  # noqa: B905, RUF007 - stays 3.8-simple
        ]
        for event in events:
            self._check(cuda.cudaEventDestroy(event))
        return float(np.median(times))

    def close(self) -> None:
        """Release buffers, CUDA graphs and the stream."""
        for graph in self._graphs.values():
            self._cuda.cudaGraphExecDestroy(graph)
        for binding in (*self.inputs.values(), *self.outputs.values()):
            self._cuda.cudaFree(binding.device)
            self._cuda.cudaFreeHost(binding.host.ctypes.data)
        self._graphs.clear()
        self.inputs.clear()
        self.outputs.clear()
        self._cuda.cudaStreamDestroy(self._stream)

    def _execute(self, count: int) -> None:
        for name, binding in self.inputs.items():
            if not self._context.set_input_shape(name, (count, *binding.shape)):
                raise EngineError(f"{name}: the engine refused a batch of {count}")
        if not self._context.execute_async_v3(int(self._stream)):
            raise EngineError(f"the engine failed: {'; '.join(self._errors[-3:])}")

    def _capture_graph(self, count: int) -> Any:
        cuda = self._cuda
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        # the first run after a change of shape also does set-up, which a graph must
        # not contain
        self._execute(count)
        self._check(cuda.cudaStreamSynchronize(self._stream))
        self._check(cuda.cudaStreamBeginCapture(self._stream, mode))
        self._execute(count)
        graph = self._check(cuda.cudaStreamEndCapture(self._stream))
        executable = self._check(cuda.cudaGraphInstantiate(graph, 0))
        self._check(cuda.cudaGraphDestroy(graph))
        return executable

    def _max_batch(self) -> int:
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            if self._is_input(name):
                shapes = self._engine.get_tensor_profile_shape(name, 0)
                return int(shapes[2][0])
        raise EngineError("the engine has no input")

    def _bind(self, name: str) -> None:
        shape = tuple(self._engine.get_tensor_shape(name))[1:]
        dtype = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
        size = self.max_batch * int(np.prod(shape)) * dtype.itemsize
        device = self._check(self._cuda.cudaMalloc(size))
        pinned = self._check(self._cuda.cudaMallocHost(size))
        host = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pinned))
        binding = _Binding(
            shape, dtype, device, host.view(dtype).reshape(self.max_batch, *shape)
        )
        self._context.set_tensor_address(name, device)
        (self.inputs if self._is_input(name) else self.outputs)[name] = binding

    def _is_input(self, name: str) -> bool:
        return bool(self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT)

    def _check_count(self, start: int, count: int) -> int:
        if not 1 <= count <= self.max_batch - start:
            raise EngineError(
                f"a batch of {start + count}; the plan was built for 1 to "
                f"{self.max_batch}"
            )
        return start + count

    def _copy(self, target: int, source: int, size: int, kind: Any) -> None:
        self._check(
            self._cuda.cudaMemcpyAsync(target, source, size, kind, self._stream)
        )

    def _check(self, result: Any) -> Any:
        status, *values = result
        if int(status) != 0:
            raise EngineError(f"CUDA: {status.name}")
        return values[0] if values else None

    def _load_error(self, size: int) -> str:
        reasons = "; ".join(self._errors[-3:]) or "it gave no reason"
        name = self._trt.__name__
        text = f"{name} {self._trt.__version__} does not load the plan ({size:,} bytes)"
        if any(word in reasons for word in VERSION_MISMATCH):
            text += ": it was built by another TensorRT, or is damaged"
        return f"{text}: {reasons}. Build it again on this machine"


def _import_cuda() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as exc:
        raise EngineError(
            "cuda-bindings is not installed, and plans need it to run: "
            "pip install cuda-bindings"
        ) from exc
    status, count = runtime.cudaGetDeviceCount()
    if int(status) != 0 or count == 0:
        raise EngineError(
            f"no NVIDIA GPU here ({status.name}): plans cannot run. Serve the cpu "
            "target, or use a machine with a GPU and its driver"
        )
    return runtime


def create_logger(trt: Any, errors: list[str]) -> Any:
    """Create a logger that collects the messages of errors.

    Args:
        trt: The TensorRT module.
        errors: The list that gets the messages.

    Returns:
        An ILogger, which must outlive the objects that it is passed to.
    """

    class CollectingLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in {trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR}:
                errors.append(message.strip())

    return CollectingLogger()


class _DLTensor(ctypes.Structure):
    """The first fields of a DLManagedTensor (DLPack 0.x)."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _dlpack_tensor(capsule: Any) -> tuple[int, tuple[int, ...]]:
    """Return address and shape of a capsule's tensor."""
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype = ctypes.c_void_p
    get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    tensor = _DLTensor.from_address(get_pointer(capsule, b"dltensor"))
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    return int(tensor.data or 0) + tensor.byte_offset, shape


def _dims(shape: tuple[int, ...]) -> str:
    return ", ".join(str(d) for d in shape)
