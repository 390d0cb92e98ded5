"""Wrong declarations fail when they are declared, and say why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from builders.models import person_gender, person_reid_kd_r18
from builders.spec import (
    Batching,
    Ensemble,
    Image,
    Output,
    PythonModel,
    SpecError,
    Step,
    Tensor,
    Vector,
)
from ensembles import person_attributes, person_preprocess

GENDER = person_gender.MODEL
PREPROCESS = person_preprocess.MODEL


def _image(**changes: Any) -> Image:
    return replace(GENDER.images[0], **changes)


def _ensemble(*steps: Step, outputs: tuple[str, ...] = ("p",)) -> Ensemble:
    return Ensemble("e", steps, outputs, batched=True)


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "name": (lambda: replace(GENDER, name="Person Gender"), "lower-case"),
    "outputs": (
        lambda: replace(GENDER, outputs=(Output("logit", 1),)),
        "declared as .*logit.*returns .*female_probability",
    ),
    "size": (
        lambda: replace(GENDER, images=(_image(height=100, width=100),)),
        "does not fit",
    ),
    "edge": (lambda: _image(shorter_edge=200), "less than the crop of 224x224"),
    "images and vectors": (
        lambda: replace(GENDER, vectors=(Vector("x", 3),)),
        "not both",
    ),
    "no output": (lambda: replace(GENDER, outputs=()), "at least one"),
    "two of a name": (
        lambda: replace(GENDER, images=(_image(name="female_probability"),)),
        "share a name",
    ),
    "units": (lambda: _image(mean=(0.485, 0.456, 0.406)), "multiply"),
    "std": (lambda: _image(std=(0.0, 1.0, 1.0)), "positive"),
    "height": (lambda: _image(height=0), "within"),
    "labels": (lambda: Output("x", 3, labels=("a", "b")), "one probability"),
    "threshold": (lambda: Output("x", 1, threshold=1.5), "inside"),
    "usual batch": (lambda: Batching(maximum=4, usual=8), "within"),
    "instances": (lambda: Batching(cpu_instances=0), "at least one"),
    "shape": (lambda: Tensor("x", "FP32", (0,)), "neither"),
    "file": (
        lambda: PythonModel("m", PREPROCESS.source.with_name("no.py"), (), (), {}),
        "no file",
    ),
    "unmapped input": (
        lambda: _ensemble(Step(GENDER, {}, {"female_probability": "p"})),
        "maps inputs",
    ),
    "unknown output": (
        lambda: _ensemble(
            Step(GENDER, {"crops": "crops"}, {"female_probability": "q"})
        ),
        "no step makes output 'p'",
    ),
    "batched over Python": (
        lambda: replace(person_attributes.MODEL, batched=True),
        "join models that batch",
    ),
}


@pytest.mark.parametrize(("declare", "message"), WRONG.values(), ids=WRONG)
def test_wrong_declarations(declare: Callable[[], object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        declare()


def test_an_ensembles_tensors_come_from_its_models() -> None:
    crops = replace(
        person_attributes.MODEL, steps=person_attributes.MODEL.steps[1:], batched=True
    )
    assert [t.name for t in crops.inputs] == ["gender_crops", "reid_crops"]
    assert [t.shape for t in crops.inputs] == [(224, 224, 3), (384, 128, 3)]
    assert [t.shape for t in person_attributes.MODEL.output_tensors] == [
        (-1, 1),
        (-1, 512),
    ]
    assert person_reid_kd_r18.MODEL in crops.models
