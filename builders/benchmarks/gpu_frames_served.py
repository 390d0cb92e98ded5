"""Frame preprocessing on a GPU compared with the CPU, served: rates and latencies.

    python -m builders.benchmarks.gpu_frames_served

A tritonserver has the preprocessing model followed by one that discards its crops,
first in the form that uses the GPU, then in the form for the CPU with one process per
core. Clients on the same machine send JPEGs over gRPC, each waiting for its answer.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import tritonclient.grpc as triton

from builders.benchmarks.gpu_frames import SIZES, draw_boxes, draw_frame, encode_jpeg
from builders.benchmarks.gpu_server import (
    PREPROCESSING,
    copy_model,
    cpu_seconds,
    serve_folder,
    write_config,
)

SERVED_SECONDS = 4.0

SERVED_CASES = (
    ("1080p", 10, (1, 8, 32, 64)),
    ("1080p", 1, (64,)),
    ("1080p", 60, (32,)),
    ("720p", 10, (64,)),
    ("4K", 10, (64,)),
)
"""Size of the frames, people in each, and numbers of callers."""


DISCARD = """
import numpy as np
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            tensor = pb_utils.get_input_tensor_by_name(request, "gender_crops")
            other = pb_utils.get_input_tensor_by_name(request, "reid_crops")
            shape = np.array([*tensor.shape(), *other.shape()], np.int64)
            responses.append(
                pb_utils.InferenceResponse([pb_utils.Tensor("shapes", shape)])
            )
        return responses
"""
"""A model that discards crops, wherever they are."""

DISCARD_CONFIG = """
name: "discard"
backend: "python"
input { name: "gender_crops" data_type: TYPE_UINT8 dims: [ -1, 224, 224, 3 ] }
input { name: "reid_crops" data_type: TYPE_UINT8 dims: [ -1, 384, 128, 3 ] }
output { name: "shapes" data_type: TYPE_INT64 dims: [ 8 ] }
instance_group { count: 2 kind: KIND_GPU }
parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "no" } }
"""

ENSEMBLE_CONFIG = """
name: "rate"
platform: "ensemble"
input { name: "encoded_frame" data_type: TYPE_UINT8 dims: -1 optional: true }
input { name: "raw_frame" data_type: TYPE_UINT8 dims: -1 optional: true }
input { name: "frame_size" data_type: TYPE_INT32 dims: 2 optional: true }
input { name: "boxes" data_type: TYPE_FP32 dims: [ -1, 4 ] }
output { name: "shapes" data_type: TYPE_INT64 dims: [ 8 ] }
ensemble_scheduling {
  step {
    model_name: "person_preprocess" model_version: -1
    input_map { key: "encoded_frame" value: "encoded_frame" }
    input_map { key: "raw_frame" value: "raw_frame" }
    input_map { key: "frame_size" value: "frame_size" }
    input_map { key: "boxes" value: "boxes" }
    output_map { key: "gender_crops" value: "gender_crops" }
    output_map { key: "reid_crops" value: "reid_crops" }
  }
  step {
    model_name: "discard" model_version: -1
    input_map { key: "gender_crops" value: "gender_crops" }
    input_map { key: "reid_crops" value: "reid_crops" }
    output_map { key: "shapes" value: "shapes" }
  }
}
"""


@contextmanager
def serve_preprocessing(form: str, instances: int) -> Iterator[tuple[str, int]]:
    """Run a tritonserver with the preprocessing and a model that discards its crops.

    Args:
        form: "gpu" or "cpu".
        instances: Processes of the form for the GPU; the other has one for each core.

    Yields:
        Address of its gRPC endpoint, and its process id.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        cores = len(os.sched_getaffinity(0))
        if form == "gpu":
            copy_model(root, PREPROCESSING, "default", processes=instances)
        else:
            copy_model(root, PREPROCESSING, "cpu", processes=cores)
        add_discarding_models(root)
        log = Path(os.environ.get("OUT", tempfile.gettempdir())) / f"server_{form}.log"
        with serve_folder(root, ["rate"], log) as served:
            yield served


