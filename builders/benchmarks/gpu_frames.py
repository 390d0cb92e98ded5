"""Frame preprocessing on a GPU compared with the CPU, in one process: rates and pixels.

    python -m builders.benchmarks.gpu_frames pixels
    python -m builders.benchmarks.gpu_frames lanes

`pixels` compares crops of random frames and boxes. `lanes` times the preprocessing by
itself, crops discarded. Frames are JPEGs, and raw where a line says so.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from builders.repository.runtimes.deadlines import Deadline
from ensembles.person_preprocess.cpu_lane import CpuLane
from ensembles.person_preprocess.frames import FrameRequest, Lane
from personserve.images.crops import CropShape
from personserve.images.encoded import Encoded

SHAPES = (CropShape(224, 224, "linear"), CropShape(384, 128, "cubic"))
SIZES = {"720p": (720, 1280), "1080p": (1080, 1920), "4K": (2160, 3840)}
JPEG_QUALITY = 90
SECONDS = 1.0
"""Time of one measurement of `lanes`."""


def draw_frame(rng: np.random.Generator, size: tuple[int, int]) -> Any:
    """Return a frame with the detail of a photograph, UINT8 [H, W, 3].

    Args:
        rng: Source of the pixels.
        size: Height and width.
    """
    height, width = size
    layers = [
        cv2.resize(
            rng.standard_normal(
                (height // scale + 1, width // scale + 1, 3), dtype=np.float32
            ),
            (width, height),
            interpolation=cv2.INTER_CUBIC,
        )
        * weight
        for scale, weight in ((64, 45), (16, 20), (4, 8), (1, 3))
    ]
    return np.clip(128 + sum(layers), 0, 255).astype(np.uint8)


def draw_boxes(rng: np.random.Generator, size: tuple[int, int], people: int) -> Any:
    """Return boxes of people, FP32 [N, 4].

    Args:
        rng: Source of the boxes.
        size: Height and width of the frame.
        people: Number of boxes.
    """
    height, width = size
    # in a narrow frame no box is wider than the frame
    heights = rng.uniform(0.1, 0.6, people) * min(height, 2 * width)
    widths = heights * rng.uniform(0.3, 0.5, people)
    lefts = rng.uniform(-0.2 * widths, width - 0.8 * widths)
    tops = rng.uniform(-0.2 * heights, height - 0.8 * heights)
    return np.stack([lefts, tops, lefts + widths, tops + heights], 1).astype(np.float32)


def make_request(frame: Any, boxes: Any, *, encode: bool = True) -> FrameRequest:
    """Return a frame with its boxes, as the model reads them from a request.

    Args:
        frame: UINT8 [H, W, 3] in BGR order.
        boxes: FP32 [N, 4].
        encode: Whether the frame is a JPEG; raw otherwise.
    """
    image = Encoded.from_bytes(encode_jpeg(frame)) if encode else frame
    return FrameRequest(image, boxes, Deadline(None, None))


def encode_jpeg(frame: Any) -> bytes:
    """Return a frame as a JPEG.

    Args:
        frame: UINT8 [H, W, 3] in BGR order.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    return bytes(cv2.imencode(".jpg", frame, options)[1])


def array_from_gpu(view: Any) -> Any:
    """Return crops in the GPU's memory as an array.

    Args:
        view: Crops as GpuLane.cut returns them.
    """
    from cuda.bindings import runtime

    array = np.empty(view.shape, np.uint8)
    kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
    (status,) = runtime.cudaMemcpy(array.ctypes.data, view.ptr, array.nbytes, kind)
    if status != runtime.cudaError_t.cudaSuccess:
        raise RuntimeError(f"a copy from the GPU failed: {status.name}")
    return array


def crops_as_array(crops: Any) -> Any:
    """Return crops of any lane as an array.

    Args:
        crops: Crops as Lane.cut returns them.
    """
    return crops if isinstance(crops, np.ndarray) else array_from_gpu(crops)


def open_lanes(count: int) -> list[Lane]:
    """Return lanes on the first GPU.

    Args:
        count: Number of lanes.
    """
    from ensembles.person_preprocess.gpu_lane import GpuLane, open_gpu

    gpu = open_gpu(0, SHAPES)
    return [GpuLane(gpu, SHAPES) for _ in range(count)]


