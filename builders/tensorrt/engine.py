"""Running a plan: device buffers made once, one stream, nothing allocated per call.

Stands alone (NumPy, cuda-bindings and a TensorRT module), because `build` copies it
beside Triton's Python model. The order of a run is put, put, ..., run.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SYSTEM_MISMATCH = ("version tag", "Version tag", "serialization version", "magic tag")
MAX_GRAPHS = 16
"""CUDA graphs kept, one a batch size; small batches gain most."""


class EngineError(RuntimeError):
    """A plan that cannot be loaded or run here; says why and what to do."""


@dataclass(frozen=True)
class Gpu:
    """The GPU that plans would run on here."""

    name: str
    capability: str
    driver: str


def current_gpu() -> Gpu | None:
    """The first GPU; None without one, without its driver or cuda-bindings."""
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
    """One tensor of the engine: its shape without the batch, and both its buffers."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    device: int
    host: Array

    @property
    def item_bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize


class Engine:
    """An engine with buffers for its largest batch, on one stream of the current GPU.

    Raises EngineError for a plan that this TensorRT or GPU does not load.
    """

    def __init__(self, trt: Any, plan: bytes) -> None:
        self._trt = trt
        self._cuda = _cuda()
        self._errors: list[str] = []
        self._logger = collecting_logger(trt, self._errors)
        self._runtime = trt.Runtime(self._logger)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(self._why_not_loaded(len(plan)))
        self._engine = engine
        self._context = engine.create_execution_context()
        if self._context is None:
            raise EngineError(
                f"no memory for the engine's activations: {'; '.join(self._errors)}"
            )
        self._stream = self._check(self._cuda.cudaStreamCreate())
        self._graphs: dict[int, Any] = {}
        self._seen: set[int] = set()
        self.inputs: dict[str, _Binding] = {}
        self.outputs: dict[str, _Binding] = {}
        self.max_batch = self._max_batch()
        for index in range(engine.num_io_tensors):
            self._bind(engine.get_tensor_name(index))

    def __call__(self, **arrays: Array) -> dict[str, Array]:
        """{output: array} for {input: host array [N, ...]}, N up to max_batch."""
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

    def put(self, name: str, array: Array, start: int = 0) -> None:
        """Copy a host array [n, ...] to rows `start`.. of input `name`."""
        binding = self.inputs[name]
        if array.shape[1:] != binding.shape or array.dtype != binding.dtype:
            raise EngineError(
                f"{name}: expected {binding.dtype} [N, {_list(binding.shape)}], got "
                f"{array.dtype} [{_list(array.shape)}]"
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
        """Copy a DLPack capsule of a contiguous GPU tensor [n, ...] likewise, without
        leaving the GPU; returns n.
        """
        binding = self.inputs[name]
        pointer, shape = _dlpack_tensor(capsule)
        if shape[1:] != binding.shape:
            raise EngineError(
                f"{name}: expected [N, {_list(binding.shape)}], got [{_list(shape)}]"
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
        """Run the `count` rows that were put; the views last until the next run."""
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
        """Start the engine on `count` rows; a batch size that comes again is replayed
        as a CUDA graph.
        """
        graph = self._graphs.get(count)
        if graph is None and count in self._seen and len(self._graphs) < MAX_GRAPHS:
            graph = self._graphs[count] = self._captured(count)
        if graph is not None:
            self._check(self._cuda.cudaGraphLaunch(graph, self._stream))
            return
        self._seen.add(count)
        self._execute(count)

    def median_ms(self, count: int, repeats: int) -> float:
        """Median time of `count` rows on the GPU, by CUDA events, without copies."""
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
        """Give buffers, graphs and the stream back."""
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

    def _captured(self, count: int) -> Any:
        cuda = self._cuda
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        # after a change of shape the first run sets up what must not be captured
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

    def _copy(self, to: int, source: int, size: int, kind: Any) -> None:
        self._check(self._cuda.cudaMemcpyAsync(to, source, size, kind, self._stream))

    def _check(self, returned: Any) -> Any:
        status, *values = returned
        if int(status) != 0:
            raise EngineError(f"CUDA: {status.name}")
        return values[0] if values else None

    def _why_not_loaded(self, size: int) -> str:
        reasons = "; ".join(self._errors[-3:]) or "it gave no reason"
        name = self._trt.__name__
        text = f"{name} {self._trt.__version__} does not load the plan ({size:,} bytes)"
        if any(word in reasons for word in SYSTEM_MISMATCH):
            text += ": it was built by another TensorRT, or is damaged"
        return f"{text}: {reasons}. Build it again on this machine"


def _cuda() -> Any:
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


def collecting_logger(trt: Any, errors: list[str]) -> Any:
    """A logger of library `trt` that keeps its errors in `errors`."""

    class Collecting(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in {trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR}:
                errors.append(message.strip())

    return Collecting()


class _DLTensor(ctypes.Structure):
    """The head of a DLManagedTensor (DLPack 0.x)."""

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
    """Address and shape of a capsule's tensor."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    tensor = _DLTensor.from_address(get(capsule, b"dltensor"))
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    return int(tensor.data or 0) + tensor.byte_offset, shape


def _list(shape: tuple[int, ...]) -> str:
    return ", ".join(str(d) for d in shape)
