"""Comparison with the torch reference, on noise and on real crops.

`Check` is the inputs and the reference's answers; it can be saved, so that a machine
with a GPU but without torch (NVIDIA's container) judges against the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from builders.parity import Runner, parity_inputs
from builders.spec import Image, Model, Output
from builders.weights import Origin
from personserve._files import atomic_write

FloatArray = npt.NDArray[np.float32]
Inputs = Mapping[str, npt.NDArray[Any]]

REAL_WINDOWS = ((0.0, 0.0, 0.5, 1.0), (0.25, 0.0, 0.75, 1.0), (0.5, 0.1, 1.0, 0.9))
"""Parts of the photographs that become crops: (x0, y0, x1, y1) of the whole."""

PHOTOGRAPHS = ("astronaut", "camera", "rocket", "coffee", "chelsea")


class VerificationError(ValueError):
    """What was built is outside the model's tolerance."""


@dataclass(frozen=True)
class Check:
    """Inputs, and what the torch reference answers for weights of `origin`."""

    inputs: Inputs
    answers: Mapping[str, FloatArray]
    origin: str

    def save(self, path: Path) -> None:
        """Write to `path` (.npz)."""
        arrays: dict[str, Any] = {f"inputs/{k}": v for k, v in self.inputs.items()}
        arrays |= {f"answers/{k}": v for k, v in self.answers.items()}
        with atomic_write(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, origin=np.array(self.origin), **arrays)

    @classmethod
    def load(cls, path: Path) -> Check:
        """Read what save wrote; no pickles. Raises VerificationError."""
        try:
            with np.load(path, allow_pickle=False) as data:
                found: dict[str, dict[str, Any]] = {"inputs": {}, "answers": {}}
                for key in data.files:
                    kind, _, name = key.partition("/")
                    if name:
                        found[kind][name] = data[key]
                return cls(found["inputs"], found["answers"], str(data["origin"]))
        except (OSError, ValueError, KeyError) as exc:
            raise VerificationError(
                f"{path}: not a saved check ({exc}); write one with "
                "python -m builders reference MODEL --output FILE"
            ) from exc


@dataclass(frozen=True)
class Measure:
    """How far one output is from the reference, over all crops.

    `relative` is the largest difference over the reference's spread, `cosine` the
    smallest between two rows, `agreement` the share of equal labels (1 without labels).
    """

    output: str
    max_abs: float
    relative: float
    cosine: float
    agreement: float
    passed: bool
    is_probability: bool = False

    @property
    def error(self) -> float:
        """The one figure to compare by: a probability's largest difference, else 1 -
        the smallest cosine.
        """
        return self.max_abs if self.is_probability else 1 - self.cosine

    def __str__(self) -> str:
        return (
            f"{self.output}: max abs {self.max_abs:.2e}, relative {self.relative:.2e}, "
            f"cosine {self.cosine:.6f}, labels {self.agreement:.1%}"
        )


def reference_check(model: Model, arrays: Mapping[str, Any], origin: Origin) -> Check:
    """The torch reference's answers on seeded noise and on real crops."""
    from builders.ops.torch import Reference

    inputs = parity_inputs(model)
    for image in model.images:
        inputs[image.name] = np.concatenate([inputs[image.name], real_crops(image)])
    return Check(inputs, Reference(model, arrays)(**inputs), str(origin))


def real_crops(image: Image) -> npt.NDArray[np.uint8]:
    """Parts of scikit-image's photographs as crops for `image`, [N, H, W, 3] RGB."""
    import cv2
    import skimage.data

    from personserve._crops import cut, pixel_boxes

    crops = []
    for name in PHOTOGRAPHS:
        picture = getattr(skimage.data, name)()
        if picture.ndim == 2:
            picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB)
        height, width = picture.shape[:2]
        windows = np.array(REAL_WINDOWS) * (width, height, width, height)
        boxes = pixel_boxes(windows, height, width)
        crops += cut(picture, boxes, [image.crop_shape], order="RGB")
    return np.concatenate(crops)


def measures(
    model: Model, check: Check, run: Runner, target: str, precision: str
) -> list[Measure]:
    """One Measure an output, judged by the model's tolerance for `precision`."""
    maximum = model.batching.maximum
    count = len(next(iter(check.inputs.values())))
    parts = [
        run(**{name: array[i : i + maximum] for name, array in check.inputs.items()})
        for i in range(0, count, maximum)
    ]
    got = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    return [
        _measure(
            model,
            output,
            got[output.name],
            check.answers[output.name],
            target,
            precision,
        )
        for output in model.outputs
    ]


def _measure(
    model: Model,
    output: Output,
    got: FloatArray,
    expected: FloatArray,
    target: str,
    precision: str,
) -> Measure:
    gap = np.abs(got.astype(np.float64) - expected)
    max_abs = float(gap.max())
    spread = float(np.ptp(expected))
    relative = max_abs / spread if spread else float("inf")
    lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = float(((got * expected).sum(axis=1) / lengths).min())
    agreement = 1.0
    if output.labels:
        labels = (got >= output.threshold) == (expected >= output.threshold)
        agreement = float(labels.mean())
    allowed = model.tolerance
    if precision == "fp32" and target == "cpu":
        passed = bool(np.isclose(got, expected, allowed.rtol, allowed.atol).all())
    elif precision == "fp32":
        passed = relative <= allowed.relative
    elif precision == "int8" and output.size == 1:
        passed = max_abs <= allowed.int8_abs
    elif precision == "int8":
        passed = cosine >= allowed.int8_cosine
    elif output.size == 1:
        passed = max_abs <= allowed.reduced_abs
    else:
        passed = cosine >= allowed.reduced_cosine
    passed = passed and bool(np.isfinite(got).all())
    return Measure(
        output.name, max_abs, relative, cosine, agreement, passed, output.size == 1
    )
