"""Access to the CUDA runtime through cuda-bindings, which is an optional dependency."""

from __future__ import annotations

from typing import Any


def load_cuda_runtime() -> Any:
    """Import the CUDA runtime and check that there is a GPU.

    Returns:
        The module cuda.bindings.runtime.

    Raises:
        OSError: If cuda-bindings is not installed, or there is no NVIDIA GPU.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as exc:
        raise OSError(
            "cuda-bindings is not installed: pip install cuda-bindings (the extra "
            "`cuda` of personserve)"
        ) from exc
    status, count = runtime.cudaGetDeviceCount()
    if int(status) != 0 or count == 0:
        raise OSError(f"no NVIDIA GPU here ({status.name})")
    return runtime
