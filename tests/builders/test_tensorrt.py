"""Plans without a GPU: TensorRT-RTX builds every network, and an interpreter executes
the very network definition that the builder gets.
"""

from __future__ import annotations

from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from builders.ops.folding import Kernel
from builders.ops.placement import Int8, placement_from_model
from builders.ops.torch import Reference
from builders.progress import no_progress
from builders.spec.catalogue import catalogue, models
from builders.spec.model import Model
from builders.tensorrt import network as backend
from builders.tensorrt.inspection import require_types, types_from_inspector
from builders.tensorrt.library import Library, PlanError, load_library
from builders.tensorrt.network import TensorrtOps, define_network
from builders.tensorrt.plan import PlanOptions, plan_from_model
from builders.verify.inputs import seeded_inputs
from builders.weights import CheckpointContents, stand_in_weights
from builders.weights.checkpoint import match_checkpoint
from tests.references import random_reference, shrink_model
from tests.tensorrt_interpreter import Interpreter

pytest.importorskip("tensorrt_rtx")

MODELS = {model.name: model for model in models()}
EVERY = {n: shrink_model(d) for n, d in catalogue().items() if isinstance(d, Model)}
"""With those on request."""

GPUS = ("sm_80", "sm_86", "sm_89", "sm_120")
LIBRARY = load_library("rtx")
GENDER = MODELS["person_gender"]


@lru_cache(maxsize=1)
def _random_arrays(name: str) -> Any:
    state = random_reference(name).state_dict()
    arrays = {key: value.numpy() for key, value in state.items()}
    contents = CheckpointContents(arrays, "torch")
    return match_checkpoint(EVERY[name], contents, "reference")


def _randomised(model: Model) -> Any:
    """Every weight and statistic random, from the independent reference."""
    return _random_arrays(model.name)


@lru_cache(maxsize=1)
def _stand_ins(name: str) -> Any:
    return stand_in_weights(MODELS[name]).arrays


def _inputs(model: Model) -> dict[str, np.ndarray]:
    """A smooth image and one of independent pixels; the interpreter is slow."""
    return {name: rows[-2:] for name, rows in seeded_inputs(model).items()}


def _interpreted(
    model: Model, library: Library = LIBRARY, crops: Any = None
) -> dict[str, np.ndarray]:
    trt = library.trt
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = library.create_network(builder)
    ops = define_network(library, network, model, _randomised(model), "fp32")
    outputs = Interpreter(trt).run(network, **(crops or _inputs(model)))
    del ops
    return outputs


@cache
def _reference_outputs(name: str) -> dict[str, np.ndarray]:
    model = EVERY[name]
    return Reference(model, _randomised(model))(**_inputs(model))


def _gap(model: Model, got: dict[str, np.ndarray]) -> float:
    reference = _reference_outputs(model.name)
    return max(float(np.abs(got[k] - v).max()) for k, v in reference.items())


@pytest.mark.parametrize("model", EVERY.values(), ids=EVERY)
def test_the_network_definition_equals_the_torch_ops(model: Model) -> None:
    assert _gap(model, _interpreted(model)) < 1e-4


INSTANCE_NORM = {
    name: model
    for name, model in EVERY.items()
    if any(".IN." in key for key in model.summary.layout)
}
"""Models with instance norm, whose definitions depend on the library having it."""


@pytest.mark.parametrize("model", INSTANCE_NORM.values(), ids=INSTANCE_NORM)
def test_so_does_instance_norm_decomposed(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Library, "normalization", None)
    assert _gap(model, _interpreted(model)) < 1e-4


def _wrong_stride(patch: pytest.MonkeyPatch) -> None:
    right = TensorrtOps.max_pool

    def wrong(self: TensorrtOps, x: Any, *, padding: Any = 0, **rest: Any) -> Any:
        # one pixel off, same size
        return right(self, x, padding=(0, 1) if padding == 1 else padding, **rest)

    patch.setattr(TensorrtOps, "max_pool", wrong)


def _wrong_eps(patch: pytest.MonkeyPatch) -> None:
    right = backend.fold_norm

    def wrong(*args: Any, **rest: Any) -> Kernel:
        kernel = right(*args, **rest)
        norm = kernel.instance_norm
        if norm is None:
            return kernel
        object.__setattr__(norm, "eps", 1e-2)
        return kernel

    patch.setattr(backend, "fold_norm", wrong)


def _swapped_halves(patch: pytest.MonkeyPatch) -> None:
    right = TensorrtOps._instance_norm

    def wrong(self: TensorrtOps, x: Any, norm: Any) -> Any:
        swapped = type(norm)(
            norm.name, norm.channels, norm.scale[::-1], norm.shift, norm.eps
        )
        return right(self, x, swapped)

    patch.setattr(TensorrtOps, "_instance_norm", wrong)


