"""Ranges of real crops, tensor by tensor, by ONNX Runtime's calibrators.

The float network runs over the images with every tensor that the placement names as an
output; what is kept are histograms, so that 20,000 images need no more memory than a
hundred.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from builders.check import Check
from builders.evaluation.datasets import PICTURE_SUFFIXES
from builders.evaluation.pictures import UnreadablePictureError, read_crop
from builders.ops.folding import INT8_MAX, Kernel
from builders.ops.onnx import OnnxOps, assembled
from builders.ops.placement import Int8, Pair, Placement, placement_of
from builders.quantisation.table import (
    Int8Table,
    Method,
    QuantisationError,
    read_tensorrt_cache,
)
from builders.spec import Model
from builders.weights import Origin

BINS = 2048
LEVELS = 128
PERCENTILE = 99.99
BATCH = 8

MIN_IMAGES = 32
"""Fewer say little about a tensor's range; seed 003 lost 8 points with 10,000 and less
of 1000 classes, and gender has two.
"""

HOLD_EVERY = 5
MAX_HELD = 32
"""Every fifth image, but not more than 32, is kept for judging."""

SAMPLED = 400
THUMBNAIL_WH = (16, 16)
NEAR_GREY_LEVELS = 4.0
MAX_NEAR_SHARE = 0.5

Crops = dict[str, npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class Images:
    """Calibration images: `files` below `root`, in order, and those that were `held`
    out to judge the result by.
    """

    root: Path
    files: tuple[Path, ...]
    held: tuple[Path, ...] = ()

    @property
    def sha256(self) -> str:
        """Of the list: names and sizes."""
        digest = hashlib.sha256()
        for path in self.files:
            name = path.relative_to(self.root).as_posix()
            digest.update(f"{name}\0{path.stat().st_size}\n".encode())
        return digest.hexdigest()


def images_in(root: Path, count: int | None = None) -> Images:
    """Pictures below `root`, `count` of them evenly spread.

    Raises QuantisationError where there are too few, or most are nearly the same.
    """
    if not root.is_dir():
        raise QuantisationError(f"{root}: no such folder of images")
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
    if count is not None and count < len(files):
        files = [files[int(i)] for i in np.linspace(0, len(files) - 1, count)]
    if len(files) < MIN_IMAGES:
        raise QuantisationError(
            f"{len(files)} images in {root}; expected at least {MIN_IMAGES} crops of "
            "different people as the model will see them, or ranges are guesses"
        )
    near = _near_share(files)
    if near > MAX_NEAR_SHARE:
        raise QuantisationError(
            f"{near:.0%} of the images in {root} have a nearly identical other one "
            "(frames of one scene?); ranges of so few different crops do not hold for "
            "others. Take every nth frame, or more cameras"
        )
    held = files[HOLD_EVERY - 1 :: HOLD_EVERY][:MAX_HELD]
    kept = tuple(path for path in files if path not in set(held))
    return Images(root, kept, tuple(held))


def _near_share(files: Sequence[Path]) -> float:
    """The share of (some of) the images that have a near twin among them."""
    chosen = [files[int(i)] for i in np.linspace(0, len(files) - 1, SAMPLED)]
    chosen = list(dict.fromkeys(chosen))
    with ThreadPoolExecutor() as pool:
        small = [each for each in pool.map(_thumbnail, chosen) if each is not None]
    if len(small) < MIN_IMAGES:
        raise QuantisationError(f"only {len(small)} images can be read as pictures")
    pixels = np.stack(small)
    twins = 0
    for index, picture in enumerate(pixels):
        gaps = np.abs(pixels - picture).mean(axis=1)
        gaps[index] = np.inf
        twins += bool(gaps.min() < NEAR_GREY_LEVELS)
    return twins / len(pixels)


def _thumbnail(path: Path) -> npt.NDArray[np.float32] | None:
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        return None
    small = cv2.resize(picture, THUMBNAIL_WH, interpolation=cv2.INTER_AREA)
    return small.astype(np.float32).ravel()


def crops_of(model: Model, paths: Sequence[Path]) -> Iterator[Crops]:
    """The pictures as inputs of `model`, BATCH at a time; unreadable ones are left out.
    A model of two images gets each picture with its successor.
    """
    with ThreadPoolExecutor() as pool:
        files = iter(paths)
        while part := list(islice(files, BATCH)):
            inputs: Crops = {}
            for number, image in enumerate(model.images):
                found = pool.map(lambda p, s=image.crop_shape: _crop(p, s), part)
                crops = [crop for crop in found if crop is not None]
                if not crops:
                    break
                inputs[image.name] = np.roll(np.stack(crops), number, axis=0)
            if inputs:
                yield inputs


def _crop(path: Path, shape: Any) -> npt.NDArray[np.uint8] | None:
    try:
        return read_crop(path, shape)
    except UnreadablePictureError:
        return None


def calibrate(
    model: Model,
    arrays: Mapping[str, npt.NDArray[np.generic]],
    weights: str,
    images: Images,
    method: Method,
    progress: Callable[[str, int, int], None],
) -> Int8Table:
    """Measure the table of `model` with `arrays`. `progress` is told (what, done, of).

    Raises QuantisationError.
    """
    placement = placement_of(model)
    if not placement.keys:
        raise QuantisationError(f"{model.name} has no convolution that INT8 is for")
    observed = _Observed(model, arrays, placement)
    ranges = _MaxRanges() if method == "max" else _Histograms(method)
    done = 0
    for inputs in crops_of(model, images.files):
        ranges.collect(observed(inputs))
        done += len(next(iter(inputs.values())))
        progress("measuring ranges", done, len(images.files))
    if done < MIN_IMAGES:
        raise QuantisationError(f"only {done} images can be read as pictures")
    largest = ranges.largest(lambda n, of: progress("choosing thresholds", n, of))
    empty = [key for key, value in largest.items() if not value > 0]
    if empty:
        raise QuantisationError(
            f"{empty[0]} is zero for every image: its layer is dead, or the images are "
            "not what the model is for"
        )
    return Int8Table(
        model=model.name,
        weights=weights,
        method=method,
        images=done,
        images_sha256=images.sha256,
        made_by=f"onnxruntime {version('onnxruntime')}",
        date=datetime.now(timezone.utc).date().isoformat(),
        steps={key: value / INT8_MAX for key, value in largest.items()},
    )


def held_out_check(model: Model, arrays: Any, origin: Origin, images: Images) -> Check:
    """What the float network answers for the images that were held out.

    Raises QuantisationError where none can be read.
    """
    from builders.ops.torch import Reference

    parts = list(crops_of(model, images.held))
    if not parts:
        raise QuantisationError(f"none of {len(images.held)} images can be read")
    inputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Check(inputs, Reference(model, arrays)(**inputs), str(origin))


def table_from_cache(model: Model, weights: str, path: Path) -> Int8Table:
    """The table that a TensorRT calibration cache gives: its tensors by our names.

    Raises QuantisationError listing what it has no tensor for.
    """
    steps = read_tensorrt_cache(path)
    keys = placement_of(model).keys
    lacking = [key for key in keys if key not in steps]
    if lacking:
        raise QuantisationError(
            f"{path.name} has {len(steps)} tensors and none called "
            f"{', '.join(lacking[:3])} ({len(lacking)} lacking). A cache has the names "
            "of the network it was made with: rename them to those of int8.json, or "
            "measure with --images"
        )
    return Int8Table(
        model=model.name,
        weights=weights,
        method=f"TensorRT cache {path.name}",
        images=0,
        images_sha256="",
        made_by=path.read_text(encoding="utf-8").splitlines()[0],
        date=datetime.now(timezone.utc).date().isoformat(),
        steps={key: steps[key] for key in keys},
    )


class _Observing(OnnxOps):
    """The float network; notes which value each pair would stand on."""

    def __init__(self, weights: Any, placement: Placement) -> None:
        self.observed: dict[str, str] = {}
        super().__init__(weights, Int8(placement, {}))

    def pair(self, x: str, pair: Pair) -> str:
        self.observed[x] = pair.key
        return x

    def _int8_kernel(self, name: str, kernel: Kernel, pair: Pair) -> list[str]:
        del pair
        return self.float_kernel(name, kernel)


class _Observed:
    """Runs it: {scale's name: values}."""

    def __init__(
        self,
        model: Model,
        arrays: Mapping[str, npt.NDArray[np.generic]],
        placement: Placement,
    ) -> None:
        import onnx
        import onnxruntime

        ops = _Observing(arrays, placement)
        proto = assembled(model, ops)
        kind = onnx.TensorProto.FLOAT
        proto.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, kind, None)
            for name in ops.observed
        )
        self._keys = ops.observed
        self._session = onnxruntime.InferenceSession(
            proto.SerializeToString(), providers=["CPUExecutionProvider"]
        )

    def __call__(self, inputs: Crops) -> dict[str, list[npt.NDArray[np.float32]]]:
        names = list(self._keys)
        found: dict[str, list[npt.NDArray[np.float32]]] = {}
        for name, values in zip(names, self._session.run(names, inputs), strict=True):
            found.setdefault(self._keys[name], []).append(values)
        return found


