"""Weights: arrays by checkpoint name, and their origin.

`load_weights` reads a checkpoint strictly against a model's layout. Without a
checkpoint, `stand_in_weights` generates seeded untrained weights; configs, records and
results name them as such.
"""

from builders.weights.checkpoint import (
    Checkpoint,
    CheckpointFit,
    Origin,
    StandIn,
    Weights,
    file_sha256,
    fit_checkpoint,
    load_weights,
    match_checkpoint,
    origin_from_text,
    read_training_record,
    stand_in_warning,
)
from builders.weights.files import (
    CheckpointContents,
    read_checkpoint,
    require_writable_format,
    write_checkpoint,
)
from builders.weights.intake import CheckpointError, require_file
from builders.weights.standin import noise_crops, stand_in_weights

__all__ = [
    "Checkpoint",
    "CheckpointContents",
    "CheckpointError",
    "CheckpointFit",
    "Origin",
    "StandIn",
    "Weights",
    "file_sha256",
    "fit_checkpoint",
    "load_weights",
    "match_checkpoint",
    "noise_crops",
    "origin_from_text",
    "read_checkpoint",
    "read_training_record",
    "require_file",
    "require_writable_format",
    "stand_in_warning",
    "stand_in_weights",
    "write_checkpoint",
]
