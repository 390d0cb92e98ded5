"""The tritonserver of the nvidia-pytriton wheel, and the environment that it needs.

The wheel holds the real server with its Python backend. To run it on this repository,
the backend folder must hold the stub of the running Python, and the stub must find that
Python's shared library and site-packages.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from builders.serve.errors import ServeError
from personserve.internal.files import cache_folder

WHEEL_TRITON_VERSIONS = {"0.7.0": "2.51.0"}
"""Triton versions by version of the nvidia-pytriton wheel; a log begins with them."""

NUMPY_LIMIT = 2
"""First major version of NumPy whose arrays the wheel's stub reads wrongly."""


def tritonserver_path() -> Path:
    """Return the path of the wheel's tritonserver.

    Raises:
        ServeError: The wheel is not installed.
    """
    return _package_folder() / "bin" / "tritonserver"


def find_triton_version() -> str | None:
    """Return the version of the tritonserver that would be started on this machine.

    Returns:
        The version, for example "2.51.0"; None if there is no tritonserver, or if it
        does not say.
    """
    on_path = shutil.which("tritonserver")
    if on_path is None:
        with suppress(PackageNotFoundError):
            return WHEEL_TRITON_VERSIONS.get(version("nvidia-pytriton"))
        return None
    # NVIDIA's container: /opt/tritonserver/bin/tritonserver and ../TRITON_VERSION
    with suppress(OSError):
        file = Path(on_path).resolve().parent.parent / "TRITON_VERSION"
        return file.read_text(encoding="utf-8").strip()
    return None


def check_wheel() -> None:
    """Check that the wheel's Python backend works with this Python.

    Raises:
        ServeError: NumPy 2 is installed, the wheel has no stub for this Python, or
            this Python has no shared library.
    """
    try:
        numpy_version = version("numpy")
    except PackageNotFoundError:
        numpy_version = "0"
    if int(numpy_version.split(".")[0]) >= NUMPY_LIMIT:
        raise ServeError(
            f"NumPy {numpy_version} is installed, and the wheel's Python backend was "
            "compiled for NumPy 1: tensors would be silently wrong; "
            'pip install "numpy<2"'
        )
    stub, library = stub_path(), _library_path()
    if not stub.is_file():
        versions = sorted(path.name for path in stub.parent.parent.iterdir())
        raise ServeError(
            f"the wheel has no Python backend for {stub.parent.name}, only for "
            f"{', '.join(versions)}; use one of those"
        )
    if not library.is_file():
        raise ServeError(
            f"{library.name} is not at {library.parent}, and the Python backend needs "
            "it; use a Python built with --enable-shared (Debian: apt install "
            f"libpython{stub.parent.name})"
        )


def wheel_environment() -> dict[str, str]:
    """Return the environment variables that the wheel's server needs."""
    purelib = Path(sysconfig.get_path("purelib"))
    libraries = (purelib / "nvidia_pytriton.libs", _library_path().parent)
    paths = {
        "LD_LIBRARY_PATH": [str(path) for path in libraries],
        "PATH": [str(Path(sys.executable).parent)],
        "PYTHONPATH": [str(purelib), sysconfig.get_path("platlib")],
    }
    for name, values in paths.items():
        if name in os.environ:
            values.append(os.environ[name])
    return {name: os.pathsep.join(values) for name, values in paths.items()}


def prepare_backends() -> Path:
    """Return a backend folder that holds the running Python's stub.

    The folder is kept in the user's cache, so that a printed command still works after
    this process has ended. It is made once for each installation of the wheel.
    """
    identity = f"{version('nvidia-pytriton')}-{_python_version()}"
    backends = cache_folder() / f"backends-{identity}"
    marker = backends / "python" / "installed-at"
    source = _package_folder()
    if marker.is_file() and marker.read_text(encoding="utf-8") == str(source):
        return backends
    backends.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=backends.parent) as folder:
        backend = Path(folder) / "backends" / "python"
        backend.mkdir(parents=True)
        for file in (source / "backends" / "python").iterdir():
            (backend / file.name).symlink_to(file)
        stub = backend / stub_path().name
        shutil.copyfile(stub_path(), stub)
        stub.chmod(0o755)
        (backend / marker.name).write_text(str(source), encoding="utf-8")
        shutil.rmtree(backends, ignore_errors=True)
        try:
            backend.parent.rename(backends)
        except OSError:
            if not marker.is_file():  # not another process that was faster
                raise
    return backends


def stub_path() -> Path:
    """Return the path of the Python backend's stub for the running Python."""
    folder = _package_folder() / "python_backend_stubs" / _python_version()
    return folder / "triton_python_backend_stub"


def _package_folder() -> Path:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise ServeError(
            "no tritonserver on PATH and no nvidia-pytriton wheel; "
            'pip install -e ".[serve]", or run inside NVIDIA\'s container'
        )
    return Path(spec.origin).parent / "tritonserver"


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _library_path() -> Path:
    name = sysconfig.get_config_var("INSTSONAME") or ""
    configured = Path(sysconfig.get_config_var("LIBDIR") or "") / name
    # a Python that was moved after it was built keeps its library in its own folder
    if configured.is_file():
        return configured
    return Path(sys.base_prefix) / "lib" / name
