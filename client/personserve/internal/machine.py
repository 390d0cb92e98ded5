"""Description of the machine that a measurement runs on, for reports."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "numpy",
    "onnxruntime",
    "openvino",
    "opencv-python-headless",
    "scikit-learn",
    "tensorrt",
    "torch",
    "tritonclient",
)
"""Packages whose versions a report names if they are installed."""

CPUINFO = Path("/proc/cpuinfo")


def cpu_name() -> str:
    """Return the CPU's model name and its number of cores."""
    name = platform.processor() or platform.machine()
    if CPUINFO.is_file():
        for line in CPUINFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {os.cpu_count()} cores"


def cpu_has(instruction_set: str) -> bool:
    """Return whether the CPU supports an instruction set.

    Args:
        instruction_set: Name as in /proc/cpuinfo, for example "avx512_vnni".
    """
    return CPUINFO.is_file() and instruction_set in CPUINFO.read_text(encoding="utf-8")


def gpu_names() -> list[str]:
    """Return the names of the NVIDIA GPUs, empty if nvidia-smi finds none."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return done.stdout.splitlines()


def package_versions() -> dict[str, str]:
    """Return the versions of those PACKAGES that are installed, by name."""
    versions = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def describe_machine() -> dict[str, str]:
    """Return the CPU, the GPUs, the Python version and the package versions."""
    return {
        "cpu": cpu_name(),
        "gpu": ", ".join(gpu_names()) or "none",
        "python": platform.python_version(),
        "versions": ", ".join(f"{k} {v}" for k, v in package_versions().items()),
    }
