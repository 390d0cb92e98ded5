"""The tests' own machinery."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from builders.models import person_gender_gennet_recon
from builders.weights import stand_in_weights
from tests import statistics_cache
from tests.references import random_reference

MODEL = person_gender_gennet_recon.MODEL


@pytest.mark.parametrize("kind", ["stand-in", "reference"])
def test_remembered_statistics_are_those_measured(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make() -> dict[str, np.ndarray]:
        if kind == "stand-in":
            return dict(stand_in_weights(MODEL).arrays)
        state = random_reference(MODEL.name).state_dict()
        return {key: tensor.numpy().copy() for key, tensor in state.items()}

    monkeypatch.setattr(statistics_cache, "folder", None)
    expected = make()
    monkeypatch.setattr(statistics_cache, "folder", tmp_path)
    for _ in range(2):
        arrays = make()
        assert arrays.keys() == expected.keys()
        for key, values in arrays.items():
            np.testing.assert_array_equal(values, expected[key], err_msg=key)
        (path,) = tmp_path.iterdir()
        assert path.name.startswith(f"{kind}-{MODEL.name}-")


def test_remembered_statistics_belong_to_their_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics_cache, "folder", tmp_path)
    first, second = (stand_in_weights(MODEL, seed).arrays for seed in (0, 1))
    assert len(list(tmp_path.iterdir())) == 2
    assert any(np.any(first[key] != second[key]) for key in first)
