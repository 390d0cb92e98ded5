"""Weights: arrays by checkpoint name, and where they come from.

`load_weights` reads a file strictly against a model's layout; `stand_in_weights` makes
seeded ones where there is no checkpoint, and they say so wherever they go.
"""

from builders.weights.checkpoint import (
    Checkpoint,
    CheckpointError,
    Origin,
    StandIn,
    Weights,
    file_sha256,
    load_weights,
    read_arrays,
)
from builders.weights.standin import noise_crops, stand_in_weights

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Origin",
    "StandIn",
    "Weights",
    "file_sha256",
    "load_weights",
    "noise_crops",
    "read_arrays",
    "stand_in_weights",
]
