"""INT8 tables for tests, without calibration images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from builders.ops.placement import placement_from_model
from builders.quantisation.simulation import Int8TorchOps
from builders.quantisation.table import Int8Table
from builders.spec.model import Model
from builders.weights import StandIn


def table_of(model: Model, scales: Any) -> Int8Table:
    return Int8Table(model.name, str(StandIn()), "max", 0, "", "", "", scales)


def scales_of(model: Model, arrays: Any, inputs: Any) -> dict[str, float]:
    """Scales from the largest magnitudes, by an ordinary run in torch."""
    largest: dict[str, float] = {}

    class Watching(Int8TorchOps):
        def _pair(self, x: torch.Tensor, pair: Any) -> torch.Tensor:
            seen = float(x.abs().max())
            largest[pair.key] = max(largest.get(pair.key, 0.0), seen)
            return x

    weights = {k: torch.from_numpy(np.array(a)) for k, a in arrays.items()}
    tensors = {k: torch.from_numpy(a) for k, a in inputs.items()}
    with torch.inference_mode():
        model.wire(
            Watching(
                weights, tensors, placement_from_model(model), {}, requantised=True
            )
        )
    return {key: value / 127 for key, value in largest.items()}
