"""People per second of the whole job on a GPU: engines, crops, frames, preprocessing.

    python -m builders.benchmarks.gpu_people OUTDIR --parts engines gpu cpu

Needs FP16 plans of person_gender and person_reid_kd_r18 (builders/benchmarks/
gpu_frames.sh builds them). The wheel's tritonserver has no TensorRT backend, so that
plans run in Python: what is lost to that is in `engines` against `crops`. The parts are

* `engines`: both plans by themselves, one after the other, batch 64: the limit
* `gpu`: crops and frames served with preprocessing on the GPU, and preprocessing alone
* `cpu`: frames served with preprocessing on the CPU, one process per core
* `gpus`: throughput alone, for a comparison of one GPU with several
* `soak`: one load for a long time, with the memory of server and GPUs

Each line is written to OUTDIR/people.jsonl as soon as it is measured, and the table to
OUTDIR/people.md at the end of each part. Without a GPU the networks are the ONNX files
of the target cpu, which rehearses the script.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

from builders.benchmarks.gpu_frames_served import add_discarding_models
from builders.benchmarks.gpu_load import WINDOWS, Load, Result, run_load
from builders.benchmarks.gpu_server import (
    PREPROCESSING,
    UseSampler,
    copy_model,
    count_gpus,
    serve_folder,
)
from builders.precision.timing import random_inputs
from builders.repository.layout import PLAN_FILE, Repository
from builders.spec.catalogue import models
from builders.tensorrt.library import load_library
from loadtest.perf_analyzer import find_perf_analyzer
from personserve.internal.machine import cpu_name, gpu_names

NETWORKS = ("person_gender", "person_reid_kd_r18")
FRAMES, CROPS, ALONE = "person_attributes", "person_attributes_crops", "rate"
BATCH = 64
REPEATS = 200
SOAK_STEP_S = 20.0
WINDOW_TOO_SHORT = "Please use a larger time window"
"""Of perf_analyzer, for example in the first load after the server's start."""
WIDER = 4

SERVED = ("gpu", "cpu", "gpus")
COLUMNS = (
    *("form", "model", "frame", "people", "memory", "callers", "people/s"),
    *("p50 / p99 ms", "cores", "GPU %", "JPEG %", "MiB", "GPU MiB"),
)


def frame_loads(model: str) -> Iterator[Load]:
    """Yield the loads on frames: one property at a time varies from 1080p, 10 people.

    All are in the message: perf_analyzer does not put optional inputs into shared
    memory, and a frame is one of two optional inputs.

    Args:
        model: Ensemble that takes frames.
    """
    for callers in (1, 8, 32, 64):
        yield Load(model, "jpeg", 10, callers, "none", "1080p")
    for people, callers in ((1, 1), (1, 64), (60, 1), (60, 32)):
        yield Load(model, "jpeg", people, callers, "none", "1080p")
    for size, callers in product(("720p", "4K"), (1, 64)):
        yield Load(model, "jpeg", 10, callers, "none", size)
    for callers in (1, 32):
        yield Load(model, "raw", 10, callers, "none", "1080p")
    for size in ("720p", "4K"):
        yield Load(model, "raw", 10, 32, "none", size)


def crop_loads() -> Iterator[Load]:
    """Yield the loads on crops."""
    for memory, callers in product(("system", "cuda"), (1, 8)):
        yield Load(CROPS, "crops", BATCH, callers, memory)
    yield Load(CROPS, "crops", BATCH, 8, "none")
    for memory, callers in product(("none", "system", "cuda"), (1, 64)):
        yield Load(CROPS, "crops", 10, callers, memory)


def loads_of(part: str) -> list[Load]:
    """Return the loads of a part, the most telling first.

    Args:
        part: "gpu", "cpu" or "gpus".
    """
    if part == "gpus":
        return [
            Load(CROPS, "crops", BATCH, 16, "cuda"),
            Load(FRAMES, "jpeg", 10, 64, "none", "1080p"),
            Load(FRAMES, "jpeg", 10, 128, "none", "1080p"),
            Load(FRAMES, "jpeg", 60, 64, "none", "1080p"),
        ]
    if part == "gpu":
        alone = [
            Load(ALONE, "jpeg", people, callers, "none", "1080p")
            for people, callers in ((10, 1), (10, 64), (1, 64))
        ]
        return [*crop_loads(), *frame_loads(FRAMES), *alone]
    loads = frame_loads(FRAMES)
    return [load for load in loads if load.callers > 1 or load.size == "1080p"]


def measure_engines() -> Iterator[dict[str, Any]]:
    """Yield the time of each plan at batch 64, and the people of both in turns."""
    total_ms = 0.0
    repository = Repository()
    for model in models(NETWORKS):
        path = repository.artefact_path(model.name, PLAN_FILE)
        engine = load_library("tensorrt").load_engine(path.read_bytes())
        for name, array in random_inputs(model, BATCH).items():
            engine.put(name, array)
        ms = engine.median_ms(BATCH, REPEATS)
        single_ms = engine.median_ms(1, REPEATS)
        engine.close()
        total_ms += ms
        yield {"engine": model.name, "ms_at_64": ms, "ms_at_1": single_ms}
    yield {"engine": "both", "ms_at_64": total_ms, "people_per_s": 64e3 / total_ms}


