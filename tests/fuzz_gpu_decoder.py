"""Fuzz of the GPU's decoder: mutated images, in a process of their own.

    python -m tests.fuzz_gpu_decoder OUTDIR --images 20000 --seconds 120

A child process passes mutations of tests/image_corpus.py through the gate and the lane
of the GPU, in batches of four with a sound JPEG in each. Every image must give crops or
an error, the sound JPEG must always give its own crops, and the process must survive;
what ended it is written to OUTDIR, and so is each batch that harmed the sound JPEG.
Crops of the sound JPEG may differ from its crops in a batch of its own by what decoders
round differently, because another decoder may take it; such batches are counted.
Without a GPU the lane is the CPU's.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from builders.benchmarks.gpu_frames import SHAPES, crops_as_array, open_lanes
from builders.benchmarks.gpu_server import count_gpus
from builders.repository.runtimes.deadlines import Deadline
from ensembles.person_preprocess.cpu_lane import CpuLane
from ensembles.person_preprocess.frames import FrameRequest, Lane
from personserve.images.encoded import Encoded
from personserve.images.formats import ImageFormatError
from tests.image_corpus import Mutator, make_corpus

BATCH = 4
HARMED = "SOUND JPEG HARMED"
LARGEST_DIFFERENCE = 3
"""Grey levels by which the decoders of GPU and CPU round differently; more is harm."""
BOX = np.float32([[1, 1, 60, 40]])
SILENCE_S = 60
"""Time without progress after which the child counts as hanging."""


def fuzz(seed: int, first: int, images: int, end: float, pipe: Any) -> None:
    """Decode mutations, and report each batch before and after it.

    Args:
        seed: Seed of the mutations.
        first: Number of the first one.
        images: Number after the last one.
        end: Time (time.time) after which no batch is begun.
        pipe: Where counts of outcomes go.
    """
    lane: Lane = open_lanes(1)[0] if count_gpus() else CpuLane(SHAPES)
    mutator = Mutator(seed)
    sound = Encoded.from_bytes(make_corpus()["jpeg"])
    expected = _arrays(lane, [sound])[0]
    number = first
    while number < images and time.time() < end:
        pipe.send(("begins", number))
        outcomes: Counter[str] = Counter()
        batch = [sound]
        while len(batch) < BATCH and number < images:
            _, data = mutator.make(number)
            number += 1
            try:
                batch.append(Encoded.from_bytes(data))
            except ImageFormatError:
                outcomes["refused by the gate"] += 1
        ours, *others = _arrays(lane, batch)
        verdict = judge_sound(ours, expected)
        if verdict:
            outcomes[verdict] += 1
        if verdict.startswith(HARMED):
            harm = {"verdict": verdict, "images": [bytes(each.data) for each in batch]}
            pipe.send(("harmed", harm))
        for each in others:
            kind = type(each).__name__ if isinstance(each, Exception) else "decoded"
            outcomes[kind] += 1
        pipe.send(("ended", dict(outcomes)))
    pipe.send(("done", number))


def judge_sound(ours: Any, expected: list[Any]) -> str:
    """Return what happened to the sound JPEG; empty where nothing did.

    Args:
        ours: Its crops in a batch with others, or the exception.
        expected: Its crops in a batch of its own.
    """
    if isinstance(ours, Exception):
        return f"{HARMED}: {type(ours).__name__}"
    largest = max(
        int(np.abs(a.astype(np.int16) - b).max())
        for a, b in zip(ours, expected, strict=True)
    )
    if largest > LARGEST_DIFFERENCE:
        return f"{HARMED}: {largest} grey levels"
    return f"sound JPEG rounded differently: {largest} grey levels" if largest else ""


def _arrays(lane: Lane, images: list[Encoded]) -> list[Any]:
    deadline = Deadline(None, None)
    crops = lane.cut([FrameRequest(image, BOX, deadline) for image in images])
    return [
        each if isinstance(each, Exception) else list(map(crops_as_array, each))
        for each in crops
    ]


def run(seed: int, images: int, seconds: float, output: Path) -> dict[str, Any]:
    """Fuzz in child processes, with a new one where one has ended.

    Args:
        seed: Seed of the mutations.
        images: Number of mutations.
        seconds: Time after which no batch is begun.
        output: Folder for what ended a child.
    """
    spawn = multiprocessing.get_context("spawn")
    outcomes: Counter[str] = Counter()
    failures = []
    harmed = 0
    number, end, began = 0, time.time() + seconds, time.time()
    while number < images and time.time() < end:
        ours, theirs = spawn.Pipe()
        child = spawn.Process(target=fuzz, args=(seed, number, images, end, theirs))
        child.start()
        theirs.close()
        begun, done = number, False
        try:
            while not done and ours.poll(SILENCE_S):
                what, value = ours.recv()
                if what == "ended":
                    outcomes.update(value)
                elif what == "harmed":
                    harmed += 1
                    for place, data in enumerate(value["images"]):
                        name = f"harmed_{begun}_{place}.bin"
                        (output / name).write_bytes(data)
                else:
                    begun = value
                    done = what == "done"
        except EOFError:
            pass
        if not done:
            child.kill()
        child.join()
        number = begun
        if not done:
            failures.append({"first": begun, "exit_code": child.exitcode})
            for each in range(begun, begun + 2 * BATCH):
                path = output / f"ended_{each}.bin"
                path.write_bytes(Mutator(seed).make(each)[1])
            number = begun + BATCH
    return {
        "images": number,
        "seconds": time.time() - began,
        "outcomes": dict(outcomes),
        "harmed": harmed,
        "ended_processes": failures,
        "gpu": bool(count_gpus()),
    }


def main() -> int:
    """Fuzz, and write the counts of outcomes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="folder for results")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    result = run(arguments.seed, arguments.images, arguments.seconds, arguments.output)
    text = json.dumps(result, indent=2)
    (arguments.output / "fuzz.json").write_text(text, encoding="utf-8")
    sys.stdout.write(f"{text}\n")
    return 1 if result["harmed"] or result["ended_processes"] else 0


if __name__ == "__main__":
    sys.exit(main())