Told = Callable[[int, int], None]


class _MaxRanges:
    """The largest magnitude ever seen."""

    def __init__(self) -> None:
        self._largest: dict[str, float] = {}

    def collect(self, values: Mapping[str, list[npt.NDArray[np.float32]]]) -> None:
        for key, arrays in values.items():
            largest = max(float(np.abs(array).max()) for array in arrays)
            self._largest[key] = max(self._largest.get(key, 0.0), largest)

    def largest(self, _progress: Told) -> dict[str, float]:
        return self._largest


class _Histograms:
    """ONNX Runtime's histograms, and the threshold that it chooses from them."""

    def __init__(self, method: Method) -> None:
        self._method = method
        self._collectors: dict[str, Any] = {}

    def collect(self, values: Mapping[str, list[npt.NDArray[np.float32]]]) -> None:
        from onnxruntime.quantization.calibrate import HistogramCollector

        for key, arrays in values.items():
            if key not in self._collectors:
                self._collectors[key] = HistogramCollector(
                    method=self._method,
                    symmetric=True,
                    num_bins=BINS,
                    num_quantized_bins=LEVELS,
                    percentile=PERCENTILE,
                    scenario="same",
                )
            # the collector takes one shape, and prints as it goes
            flat = np.concatenate([array.ravel() for array in arrays])
            with redirect_stdout(StringIO()):
                self._collectors[key].collect({key: [flat]})

    def largest(self, progress: Told) -> dict[str, float]:
        found = {}
        for number, (key, collector) in enumerate(self._collectors.items(), start=1):
            with redirect_stdout(StringIO()):
                low, high, *_ = collector.compute_collection_result()[key]
            found[key] = max(abs(float(low)), abs(float(high)))
            progress(number, len(self._collectors))
        return found
