"""Types of the arguments of the client's methods, all in one place."""

from __future__ import annotations

from typing import Literal

from personserve._wire.connection import Headers
from personserve._wire.requests import Array, GpuArray, MemoryKind
from personserve.images.inputs import Boxes, ImageInput, ImageInputs

CropSide = Literal["server", "client", "auto"]
"""Where people are cropped from a frame; "auto" is the side that is cheaper."""

FrameInput = tuple[ImageInput, Boxes]
"""A frame, and the boxes of the people in it."""

__all__ = [
    "Array",
    "Boxes",
    "CropSide",
    "FrameInput",
    "GpuArray",
    "Headers",
    "ImageInput",
    "ImageInputs",
    "MemoryKind",
]