def compare_pixels(frames: int) -> Iterator[str]:
    """Yield lines about the differences between the crops of GPU and CPU.

    Args:
        frames: Number of random frames, each with 1 to 10 boxes.
    """
    rng = np.random.default_rng(0)
    (gpu,), cpu = open_lanes(1), CpuLane(SHAPES)
    for kind in ("raw", "jpeg"):
        counts = np.zeros((len(SHAPES), 256), np.int64)
        for _ in range(frames):
            size = (int(rng.integers(60, 1081)), int(rng.integers(60, 1921)))
            boxes = draw_boxes(rng, size, int(rng.integers(1, 11)))
            frame = make_request(draw_frame(rng, size), boxes, encode=kind == "jpeg")
            (on_gpu,), (on_cpu,) = gpu.cut([frame]), cpu.cut([frame])
            pairs = zip(_crops_of(on_gpu), _crops_of(on_cpu), strict=True)
            for number, (ours, theirs) in enumerate(pairs):
                error = np.abs(array_from_gpu(ours).astype(int) - theirs)
                counts[number] += np.bincount(error.ravel(), minlength=256)
        for shape, count in zip(SHAPES, counts, strict=True):
            total = count.sum()
            worst = int(np.flatnonzero(count).max())
            yield (
                f"{kind} {shape.height}x{shape.width} {shape.interpolation}: "
                f"{total:,} values, equal {count[0] / total:.6f}, by 1 "
                f"{count[1] / total:.6f}, by more {count[2:].sum() / total:.6f}, "
                f"largest {worst}"
            )


def _crops_of(result: list[Any] | Exception) -> list[Any]:
    """Return the crops of a frame, or raise what is wrong with it."""
    if isinstance(result, Exception):
        raise result
    return result


def time_lanes(lanes: list[Lane], batch: list[FrameRequest]) -> float:
    """Return frames per second of lanes that run at once, each in its thread.

    Args:
        lanes: The lanes.
        batch: Frames that a lane takes at once.
    """
    for lane in lanes:
        lane.cut(batch)
    done = [0] * len(lanes)
    end = time.monotonic() + SECONDS

    def run(number: int) -> None:
        while time.monotonic() < end:
            list(map(_crops_of, lanes[number].cut(batch)))
            done[number] += len(batch)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(lanes))]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.monotonic() - began)


def measure_lanes() -> Iterator[str]:
    """Yield lines about the rates of lanes."""
    rng = np.random.default_rng(0)
    cpu = CpuLane(SHAPES)
    for name, size in SIZES.items():
        for people in (1, 10, 60):
            frame, boxes = draw_frame(rng, size), draw_boxes(rng, size, people)
            request = make_request(frame, boxes)
            rate = time_lanes([cpu], [request])
            yield f"{name} {people} people, CPU, one thread: {rate:.0f} frames/s"
            for count in (1, 2, 3) if people == 10 else (2,):
                lanes = open_lanes(count)
                for size_of_batch in (1, 2, 4, 8, 16) if people == 10 else (1, 4, 16):
                    began = time.process_time()
                    rate = time_lanes(lanes, [request] * size_of_batch)
                    cores = (time.process_time() - began) / SECONDS
                    yield (
                        f"{name} {people} people, GPU, lanes {count}, batch "
                        f"{size_of_batch}: {rate:.0f} frames/s, {cores:.1f} cores"
                    )
                raw = make_request(frame, boxes, encode=False)
                rate = time_lanes(lanes, [raw] * 4)
                yield (
                    f"{name} {people} people, GPU, raw, lanes {count}, batch 4: "
                    f"{rate:.0f} frames/s"
                )
                for lane in lanes:
                    lane.close()
                del lanes


def main() -> int:
    """Run the measurement that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["pixels", "lanes"])
    parser.add_argument("--frames", type=int, default=1000, help="frames of `pixels`")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    is_pixels = arguments.what == "pixels"
    for line in compare_pixels(arguments.frames) if is_pixels else measure_lanes():
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