def add_discarding_models(root: Path) -> None:
    """Write the model that discards crops, and the ensemble `rate` that ends in it.

    Args:
        root: Folder of the repository, which has the preprocessing model.
    """
    for name, text in (("discard", DISCARD_CONFIG), ("rate", ENSEMBLE_CONFIG)):
        write_config(root / name / "config.pbtxt", text)
        (root / name / "1").mkdir()
    (root / "discard" / "1" / "model.py").write_text(DISCARD, encoding="utf-8")


def ask_server(
    address: str, frames: list[bytes], boxes: Any, callers: int, seconds: float
) -> list[float]:
    """Return the latencies of closed-loop callers, in seconds.

    Args:
        address: Address of the gRPC endpoint.
        frames: JPEGs, asked for in turn.
        boxes: FP32 [N, 4].
        callers: Number of threads that each wait for an answer and ask again.
        seconds: Time.
    """
    latencies: list[float] = []
    end = time.monotonic() + seconds

    def call(number: int) -> None:
        client = triton.InferenceServerClient(address)
        while time.monotonic() < end:
            data = np.frombuffer(frames[number % len(frames)], np.uint8)
            inputs = [
                triton.InferInput("encoded_frame", list(data.shape), "UINT8"),
                triton.InferInput("boxes", list(boxes.shape), "FP32"),
            ]
            inputs[0].set_data_from_numpy(data)
            inputs[1].set_data_from_numpy(boxes)
            began = time.monotonic()
            shapes = client.infer("rate", inputs).as_numpy("shapes")
            latencies.append(time.monotonic() - began)
            if shapes[0] != len(boxes):
                raise RuntimeError(f"{len(boxes)} boxes gave crops {shapes.tolist()}")
            number += 1

    threads = [threading.Thread(target=call, args=(n,)) for n in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies


def measure_served(
    forms: Sequence[str], processes: int, instances: int
) -> Iterator[str]:
    """Yield lines about the rates of a server.

    Args:
        forms: "gpu", "cpu" or both.
        processes: Largest number of client processes.
        instances: Processes of the form for the GPU.
    """
    spawn = multiprocessing.get_context("spawn")
    for form in forms:
        server = serve_preprocessing(form, instances)
        with server as (address, pid), spawn.Pool(processes) as pool:
            for name, people, all_callers in SERVED_CASES:
                rng = np.random.default_rng(0)
                size = SIZES[name]
                frames = [encode_jpeg(draw_frame(rng, size)) for _ in range(4)]
                boxes = draw_boxes(rng, size, people)
                ask_server(address, frames, boxes, 4, 1.0)
                for callers in all_callers:
                    used = min(processes, callers)
                    work = (address, frames, boxes, callers // used, SERVED_SECONDS)
                    root = psutil.Process(pid)
                    before = cpu_seconds(root)
                    parts = pool.starmap(ask_server, [work] * used)
                    cores = (cpu_seconds(root) - before) / SERVED_SECONDS
                    latencies_s = np.concatenate(parts)
                    kib = len(frames[0]) >> 10
                    yield (
                        f"{form}, {name} ({kib} KiB), {people} people, {callers} "
                        f"callers: {_summary(latencies_s, people)}, {cores:.1f} cores"
                    )


def _summary(latencies_s: Any, people: int) -> str:
    rate = len(latencies_s) / SERVED_SECONDS
    p50_ms, p99_ms = np.percentile(latencies_s, (50, 99)) * 1e3
    return (
        f"{rate:.0f} frames/s, {rate * people:.0f} people/s, p50 {p50_ms:.1f} ms, "
        f"p99 {p99_ms:.1f} ms"
    )


def main() -> int:
    """Run the measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--forms", nargs="+", choices=["gpu", "cpu"], default=["gpu", "cpu"]
    )
    parser.add_argument("--processes", type=int, default=6, help="processes of clients")
    parser.add_argument(
        "--instances", type=int, default=1, help="preprocessing processes on the GPU"
    )
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    for line in measure_served(
        arguments.forms, arguments.processes, arguments.instances
    ):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
