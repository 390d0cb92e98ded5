"""Configs from declarations, through Triton's own protobuf.

`config.pbtxt` is the default (TensorRT plan); `configs/<target>.pbtxt` are Triton's
custom configurations (`--model-config-name`). Names, shapes, types and batch limits
are the same in all, so ensembles and clients never change with the target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from builders.repository import Repository
from builders.spec import Declaration, Ensemble, Model, Network, PythonModel, Tensor
from builders.weights import StandIn

DEFAULT_TARGET = "tensorrt"

GENERATED = "# Rendered by `python -m builders render`; edit the declaration instead.\n"

Fields = dict[str, Any]


def _tensorrt(model: Network) -> Fields:
    return {
        "platform": "tensorrt_plan",
        "default_model_filename": "model.plan",
        "instance_group": [{"kind": "KIND_GPU", "count": model.batching.gpu_instances}],
        "dynamic_batching": _dynamic_batching(model, model.batching.queue_delay_us),
        "model_warmup": _warm_up(
            model, {1, model.batching.usual, model.batching.maximum}
        ),
    }


def _onnxruntime(model: Network) -> Fields:
    return {
        "backend": "onnxruntime",
        "default_model_filename": "model.onnx",
        "instance_group": [{"kind": "KIND_AUTO"}],
        "dynamic_batching": _dynamic_batching(model, model.batching.queue_delay_us),
        "model_warmup": _warm_up(model, {1, model.batching.usual}),
    }


def _openvino(model: Network) -> Fields:
    return _onnxruntime(model) | {
        "backend": "openvino",
        "instance_group": [{"kind": "KIND_CPU"}],
        # the batch is dynamic in the file, and the backend would fix it
        "parameters": {"SKIP_OV_DYNAMIC_BATCHSIZE": {"string_value": "YES"}},
    }


def _cpu(model: Network) -> Fields:
    fields: Fields = {
        "backend": "python",
        "default_model_filename": "cpu_model.py",
        "instance_group": [{"kind": "KIND_CPU", "count": model.batching.cpu_instances}],
        "model_warmup": _warm_up(model, {1}),
    }
    delay_us = model.batching.cpu_queue_delay_us
    if delay_us is not None:
        fields["dynamic_batching"] = _dynamic_batching(model, delay_us)
    return fields


def _rtx(model: Network) -> Fields:
    return _tensorrt(model) | {
        "platform": "",
        "backend": "python",
        "default_model_filename": "plan_model.py",
        "parameters": {"FORCE_CPU_ONLY_INPUT_TENSORS": {"string_value": "no"}},
    }


TARGETS: Mapping[str, Callable[[Network], Fields]] = {
    DEFAULT_TARGET: _tensorrt,
    "cpu": _cpu,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "rtx": _rtx,
}
"""How a network is executed, by target; each gives what is its own in the config."""


def _dynamic_batching(model: Network, queue_delay_us: int) -> Fields:
    fields: Fields = {}
    if queue_delay_us:
        fields["max_queue_delay_microseconds"] = queue_delay_us
    if model.batching.preferred:
        fields["preferred_batch_size"] = list(model.batching.preferred)
    return fields


def configs(
    declaration: Declaration, repository: Repository
) -> Iterator[tuple[Path, str]]:
    """(path, text) of every config of `declaration` in `repository`."""
    folder = repository.folder(declaration.name)
    if not isinstance(declaration, Network):
        yield folder / "config.pbtxt", config_text(_joined(declaration, repository))
        return
    shared = _shared(declaration, repository)
    for target, fields in TARGETS.items():
        default = target == DEFAULT_TARGET
        path = folder / ("config.pbtxt" if default else f"configs/{target}.pbtxt")
        own = fields(declaration)
        parameters = shared["parameters"] | own.pop("parameters", {})
        yield path, config_text(shared | own | {"parameters": parameters})


def config_text(fields: Fields) -> str:
    """The text form of a ModelConfig. A misspelt field raises ParseError."""
    message = json_format.ParseDict(fields, model_config_pb2.ModelConfig())
    text: str = text_format.MessageToString(message)
    return GENERATED + text


def _shared(model: Network, repository: Repository) -> Fields:
    origin = repository.origin(model.name)
    return {
        "name": model.name,
        "max_batch_size": model.batching.maximum,
        "input": _tensors(model.inputs),
        "output": _tensors(model.output_tensors),
        "version_policy": {"latest": {"num_versions": 1}},
        "parameters": _parameters(
            {
                "weights": str(origin),
                "stand_in_weights": model.name if isinstance(origin, StandIn) else "",
                "source": model.source,
                "assumptions": model.assumptions,
                **_tensor_parameters(model),
            }
        ),
    }


def _joined(declaration: PythonModel | Ensemble, repository: Repository) -> Fields:
    fields: Fields = {
        "name": declaration.name,
        "max_batch_size": 0,
        "input": _tensors(declaration.inputs),
        "output": _tensors(declaration.output_tensors),
        "version_policy": {"latest": {"num_versions": 1}},
    }
    if isinstance(declaration, PythonModel):
        return fields | {
            "backend": "python",
            "instance_group": [{"kind": "KIND_CPU", "count": declaration.instances}],
            "parameters": _parameters(declaration.parameters),
        }
    stand_ins = [
        model.name
        for model in declaration.models
        if isinstance(repository.origin(model.name), StandIn)
    ]
    return fields | {
        "platform": "ensemble",
        "max_batch_size": declaration.maximum if declaration.batched else 0,
        "ensemble_scheduling": {
            "step": [
                {
                    "model_name": step.model.name,
                    "model_version": -1,
                    "input_map": dict(step.inputs),
                    "output_map": dict(step.outputs),
                }
                for step in declaration.steps
            ]
        },
        "parameters": _parameters(
            {
                "max_people": str(declaration.maximum),
                "stand_in_weights": ",".join(stand_ins),
                **_ensemble_parameters(declaration),
            }
        ),
    }


def _tensors(tensors: Sequence[Tensor]) -> list[Fields]:
    return [
        {
            "name": tensor.name,
            "data_type": f"TYPE_{tensor.data_type}",
            "dims": list(tensor.shape),
        }
        for tensor in tensors
    ]


def _warm_up(model: Network, batch_sizes: set[int]) -> list[Fields]:
    return [
        {
            "name": f"batch {size}",
            "batch_size": size,
            "inputs": {
                tensor.name: {
                    "data_type": f"TYPE_{tensor.data_type}",
                    "dims": [1 if d < 0 else d for d in tensor.shape],
                    "random_data": True,
                }
                for tensor in model.inputs
            },
        }
        for size in sorted(batch_sizes)
    ]


def _parameters(values: Mapping[str, str]) -> Fields:
    return {key: {"string_value": value} for key, value in values.items() if value}


def _tensor_parameters(model: Network) -> dict[str, str]:
    """What a client needs to know about tensors, as `<tensor>.<fact>`."""
    facts: dict[str, str] = {}
    if not isinstance(model, Model):
        return facts
    for image in model.images:
        facts[f"{image.name}.order"] = "RGB"
        facts[f"{image.name}.interpolation"] = image.interpolation
        if image.shorter_edge is not None:
            facts[f"{image.name}.shorter_edge"] = str(image.shorter_edge)
        facts[f"{image.name}.normalisation"] = (
            f"inside: {image.order}, mean {_list(image.mean)}, std {_list(image.std)}"
        )
    for output in model.outputs:
        if output.labels:
            facts[f"{output.name}.labels"] = ",".join(output.labels)
            facts[f"{output.name}.threshold"] = str(output.threshold)
    return facts


def _ensemble_parameters(ensemble: Ensemble) -> dict[str, str]:
    """The steps' facts about those tensors that the ensemble itself has."""
    own = {t.name for t in (*ensemble.inputs, *ensemble.output_tensors)}
    facts: dict[str, str] = {}
    for step in ensemble.steps:
        if not isinstance(step.model, Model):
            continue
        renames = {**step.inputs, **step.outputs}
        for key, value in _tensor_parameters(step.model).items():
            tensor, _, fact = key.partition(".")
            if renames[tensor] in own:
                facts[f"{renames[tensor]}.{fact}"] = value
    return facts


def _list(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)
