"""Files of training programs: containers, averaged weights, prefixes and suffixes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from typer.testing import CliRunner

from builders.commands.app import app
from builders.spec.catalogue import models
from builders.spec.model import Model
from builders.weights import (
    CheckpointError,
    fit_checkpoint,
    load_weights,
    read_checkpoint,
    stand_in_weights,
)
from builders.weights.containers import unwrap_names
from builders.weights.files import CheckpointContents

PAIR, RMNET, REID = models(
    ["kinship_pair", "person_gender_rmnet", "person_reid_kd_r18"]
)


def _state(seed: int = 0, prefix: str = "") -> dict[str, torch.Tensor]:
    arrays = stand_in_weights(PAIR, seed).arrays
    return {f"{prefix}{key}": torch.from_numpy(a.copy()) for key, a in arrays.items()}


def _numbered(model: Model) -> dict[str, torch.Tensor]:
    """A state dict whose arrays have values of their own."""
    return {
        key: torch.full(entry.shape, float(number))
        for number, (key, entry) in enumerate(model.summary.layout.items())
        if entry.kind != "counter"
    }


def _save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def _assert_seed(path: Path, seed: int, key: str = "") -> None:
    expected = stand_in_weights(PAIR, seed).arrays
    fit = fit_checkpoint(PAIR, read_checkpoint(path, key))
    assert not fit.problems
    for name, array in expected.items():
        np.testing.assert_array_equal(fit.arrays[name], array)


CONTAINERS = {
    "an empty model beside a state dict": {"model": {}, "state_dict": _state()},
    "nested": {"model": {"state_dict": _state()}, "epoch": 3},
    "DataParallel of a compiled network": {"model": _state(0, "module._orig_mod.")},
    "compiled, then DataParallel": {"state_dict": _state(0, "_orig_mod.module.")},
    "Lightning, with a loss": {
        "pytorch-lightning_version": "2.4.0",
        "state_dict": _state(0, "model._orig_mod.") | {"n": torch.ones(1)},
    },
    "Lightning's state dict by itself": _state(0, "model."),
    "averaged weights of timm": {
        "state_dict": _state(1),
        "state_dict_ema": _state(),
    },
    "averaged weights of torch": {
        "ema": _state(0, "module.") | {"n_averaged": torch.tensor(9)}
    },
    "averaged weights of a class": {"model": _state(1), "ema": {"shadow": _state()}},
}


@pytest.mark.parametrize("content", CONTAINERS.values(), ids=CONTAINERS)
def test_the_state_dict_is_found(tmp_path: Path, content: Any) -> None:
    contents = read_checkpoint(_save(tmp_path / "x.pth", content))
    arrays = {k: v for k, v in contents.arrays.items() if k != "n"}
    fit = fit_checkpoint(PAIR, CheckpointContents(arrays, contents.format))
    assert not fit.problems
    expected = stand_in_weights(PAIR).arrays
    for name, array in expected.items():
        np.testing.assert_array_equal(fit.arrays[name], array)


def test_plain_weights_are_taken_by_their_key(tmp_path: Path) -> None:
    path = _save(tmp_path / "x.pth", {"model": _state(1), "model_ema": _state()})
    assert "'model_ema'" in read_checkpoint(path).format
    assert "'model'" in read_checkpoint(path).note
    _assert_seed(path, 0)
    _assert_seed(path, 1, "model")
    with pytest.raises(CheckpointError, match="key weights: expected one of"):
        read_checkpoint(path, "weights")
    plain = tmp_path / "plain.safetensors"
    arguments = ["convert", str(path), str(plain), "--weights-key", "model"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    _assert_seed(plain, 1)
    with pytest.raises(CheckpointError, match="safetensors has one state dict"):
        read_checkpoint(plain, "model")
    shown = CliRunner().invoke(app, ["inspect", str(path)]).output
    assert "note     it has weights under 'model' too" in shown


@pytest.mark.parametrize("name", ["x.pth.tar", "x.pth.tar-60", "x.ckpt", "x.bin"])
def test_content_decides_the_format(tmp_path: Path, name: str) -> None:
    _assert_seed(_save(tmp_path / name, {"state_dict": _state()}), 0)
    save_file(dict(stand_in_weights(PAIR, 2).arrays), tmp_path / name)
    assert read_checkpoint(tmp_path / name).format == "safetensors"
    _assert_seed(tmp_path / name, 2)
    (tmp_path / name).write_bytes(b"model_checkpoint_path: x")
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / name)


def test_half_precision_becomes_fp32(tmp_path: Path) -> None:
    halves = {key: tensor.bfloat16() for key, tensor in _state().items()}
    path = _save(tmp_path / "x.ckpt", {"state_dict": halves})
    for name, array in load_weights(PAIR, path).arrays.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, halves[name].float().numpy())


def test_names_that_become_one_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"a occurs twice, as module\.a and as a"):
        unwrap_names(["module.a", "a"])
    assert unwrap_names(["model.a", "head.b"]) == {
        "model.a": "model.a",
        "head.b": "head.b",
    }
    assert unwrap_names(["model."]) == {"model.": "model."}


def test_differences_are_counted_by_kind(tmp_path: Path) -> None:
    state = _state() | {f"extra.{n}": torch.ones(1) for n in range(40)}
    del state["head.2.bias"]
    state["head.0.bias"] = torch.full_like(state["head.0.bias"], float("nan"))
    with pytest.raises(CheckpointError) as error:
        load_weights(PAIR, _save(tmp_path / "x.pth", state))
    keys = len(PAIR.summary.layout)
    assert (
        f"which has {keys} keys; the file has {keys + 39}, and 1 not finite, "
        "1 missing, 40 unexpected"
    ) in str(error.value)
    assert "not finite  head.0.bias: 128 of 128" in str(error.value)


def test_the_nearest_model_is_the_most_similar_not_the_smallest(tmp_path: Path) -> None:
    state = _numbered(REID)
    # most keys differ: a small model without a single common key has fewer problems
    renamed = {k.replace("layer", "stage"): v for k, v in state.items()}
    path = _save(tmp_path / "x.pth", renamed)
    output = CliRunner().invoke(app, ["inspect", str(path)]).output
    nearest = output[output.index("the nearest are:") :].splitlines()[1]
    assert nearest.split(":")[0].strip().startswith("person_reid_")


def test_connectors_of_every_release_are_dropped(tmp_path: Path) -> None:
    state = _numbered(REID)
    extra = ("connectors.0.0.weight", "connectors_s.0.1.bias", "margin1")
    more = state | {name: torch.ones(2) for name in extra}
    path = _save(tmp_path / "x.pth", more)
    assert set(load_weights(REID, path).arrays) == set(state)


def _original_name(key: str) -> str:
    """Return the name of rmnet.py (OpenVINO training extensions) for a key."""
    parts = key.split(".")
    if not parts[0].startswith("layer"):
        is_head = parts[0] == "classifier"
        return key if is_head else f"backbone.stages.stage_0.{key}"
    layers = {"conv1": "squeeze_conv", "bn1": "squeeze_bn", "conv2": "dw_conv"}
    layers |= {"bn2": "dw_bn", "conv3": "expand_conv", "bn3": "expand_bn"}
    layers |= {"shortcut": "skip_conv", "shortcut_bn": "skip_conv_bn"}
    stage = int(parts[0].removeprefix("layer"))
    shift = 0 if stage == 1 else 1
    block = 0 if parts[1] == "down" else int(parts[1]) + shift
    return f"backbone.stages.stage_{stage}.{block}.{layers[parts[2]]}.{parts[3]}"


def test_rmnet_loads_under_its_original_names(tmp_path: Path) -> None:
    state = _numbered(RMNET)
    original = {_original_name(key): tensor for key, tensor in state.items()}
    loaded = load_weights(RMNET, _save(tmp_path / "rmnet.pth", original)).arrays
    assert set(loaded) == set(state)
    for key, tensor in state.items():
        np.testing.assert_array_equal(loaded[key], tensor.numpy())
