"""Answers of GPU and CPU preprocessing beside each other: pixels, then both networks.

    python -m builders.benchmarks.gpu_answers OUTDIR --frames 1000

Frames of random sizes up to 1080p, half of them JPEGs and half raw, with 1 to 10 boxes
each, are cut by both forms of the preprocessing. Both sets of crops then pass the same
FP16 plans. What differs is in OUTDIR/answers.json and OUTDIR/answers.md: pixels by
their difference in grey levels, the largest difference of a probability, and the least
cosine of an embedding. Without a GPU both forms are the CPU's, and the networks the
ONNX files of the target cpu.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from builders.benchmarks.gpu_frames import (
    SHAPES,
    crops_as_array,
    draw_boxes,
    draw_frame,
    encode_jpeg,
    open_lanes,
)
from builders.benchmarks.gpu_server import count_gpus
from builders.repository.layout import ONNX_FILE, PLAN_FILE, Repository
from builders.repository.runtimes.deadlines import Deadline
from builders.spec.catalogue import models
from builders.tensorrt.library import load_library
from builders.verify.inputs import Runner, onnx_runner
from ensembles.person_preprocess.cpu_lane import CpuLane
from ensembles.person_preprocess.frames import FrameRequest, Lane
from personserve.images.encoded import Encoded

NETWORKS = ("person_gender", "person_reid_kd_r18")
LEVELS = 256
COLUMNS = (
    *("frames", "people", "crops", "equal", "off by 1", "more", "largest"),
    *("probability", "labels changed", "least cosine"),
)
Example = tuple[Any, Any, list[Any]]
"""A JPEG or raw pixels, the boxes, and the CPU's crops for both networks."""


def make_example(number: int) -> Example:
    """Return a random frame with boxes and what the CPU cuts out of it.

    Args:
        number: Seed; even ones are JPEGs, odd ones raw.
    """
    cv2.setNumThreads(1)
    rng = np.random.default_rng(number)
    size = (int(rng.integers(60, 1081)), int(rng.integers(60, 1921)))
    boxes = draw_boxes(rng, size, int(rng.integers(1, 11)))
    frame = draw_frame(rng, size)
    content = frame if number % 2 else encode_jpeg(frame)
    (crops,) = CpuLane(SHAPES).cut([_request_for(content, boxes)])
    if isinstance(crops, Exception):
        raise crops
    return content, boxes, crops


def _request_for(content: Any, boxes: Any) -> FrameRequest:
    frame = Encoded.from_bytes(content) if isinstance(content, bytes) else content
    return FrameRequest(frame, boxes, Deadline(None, None))


def open_networks() -> dict[str, Runner]:
    """Return the networks by name: plans on a GPU, ONNX files without one."""
    runners: dict[str, Runner] = {}
    repository = Repository()
    for model in models(NETWORKS):
        if count_gpus():
            path = repository.artefact_path(model.name, PLAN_FILE)
            runners[model.name] = load_library("tensorrt").load_engine(
                path.read_bytes()
            )
        else:
            path = repository.artefact_path(model.name, ONNX_FILE)
            runners[model.name] = onnx_runner(path.read_bytes())
    return runners


class Differences:
    """What differs between two forms, over all frames of one kind."""

    def __init__(self) -> None:
        self._levels = {name: np.zeros(LEVELS, np.int64) for name in NETWORKS}
        self._largest_probability = 0.0
        self._least_cosine = 1.0
        self._changed_labels = 0
        self._people = 0

    def add(
        self, ours: list[Any], theirs: list[Any], run: Mapping[str, Runner]
    ) -> None:
        """Compare the crops of one frame, and the networks' answers about them.

        Args:
            ours: Crops of the GPU for both networks, UINT8 [N, H, W, 3].
            theirs: Crops of the CPU.
            run: The networks.
        """
        for name, a, b in zip(NETWORKS, ours, theirs, strict=True):
            error = np.abs(a.astype(np.int16) - b)
            self._levels[name] += np.bincount(error.ravel(), minlength=LEVELS)
        gender, reid = NETWORKS
        p, q = (run[gender](crops=c[0])["female_probability"] for c in (ours, theirs))
        e, f = (run[reid](crops=c[1])["embedding"] for c in (ours, theirs))
        self._people += len(p)
        self._changed_labels += int(((p >= 0.5) != (q >= 0.5)).sum())
        self._largest_probability = max(
            self._largest_probability, float(np.abs(p - q).max())
        )
        cosines = (e * f).sum(1) / np.linalg.norm(e, axis=1) / np.linalg.norm(f, axis=1)
        self._least_cosine = min(self._least_cosine, float(cosines.min()))

    def as_json(self) -> dict[str, Any]:
        """Return the differences as JSON values; pixels in parts of all values."""
        pixels = {}
        for name, levels in self._levels.items():
            total = max(int(levels.sum()), 1)
            pixels[name] = {
                "values": total,
                "equal": levels[0] / total,
                "off_by_1": levels[1] / total,
                "off_by_more": float(levels[2:].sum() / total),
                "largest": int(np.flatnonzero(levels).max(initial=0)),
            }
        return {
            "people": self._people,
            "pixels": pixels,
            "largest_probability_difference": self._largest_probability,
            "changed_labels": self._changed_labels,
            "least_cosine": self._least_cosine,
        }


def compare_forms(frames: int, seconds: float) -> dict[str, Any]:
    """Return the differences by kind of frame.

    Args:
        frames: Number of frames.
        seconds: Time after which no more are compared.
    """
    lane: Lane = open_lanes(1)[0] if count_gpus() else CpuLane(SHAPES)
    networks = open_networks()
    kinds = {"jpeg": Differences(), "raw": Differences()}
    spawn = multiprocessing.get_context("spawn")
    end = time.monotonic() + seconds
    done = 0
    with spawn.Pool(max(1, len(os.sched_getaffinity(0)) - 2)) as pool:
        for content, boxes, theirs in pool.imap(make_example, range(frames), 4):
            (ours,) = lane.cut([_request_for(content, boxes)])
            if isinstance(ours, Exception):
                raise ours
            kind = "jpeg" if isinstance(content, bytes) else "raw"
            kinds[kind].add(list(map(crops_as_array, ours)), theirs, networks)
            done += 1
            if time.monotonic() > end:
                pool.terminate()
                break
    return {"frames": done} | {kind: each.as_json() for kind, each in kinds.items()}


def table_of(result: dict[str, Any]) -> str:
    """Return the differences as a Markdown table.

    Args:
        result: What compare_forms returned.
    """
    lines = [
        f"{result['frames']} frames",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
    ]
    for kind in ("jpeg", "raw"):
        each = result[kind]
        for name, p in each["pixels"].items():
            lines.append(
                f"| {kind} | {each['people']} | {name} | {p['equal']:.6f} | "
                f"{p['off_by_1'] * 1e6:.0f} ppm | {p['off_by_more'] * 1e6:.1f} ppm | "
                f"{p['largest']} | {each['largest_probability_difference']:.2e} | "
                f"{each['changed_labels']} | {each['least_cosine']:.7f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Compare, and write the differences."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="folder for results")
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=150, help="no frames after it")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    result = compare_forms(arguments.frames, arguments.seconds)
    (arguments.output / "answers.json").write_text(json.dumps(result), encoding="utf-8")
    (arguments.output / "answers.md").write_text(table_of(result), encoding="utf-8")
    sys.stdout.write(table_of(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
