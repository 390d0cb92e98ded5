"""The kernel that cuts crops on a GPU, compiled as C++, compared with OpenCV."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from builders.repository.frame_ensembles import SOURCES
from personserve.images.crops import CropShape, cut_crops

JOB = np.dtype(
    [("frame", "u8"), ("crop", "u8")]
    + [
        (name, "i4")
        for name in (
            "row_bytes",
            "is_bgr",
            "left",
            "top",
            "box_width",
            "box_height",
            "crop_width",
            "crop_height",
            "is_cubic",
            "padding",
        )
    ]
)
"""`struct Job` of cut_crops.cu, written a second time: gpu_crops.py needs a GPU."""

COMPILER = shutil.which("g++") or shutil.which("clang++")


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if COMPILER is None:
        pytest.skip("no C++ compiler (g++ or clang++)")
    library = tmp_path_factory.mktemp("kernel") / "cut_crops.so"
    # without fused multiply-add, as on the GPU
    subprocess.run(
        [
            *(COMPILER, "-x", "c++", "-O2", "-Wall", "-Werror", "-ffp-contract=off"),
            *("-shared", "-fPIC", str(SOURCES / "cut_crops.cu"), "-o", str(library)),
        ],
        check=True,
    )
    return ctypes.CDLL(str(library)).cut_crops


def _cut(kernel: Any, frame: Any, boxes: Any, shape: CropShape, order: str) -> Any:
    crops = np.zeros((len(boxes), shape.height, shape.width, 3), np.uint8)
    jobs = np.zeros(len(boxes), JOB)
    jobs["frame"] = frame.ctypes.data
    jobs["crop"] = crops.ctypes.data + np.arange(len(boxes)) * crops[0].nbytes
    jobs["row_bytes"] = frame.strides[0]
    jobs["is_bgr"] = order == "BGR"
    jobs["left"], jobs["top"] = boxes[:, 0], boxes[:, 1]
    jobs["box_width"] = boxes[:, 2] - boxes[:, 0]
    jobs["box_height"] = boxes[:, 3] - boxes[:, 1]
    jobs["crop_width"], jobs["crop_height"] = shape.width, shape.height
    jobs["is_cubic"] = shape.interpolation == "cubic"
    kernel(ctypes.c_void_p(jobs.ctypes.data), len(jobs))
    return crops


def _boxes(rng: np.random.Generator, width: int, height: int, count: int) -> Any:
    """Boxes of any size inside a frame, from one pixel to the whole frame."""
    left, top = rng.integers(0, width, count), rng.integers(0, height, count)
    right, bottom = rng.integers(left, width) + 1, rng.integers(top, height) + 1
    boxes = np.stack([left, top, right, bottom], axis=1)
    boxes[0] = 0, 0, width, height
    boxes[1] = 0, 0, 1, 1
    return boxes


@pytest.mark.parametrize("order", ["BGR", "RGB"])
@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
@pytest.mark.parametrize("size", [(224, 224), (384, 128), (77, 101)])
def test_the_kernel_cuts_opencvs_pixels(
    kernel: Any, interpolation: str, size: tuple[int, int], order: Any
) -> None:
    shape = CropShape(*size, interpolation)
    rng = np.random.default_rng(sum(size))
    wrong, total = 0, 0
    for width, height in ((640, 360), (97, 203), (31, 5)):
        frame = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        boxes = _boxes(rng, width, height, 12)
        (expected,) = cut_crops(frame, boxes, [shape], order=order)
        error = np.abs(_cut(kernel, frame, boxes, shape, order).astype(int) - expected)
        if interpolation == "linear":
            assert error.max() == 0
        assert error.max() <= 1
        wide = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= 4
        wrong += np.count_nonzero(error[wide])
        total += error[wide].size
    # OpenCV's wheels for x86 sum cubic values by IPP, and others round coefficients
    assert wrong <= total * (1e-4 if _has_ipp() else 0.05)


def test_a_reduction_by_two_averages_as_opencv_does(kernel: Any) -> None:
    shape = CropShape(60, 40, "linear")
    frame = np.random.default_rng(0).integers(0, 256, (123, 85, 3), dtype=np.uint8)
    boxes = np.array([[3, 2, 83, 122]])
    (expected,) = cut_crops(frame, boxes, [shape], order="BGR")
    np.testing.assert_array_equal(_cut(kernel, frame, boxes, shape, "BGR"), expected)


def test_the_layout_of_jobs_is_that_of_the_model() -> None:
    source = Path(SOURCES / "gpu_crops.py").read_text(encoding="utf-8")
    names = [name for name in JOB.names or () if f'("{name}", ' in source]
    assert names == list(JOB.names or ())
    assert JOB.itemsize == 56


def _has_ipp() -> bool:
    return "Intel IPP:  " in cv2.getBuildInformation()
