"""Declarations that cannot work are refused on construction, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from builders.models import person_gender, person_reid_kd_r18
from builders.spec.catalogue import UnknownModelError, models
from builders.spec.ensemble import Ensemble, PythonModel, Step
from builders.spec.execution import PlanExecution
from builders.spec.model import Batching
from builders.spec.source import Source
from builders.tensors import Image, Output, SpecError, Tensor, Vector
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
    "source nowhere": (
        lambda: replace(GENDER, source=Source("a talk", licence="MIT")),
        "neither a url nor a paper",
    ),
    "source without licence": (lambda: Source("IBN-Net", licence=""), "a licence"),
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
    "optimal batch": (lambda: Batching(max_batch_size=4, opt_batch_size=8), "within"),
    "instances": (lambda: Batching(cpu_instances=0), "at least one"),
    "graphs": (
        lambda: replace(GENDER, execution=PlanExecution(graph_batch_sizes=(1, 65))),
        "within 1..max_batch_size",
    ),
    "options that end the server": (
        lambda: PlanExecution((1,), busy_wait_events=True, output_copy_stream=True),
        "leave one of them out",
    ),
    "shape": (lambda: Tensor("x", "FP32", (0,)), "neither"),
    "file": (
        lambda: PythonModel("m", PREPROCESS.model_file.with_name("no.py"), (), (), {}),
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
        "no step produces output 'p'",
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


def test_an_unknown_model_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(UnknownModelError) as error:
        models(["person_gendr"])
    assert "did you mean 'person_gender'?" in str(error.value)
    assert "kinship_pair" in str(error.value)


def test_a_source_is_cited_with_paper_and_link() -> None:
    source = Source("IBN-Net", "MIT", url="https://example.com", paper="arXiv:1")
    assert str(source) == "IBN-Net, arXiv:1, https://example.com"
