"""Weights: arrays by checkpoint name, and where they come from.

`load_weights` reads a file strictly against a model's layout; `stand_in_weights` makes
seeded ones where there is no checkpoint, and they say so wherever they go.
"""

from builders.weights.checkpoint import (
    Checkpoint,
    Origin,
    StandIn,
    Weights,
    file_sha256,
    fitted,
    load_weights,
)
from builders.weights.files import (
    CheckpointError,
    Contents,
    read_checkpoint,
    write_checkpoint,
)
from builders.weights.standin import noise_crops, stand_in_weights

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Contents",
    "Origin",
    "StandIn",
    "Weights",
    "file_sha256",
    "fitted",
    "load_weights",
    "noise_crops",
    "read_checkpoint",
    "stand_in_weights",
    "write_checkpoint",
]
