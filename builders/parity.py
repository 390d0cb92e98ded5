"""How far two runs of the same network are apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from builders.runtimes.cpu_session import open_session
from builders.spec import Model, Tolerance
from builders.weights.standin import noise_crops, noise_inputs

FloatArray = npt.NDArray[np.float32]

PARITY_SEED = 1
PARITY_COUNT = 5


Runner = Callable[..., Mapping[str, FloatArray]]
"""Runs what was built: {input: array} as keywords to {output: FP32 [N, size]}."""


class ParityError(ValueError):
    """A backend's numbers are outside the model's tolerance."""


@dataclass(frozen=True)
class Difference:
    """`outside` of `total` values are further from the reference than allowed."""

    output: str
    max_abs: float
    outside: int
    total: int

    def __str__(self) -> str:
        return (
            f"{self.output}: {self.outside} of {self.total} values outside, "
            f"largest difference {self.max_abs:.2e}"
        )


def onnx_runner(model: str | bytes, record: Mapping[str, Any] | None = None) -> Runner:
    """A file's path or its bytes, on the CPU, by the runtime that `record` names."""
    session = open_session(model, record or {})

    def run(**inputs: npt.NDArray[Any]) -> dict[str, FloatArray]:
        return dict(zip(session.outputs, session.run(inputs), strict=True))

    return run


def parity_inputs(model: Model) -> dict[str, npt.NDArray[Any]]:
    """Seeded inputs for `model`: smooth noise, and one of independent pixels, of low
    contrast, because deep networks with random weights overflow on white noise.
    """
    inputs = noise_inputs(model, PARITY_COUNT, PARITY_SEED)
    for number, image in enumerate(model.images):
        seed = PARITY_SEED + number
        inputs[image.name] = noise_crops(image, PARITY_COUNT, seed)
        rng = np.random.default_rng(seed)
        inputs[image.name][-1] = rng.integers(
            96, 160, image.tensor.shape, dtype=np.uint8
        )
    return inputs


def differences(
    got: Mapping[str, FloatArray],
    reference: Mapping[str, FloatArray],
    tolerance: Tolerance,
) -> list[Difference]:
    """One Difference an output; NaN and infinity count as outside."""
    result = []
    for name, expected in reference.items():
        close = np.isclose(got[name], expected, tolerance.rtol, tolerance.atol)
        gap = np.abs(got[name].astype(np.float64) - expected)
        result.append(
            Difference(
                name, float(gap.max()), int(np.count_nonzero(~close)), close.size
            )
        )
    return result


def require_parity(
    got: Mapping[str, FloatArray],
    reference: Mapping[str, FloatArray],
    tolerance: Tolerance,
    what: str,
) -> list[Difference]:
    """The differences, if all are within `tolerance`. Raises ParityError otherwise."""
    found = differences(got, reference, tolerance)
    bad = [str(difference) for difference in found if difference.outside]
    if bad:
        raise ParityError(
            f"{what} differs from the torch reference by more than rtol "
            f"{tolerance.rtol:g}, atol {tolerance.atol:g}: {'; '.join(bad)}"
        )
    return found
