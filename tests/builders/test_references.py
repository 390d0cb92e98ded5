"""Every network against an independent torch module that shares no code with it."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
import torch

from builders.networks.fastreid import fastreid_model
from builders.networks.residual import StemPool
from builders.ops.onnx import onnx_from_model
from builders.ops.torch import Reference
from builders.spec.catalogue import catalogue
from builders.spec.model import Model
from builders.spec.source import Source
from builders.verify.inputs import seeded_inputs
from builders.weights import CheckpointContents
from builders.weights.checkpoint import match_checkpoint
from tests.references import random_reference, reference_names, shrink_model

SOURCE = Source("test", licence="none", url="https://example.com")
MODELS = {n: shrink_model(d) for n, d in catalogue().items() if isinstance(d, Model)}


def test_every_model_has_a_reference() -> None:
    missing = sorted(set(MODELS) - reference_names())
    assert not missing, "; ".join(
        f"add tests/references/{name}.py with REFERENCE, a torch module of {name} that "
        "shares no code with builders/networks"
        for name in missing
    )
    unused = sorted(reference_names() - set(MODELS))
    assert not unused, f"tests/references has files of unknown models: {unused}"


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_networks_equal_their_independent_reference(model: Model) -> None:
    _compare(model, random_reference(model.name))


@pytest.mark.parametrize("name", MODELS)
def test_references_run_where_their_input_is(name: str) -> None:
    """A constant on the CPU fails on the meta device as it does on a GPU."""
    with torch.device("meta"):
        module = import_module(f"tests.references.{name}").REFERENCE().eval()
    crops = seeded_inputs(MODELS[name]).values()
    outputs = module(*(torch.from_numpy(c).to("meta") for c in crops))
    assert {value.device.type for value in outputs.values()} == {"meta"}


@pytest.mark.parametrize("stem_pool", ["padded", "ceil"])
def test_fastreid_at_the_other_size_and_with_the_older_stem(
    stem_pool: StemPool,
) -> None:
    model = fastreid_model(
        "x", depth=18, ibn=True, size_hw=(256, 128), stem_pool=stem_pool, source=SOURCE
    )
    module = random_reference("person_reid_kd_r18")
    if stem_pool == "padded":
        module.get_submodule("backbone").maxpool = torch.nn.MaxPool2d(3, 2, padding=1)
    _compare(model, module)


def _compare(model: Model, module: torch.nn.Module) -> None:
    import onnxruntime

    state = {key: value.numpy() for key, value in module.state_dict().items()}
    arrays = match_checkpoint(model, CheckpointContents(state, "torch"), "reference")
    crops = seeded_inputs(model)
    with torch.inference_mode():
        expected = module(*(torch.from_numpy(c) for c in crops.values()))

    ours = Reference(model, arrays)(**crops)
    session = onnxruntime.InferenceSession(
        onnx_from_model(model, arrays).SerializeToString(),
        providers=["CPUExecutionProvider"],
    )
    names = [output.name for output in session.get_outputs()]
    exported = dict(zip(names, session.run(names, crops), strict=True))

    assert set(ours) == set(exported) == set(expected)
    for name, value in expected.items():
        assert np.ptp(value.numpy(), axis=0).max() > 1e-3, "crops must differ"
        np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(exported[name], value, rtol=1e-3, atol=1e-4)