def _wrong_permutation(patch: pytest.MonkeyPatch) -> None:
    permutation = LIBRARY.trt.Permutation
    patch.setattr(LIBRARY.trt, "Permutation", lambda _axes: permutation([0, 3, 2, 1]))


BREAKS = (_wrong_stride, _wrong_eps, _swapped_halves, _wrong_permutation)


@pytest.mark.parametrize("break_it", BREAKS)
def test_a_broken_op_is_noticed(break_it: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    break_it(monkeypatch)
    assert _gap(GENDER, _interpreted(GENDER)) > 1e-3


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_every_model_builds_in_every_precision_for_every_gpu(model: Model) -> None:
    arrays = _stand_ins(model.name)
    placement = placement_from_model(model)
    int8 = Int8(placement, dict.fromkeys(placement.keys, 0.05))
    for precision in LIBRARY.precisions:
        if precision == "int8" and not placement.layers:
            continue
        plan = plan_from_model(
            LIBRARY,
            model,
            arrays,
            PlanOptions(precision, GPUS),  # one build for all takes no longer than one
            no_progress,
            int8 if precision == "int8" else None,
        )
        wanted = {"fp16": "FP16", "bf16": "BF16"}.get(precision, "FP32")
        if precision == "int8":
            assert plan.types["INT8"] >= len(placement.layers)
            continue
        precise = 20 if "r50" in model.name else 0  # four in each non-local block
        if model.vectors:
            assert plan.types == {"FP32": 2}, "linear layers stay FP32"
            assert plan.layer_kind == "matrix multiplications"
        elif wanted == "FP32":
            assert set(plan.types) == {"FP32"}
        else:
            assert plan.types.get("FP32", 0) == precise
            assert set(plan.types) <= {wanted, "FP32"}
        assert len(plan.data) > 2 * model.summary.parameter_count


def test_sensitive_parts_stay_in_fp32() -> None:
    model = MODELS["person_gender_reid"]
    trt = LIBRARY.trt
    network = LIBRARY.create_network(trt.Builder(trt.Logger(trt.Logger.ERROR)))
    ops = define_network(LIBRARY, network, model, _randomised(model), "fp16")
    half, whole = trt.LayerType.CONVOLUTION, set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == half:
            assert layer.get_output(0).dtype == trt.float16
        elif layer.get_output(0).dtype == trt.float32:
            whole.add(layer.name)
    del ops
    assert {
        "backbone.layer1.0.bn1.IN",
        "heads.pool_layer.pow",
        "heads.bottleneck.0",
        "gender_classifier.linear_layers.linear.0",
        "sigmoid_1",
        "embedding.output",
    } <= whole


def test_layers_are_named_after_the_checkpoint() -> None:
    trt = LIBRARY.trt
    network = LIBRARY.create_network(trt.Builder(trt.Logger(trt.Logger.ERROR)))
    ops = define_network(LIBRARY, network, GENDER, _randomised(GENDER), "fp32")
    names = [network.get_layer(i).name for i in range(network.num_layers)]
    del ops
    assert len(set(names)) == len(names)
    assert {"backbone.conv1", "backbone.layer1.0.conv1.IN", "gender_conv.0"} <= set(
        names
    )


def _plan(**options: Any) -> Any:
    arrays = options.pop("arrays", None) or stand_in_weights(GENDER).arrays
    return plan_from_model(LIBRARY, GENDER, arrays, PlanOptions(**options), no_progress)


def test_gpu_types_are_asked_for_and_checked() -> None:
    with pytest.raises(PlanError, match=r"needs to know the GPU: --gpu .*sm_86"):
        _plan()
    with pytest.raises(PlanError, match=r"no GPU type sm_90; it builds for sm_75"):
        _plan(gpus=("sm_90",))


def test_weights_of_a_wrong_shape_are_refused() -> None:
    arrays = dict(stand_in_weights(GENDER).arrays)
    arrays["backbone.layer2.0.conv1.weight"] = np.zeros((128, 32, 3, 3), np.float32)
    with pytest.raises(PlanError, match=r"could not build|refused layer"):
        _plan(arrays=arrays, gpus=("sm_86",))


def test_progress_is_reported() -> None:
    states: list[tuple[str, int, int]] = []

    def record_state(what: str, done: int = 0, total: int = 0) -> None:
        states.append((what, done, total))

    arrays = stand_in_weights(GENDER).arrays
    options = PlanOptions("fp16", ("sm_86",))
    plan_from_model(LIBRARY, GENDER, arrays, options, record_state)
    phases = [state for state in states if state[0].startswith("building: ")]
    assert phases
    assert all(1 <= done <= total for _, done, total in phases)


def test_an_interrupted_build_ends() -> None:
    def interrupt(what: str, done: int = 0, total: int = 0) -> None:
        del done, total
        if what.startswith("building: "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plan_from_model(
            LIBRARY,
            GENDER,
            stand_in_weights(GENDER).arrays,
            PlanOptions("fp16", ("sm_86",)),
            interrupt,
        )


def test_inspectors_of_all_versions_are_read() -> None:
    text = """{"Layers": [
      {"LayerType": "CaskConvolution", "ParameterType": "Convolution",
       "Inputs": [{"Format/Datatype": "N/A due to dynamic shapes"}],
       "Weights": {"Type": "Half", "Count": 9408}},
      {"LayerType": "CaskGemmConvolution",
       "Inputs": [{"Format/Datatype": "Row major linear FP32"}]},
      {"LayerType": "conv", "Inputs": [{"Datatype": "Half"}]},
      {"LayerType": "Reformat", "Inputs": [{"Datatype": "Int8"}]},
      "a plain string"]}"""
    assert types_from_inspector(text) == {"FP16": 2, "FP32": 1}


GEMM = """{"Layers": [
  {"LayerType": "CaskGemmMatrixMultiply", "Inputs": [{"Format/Datatype": "%s"}]},
  {"LayerType": "PointWiseV2", "Inputs": [{"Format/Datatype": "FP16"}]}]}"""


def test_a_network_without_convolutions_is_judged_by_its_matrix_multiplications() -> (
    None
):
    kind: Any = "matrix multiplications"
    types = types_from_inspector(GEMM % "Row major linear FP32", kind)
    assert types == {"FP32": 1}
    assert types_from_inspector(GEMM % "FP32") == {}
    require_types(types, kind, "engine inspector", "FP32", 1)
    half = types_from_inspector(GEMM % "Row major linear FP16 format", kind)
    with pytest.raises(PlanError, match=r"not FP32: 1 matrix multiplications should"):
        require_types(half, kind, "engine inspector", "FP32", 1)
    # one fused kernel: the inspector names no such layer, and nothing can be judged
    require_types({}, kind, "engine inspector", "FP32", 0)


def _inspect_as(monkeypatch: pytest.MonkeyPatch, datatype: str) -> None:
    """Let plans load, and the inspector show matrix multiplications of this type."""
    inspector = SimpleNamespace(get_engine_information=lambda _kind: GEMM % datatype)
    engine = SimpleNamespace(create_engine_inspector=lambda: inspector)
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda _data: engine)
    monkeypatch.setattr(LIBRARY.trt, "Runtime", lambda _logger: runtime)


def test_a_pair_head_is_fp32_in_every_precision_or_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = MODELS["kinship_pair"]
    options = PlanOptions("fp16", ("sm_86",))

    def build_plan() -> Any:
        return plan_from_model(
            LIBRARY, pair, _stand_ins(pair.name), options, no_progress
        )

    _inspect_as(monkeypatch, "Row major linear FP32")
    plan = build_plan()
    assert (plan.types, plan.types_from) == ({"FP32": 1}, "engine inspector")
    _inspect_as(monkeypatch, "N/A due to dynamic shapes")
    plan = build_plan()
    assert plan.types == {"FP32": 2}
    assert "network definition (the inspector gives no types)" in plan.types_from
    _inspect_as(monkeypatch, "Row major linear FP16 format")
    with pytest.raises(PlanError, match="not FP32: 1 matrix multiplications"):
        build_plan()


def test_without_a_gpu_a_builder_that_needs_one_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def create(_logger: Any) -> Any:
        raise TypeError("factory function returned nullptr")

    monkeypatch.setattr(LIBRARY.trt, "Builder", create)
    with pytest.raises(PlanError, match=r"needs an NVIDIA GPU .*--target rtx --gpu"):
        _plan(gpus=("sm_86",))
    monkeypatch.setattr(LIBRARY.trt, "Builder", lambda _logger: None)
    with pytest.raises(PlanError, match="needs an NVIDIA GPU"):
        _plan(gpus=("sm_86",))


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(PlanError, match=r'pip install -e "\.\[tensorrt\]"'):
        load_library.__wrapped__("tensorrt")


def test_the_interpreter_itself_knows_torch() -> None:
    """A network of one layer of each kind that the models do not all use."""
    trt = LIBRARY.trt
    network = LIBRARY.create_network(trt.Builder(trt.Logger(trt.Logger.ERROR)))
    x = network.add_input("x", trt.float32, (-1, 3, 5, 5))
    order = network.add_constant((3,), np.array([2, 1, 0], np.int32)).get_output(0)
    y = network.add_gather(x, order, 1).get_output(0)
    y.name = "y"
    network.mark_output(y)
    array = torch.rand(2, 3, 5, 5).numpy()
    np.testing.assert_array_equal(
        Interpreter(trt).run(network, x=array)["y"], array[:, ::-1]
    )
