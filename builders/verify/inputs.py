"""Seeded inputs for verification, and runners of built files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from builders.errors import BuildersError
from builders.repository.runtimes.cpu_session import RuntimeMissingError, open_session
from builders.spec.model import Model, Network
from builders.tensors import sample_tensor
from builders.weights.standin import noise_crops, noise_inputs
from personserve import Client

FloatArray = npt.NDArray[np.float32]

Runner = Callable[..., Mapping[str, FloatArray]]
"""Runs a model: input arrays as keywords to {output name: FP32 [N, size]}."""

INPUT_SEED = 1
INPUT_COUNT = 5

PIXEL_NOISE_RANGE = (96, 160)
"""Values of independent noise pixels. The contrast is low because deep networks with
random weights overflow on white noise."""


class RunnerError(BuildersError, RuntimeError):
    """A built file cannot run on this machine; says why and what to do."""


def onnx_runner(model: str | bytes, record: Mapping[str, Any] | None = None) -> Runner:
    """Return a runner of an ONNX file on the CPU.

    Args:
        model: Path of the file, or its content.
        record: Record of the file, which names its runtime and precision. Without one
            the runtime is ONNX Runtime.

    Raises:
        RunnerError: The runtime is not installed.
    """
    try:
        session = open_session(model, record or {})
    except RuntimeMissingError as exc:
        raise RunnerError(str(exc)) from exc

    def run(**inputs: npt.NDArray[Any]) -> dict[str, FloatArray]:
        return dict(zip(session.outputs, session.run(inputs), strict=True))

    return run


def server_runner(client: Client, model: str) -> Runner:
    """Return a runner of a model on a server.

    Args:
        client: Client of the server.
        model: Name of the model.
    """

    def run(**inputs: npt.NDArray[Any]) -> Mapping[str, FloatArray]:
        return flatten_rows(client.infer(model, inputs))

    return run


def flatten_rows(outputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, FloatArray]:
    """Return outputs as rows of values, the form in which they are compared and stored.

    Args:
        outputs: Arrays [N, ...] of any type by output name.

    Returns:
        FP32 [N, size] by output name.
    """
    return {
        name: np.array(array, np.float32).reshape(len(array), -1)
        for name, array in outputs.items()
    }


def seeded_inputs(model: Network) -> dict[str, npt.NDArray[Any]]:
    """Return the same seeded noise for a model at every call.

    Args:
        model: Model that the inputs are for.

    Returns:
        Arrays of INPUT_COUNT rows by input name. Images are smooth noise, and the last
        one has independent pixels; other inputs are drawn from a normal distribution.
    """
    if isinstance(model, Model):
        inputs = noise_inputs(model, INPUT_COUNT, INPUT_SEED)
    else:
        rng = np.random.default_rng(INPUT_SEED)
        inputs = {t.name: sample_tensor(t, INPUT_COUNT, rng) for t in model.inputs}
    for number, image in enumerate(model.images):
        seed = INPUT_SEED + number
        inputs[image.name] = noise_crops(image, INPUT_COUNT, seed)
        rng = np.random.default_rng(seed)
        inputs[image.name][-1] = rng.integers(
            *PIXEL_NOISE_RANGE, image.tensor.shape, dtype=np.uint8
        )
    return inputs