def write_repository(root: Path, part: str, processes: int | None) -> list[str]:
    """Write the models of a part; return those that must be ready.

    Args:
        root: Folder of the repository.
        part: "gpu" or "cpu": where frames are preprocessed.
        processes: Processes of preprocessing on each GPU; None for the declared number.
    """
    target = "rtx" if count_gpus() else "cpu"
    for name in NETWORKS:
        copy_model(root, name, target)
    if part != "cpu":
        copy_model(root, PREPROCESSING, "default", processes=processes)
    else:
        cores = len(os.sched_getaffinity(0))
        copy_model(root, PREPROCESSING, "cpu", processes=cores)
    for name in (FRAMES, CROPS):
        copy_model(root, name, "default")
    add_discarding_models(root)
    return [FRAMES, CROPS, ALONE]


def measure_part(
    part: str,
    output: Path,
    window_s: float,
    loads: Sequence[Load],
    processes: int | None = None,
) -> Iterator[Result]:
    """Serve a part and yield the result of each load.

    Args:
        part: "gpu" or "cpu".
        output: Folder for the server's log.
        window_s: Length of a measurement window in seconds.
        loads: What is measured.
        processes: See write_repository.
    """
    form = f"preprocessing on the {'CPU' if part == 'cpu' else 'GPU'}"
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ready = write_repository(root, part, processes)
        tool = stack.enter_context(find_perf_analyzer(Console(stderr=True)))
        log = output / f"server_{part}.log"
        address, pid = stack.enter_context(serve_folder(root, ready, log))
        use = UseSampler(pid)
        stack.callback(use.close)
        for load in loads:
            result = run_load(tool, address, form, load, window_s, use)
            if WINDOW_TOO_SHORT in result.failure:
                result = run_load(tool, address, form, load, WIDER * window_s, use)
            yield result


def measure_soak(output: Path, seconds: float) -> Iterator[dict[str, Any]]:
    """Yield rate and memory over a long load, in every SOAK_STEP_S.

    Args:
        output: Folder for the server's log.
        seconds: Length of the load.
    """
    load = Load(FRAMES, "jpeg", 10, 32, "none", "1080p")
    loads = [load] * max(2, round(seconds / SOAK_STEP_S))
    window_s = SOAK_STEP_S / (WINDOWS + 1)
    for result in measure_part("soak", output, window_s, loads):
        yield result.as_json()


def table_of(results: Sequence[dict[str, Any]]) -> str:
    """Return results as a Markdown table.

    Args:
        results: Results as JSON values.
    """
    lines = [
        f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores, {', '.join(gpu_names())}",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
    ]
    for each in results:
        if "engine" in each:
            rate = each.get("people_per_s") or 64e3 / each["ms_at_64"]
            lines.append(
                f"| bare engine | {each['engine']} | | {BATCH} | | | {rate:,.0f} "
                f"| {each['ms_at_64']:.3f} | | | |"
            )
            continue
        load, use = each["load"], each["use"] or {}
        figures = each["failure"] or (
            f"{each['people_per_s']:,.0f} | {each['p50_ms']:.1f} / "
            f"{each['p99_ms']:.1f} | {use['cores']:.1f} | "
            f"{_percentages(use['gpu_percent'])} | "
            f"{_percentages(use['jpeg_percent'])} | "
            f"{use['memory_mib']:,.0f} | {_percentages(use['gpu_memory_mib'])}"
        )
        lines.append(
            f"| {each['form']} | {load['model']} | {load['size']} {load['content']} | "
            f"{load['people']} | {load['memory']} | {load['callers']} | {figures} |"
        )
    return "\n".join(lines) + "\n"


def _percentages(values: dict[int, float]) -> str:
    return ", ".join(f"{value:.0f}" for value in values.values())


def main() -> int:
    """Measure the parts that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="folder for results")
    parser.add_argument(
        "--parts", nargs="+", choices=[*SERVED, "engines", "soak"], default=["gpu"]
    )
    parser.add_argument("--soak", type=float, default=600, help="seconds of `soak`")
    parser.add_argument("--window", type=float, default=0.8, help="seconds of a window")
    parser.add_argument("--first", type=int, help="loads of each part; default: all")
    parser.add_argument("--memory", nargs="+", help="only these kinds of memory")
    parser.add_argument("--processes", type=int, help="preprocessing on each GPU")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    lines = arguments.output / "people.jsonl"
    for part in arguments.parts:
        results: Iterator[dict[str, Any]] = measure_engines()
        if part == "soak":
            results = measure_soak(arguments.output, arguments.soak)
        elif part != "engines":
            loads = loads_of(part)
            loads = [e for e in loads if e.memory in (arguments.memory or [e.memory])]
            measured = measure_part(
                part,
                arguments.output,
                arguments.window,
                loads[: arguments.first],
                arguments.processes,
            )
            results = (result.as_json() for result in measured)
        for result in results:
            with lines.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
            sys.stdout.write(table_of([result]).splitlines()[-1] + "\n")
            sys.stdout.flush()
        text = lines.read_text(encoding="utf-8").splitlines()
        table = table_of([json.loads(line) for line in text])
        (arguments.output / "people.md").write_text(table, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
