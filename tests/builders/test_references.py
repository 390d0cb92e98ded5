"""Every network against a torch module that shares no code with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from builders.catalogue import catalogue
from builders.ops.onnx import onnx_from_model
from builders.ops.torch import Reference
from builders.parity import parity_inputs
from builders.spec import Model
from builders.weights import Contents
from builders.weights.checkpoint import matched
from tests.references import REFERENCES, randomised

MODELS = {n: d for n, d in catalogue().items() if isinstance(d, Model)}


def test_every_model_has_a_reference() -> None:
    assert set(REFERENCES) == set(MODELS)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_networks_equal_their_independent_reference(model: Model) -> None:
    import onnxruntime

    module = randomised(model.name)
    state = {key: value.numpy() for key, value in module.state_dict().items()}
    arrays = matched(model, Contents(state, "torch"), "reference")
    crops = parity_inputs(model)
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
