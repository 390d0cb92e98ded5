"""Frame and boxes to crops for the gender and the ReID network.

A request carries one frame, encoded [1, 1, bytes] or raw [H, W, 3], and its N boxes.
`model.py` is what the Python backend runs; the cutting itself is the client's own
module, copied beside it, so that both sides cut the same pixels.
"""

from __future__ import annotations

from pathlib import Path

from builders.models import person_gender, person_reid_kd_r18
from builders.spec import Image, Model, PythonModel, Tensor
from personserve import _crops as cropping

GENDER = person_gender.MODEL
REID = person_reid_kd_r18.MODEL

MAX_FRAME_PIXELS = 50_000_000
"""8K is 33 million; beyond this a small file could decode to gigabytes."""


def _crops(name: str, model: Model) -> tuple[Tensor, Image]:
    (image,) = model.images
    return Tensor(name, "UINT8", (-1, *image.tensor.shape)), image


_OUTPUTS = (_crops("gender_crops", GENDER), _crops("reid_crops", REID))

MODEL = PythonModel(
    name="person_preprocess",
    source=Path(__file__).with_name("model.py"),
    modules=(Path(cropping.__file__),),
    inputs=(
        Tensor("frame", "UINT8", (-1, -1, -1)),
        Tensor("boxes", "FP32", (-1, 4)),
    ),
    output_tensors=tuple(tensor for tensor, _ in _OUTPUTS),
    parameters={
        "max_people": str(min(GENDER.batching.maximum, REID.batching.maximum)),
        "max_frame_pixels": str(MAX_FRAME_PIXELS),
        **{f"{t.name}.interpolation": image.interpolation for t, image in _OUTPUTS},
    },
)
