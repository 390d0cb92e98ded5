"""Configs from declarations, through Triton's own protobuf.

`config.pbtxt` is the default (TensorRT plan); `configs/<target>.pbtxt` are Triton's
custom configurations (`--model-config-name`). Names, shapes, types and batch limits
are the same in all, so ensembles and clients never change with the target.

Triton's instance counts are static, and on a CPU they must follow the machine: one
instance per core. The committed configs are written for COMMITTED_CORES;
`configs/<target>-<cores>.pbtxt` are the same for another machine, written by `serve`
or by `render --cores`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from builders.repository.layout import Repository
from builders.repository.queue_limits import (
    GPU_BATCHES,
    GPU_FRAMES,
    PEOPLE_PER_GPU,
    cpu_queue_policy,
    queue_policy,
)
from builders.spec.ensemble import Declaration, Ensemble, PythonModel
from builders.spec.model import Model, Network, OnnxModel
from builders.tensors import Tensor
from builders.weights import StandIn

DEFAULT_TARGET = "tensorrt"

COMMITTED_CORES = 2
"""CPU cores that the committed configs are written for."""

UNMERGED = (1,)
"""Preferred batch sizes by which Triton's dynamic batcher merges no requests: each one
reaches or exceeds the preferred size and is run at once. Without a batcher there is no
queue policy."""

GENERATED = "# Rendered by `python -m builders render`; edit the declaration instead.\n"

Fields = dict[str, Any]


def _plan(model: Network, ensembles: Sequence[Ensemble]) -> Fields:
    """Return the fields of a plan, whichever backend runs it."""
    return {
        # on each GPU of the machine
        "instance_group": [{"kind": "KIND_GPU", "count": model.batching.gpu_instances}],
        "dynamic_batching": _gpu_batching(model, ensembles),
        "model_warmup": _warm_up(
            model, {1, model.batching.opt_batch_size, model.batching.max_batch_size}
        ),
    }


def _tensorrt(model: Network, _cores: int, ensembles: Sequence[Ensemble]) -> Fields:
    return {
        **_plan(model, ensembles),
        "platform": "tensorrt_plan",
        "default_model_filename": "model.plan",
        **_execution(model),
    }


def _execution(model: Network) -> Fields:
    """Return the options of the native TensorRT backend; none if all are off."""
    execution = model.execution
    cuda: Fields = {}
    if execution.graph_batch_sizes:
        shapes = {each.name: {"dim": list(each.shape)} for each in model.inputs}
        cuda["graphs"] = True
        cuda["graph_spec"] = [
            {"batch_size": size, "input": shapes}
            for size in execution.graph_batch_sizes
        ]
    if execution.busy_wait_events:
        cuda["busy_wait_events"] = True
    if execution.output_copy_stream:
        cuda["output_copy_stream"] = True
    return {"optimization": {"cuda": cuda}} if cuda else {}


def _onnxruntime(model: Network, _cores: int, ensembles: Sequence[Ensemble]) -> Fields:
    return {
        "backend": "onnxruntime",
        "default_model_filename": "model.onnx",
        "instance_group": [{"kind": "KIND_AUTO"}],
        "dynamic_batching": _gpu_batching(model, ensembles),
        "model_warmup": _warm_up(model, {1, model.batching.opt_batch_size}),
    }


def _openvino(model: Network, cores: int, ensembles: Sequence[Ensemble]) -> Fields:
    return _onnxruntime(model, cores, ensembles) | {
        "backend": "openvino",
        "instance_group": [{"kind": "KIND_CPU"}],
        # the batch is dynamic in the file, and the backend would fix it
        "parameters": {"SKIP_OV_DYNAMIC_BATCHSIZE": {"string_value": "YES"}},
    }


def _cpu(model: Network, cores: int, ensembles: Sequence[Ensemble]) -> Fields:
    instances = count_instances(model, "cpu", cores)
    fields: Fields = {
        "backend": "python",
        "default_model_filename": "cpu_model.py",
        "instance_group": [{"kind": "KIND_CPU", "count": instances}],
        "model_warmup": _warm_up(model, {1}),
    }
    delay_us = model.batching.cpu_queue_delay_us
    policy = _unless_step(ensembles, cpu_queue_policy(instances))
    if delay_us is not None:
        fields["dynamic_batching"] = _merging(model, delay_us) | policy
    elif policy:
        fields["dynamic_batching"] = {"preferred_batch_size": UNMERGED} | policy
    return fields


def _rtx(model: Network, _cores: int, ensembles: Sequence[Ensemble]) -> Fields:
    return {
        **_plan(model, ensembles),
        "backend": "python",
        "default_model_filename": "plan_model.py",
        "parameters": {"FORCE_CPU_ONLY_INPUT_TENSORS": {"string_value": "no"}},
    }


TARGETS: Mapping[str, Callable[[Network, int, Sequence[Ensemble]], Fields]] = {
    DEFAULT_TARGET: _tensorrt,
    "cpu": _cpu,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "rtx": _rtx,
}
"""The fields of a network's config that depend on the target, by target; from the
network, the number of cores, and the ensembles that have the network as a step."""


GPU_TARGETS = (DEFAULT_TARGET, "rtx")
"""Targets whose networks run on a GPU, and so the Python models that can."""

GPU_PROCESSES = 2
"""Processes of a Python model on each GPU. One is limited by Python's lock: with two an
H100 decodes and cuts 1.8 times as many frames (builders/benchmarks/README.md)."""


def count_instances(declaration: Network | PythonModel, target: str, cores: int) -> int:
    """Return how many Python-backend processes serve a model; 0 if it needs none.

    Args:
        declaration: A network or a Python model.
        target: Name of the target, for example "cpu".
        cores: CPU cores of the machine.
    """
    if isinstance(declaration, PythonModel):
        if gpu_form(declaration, target) is not None:
            return GPU_PROCESSES
        return declaration.instances or cores
    if target == "cpu":
        return declaration.batching.cpu_instances or cores
    return declaration.batching.gpu_instances if target == "rtx" else 0


def gpu_form(model: PythonModel, target: str) -> Path | None:
    """Return the file of the form for a GPU, if the target is on one.

    Args:
        model: A Python model.
        target: Name of the target, for example "cpu".
    """
    return model.gpu_model_file if target in GPU_TARGETS else None


def config_name(target: str, cores: int | None) -> str:
    """Return the name for `--model-config-name`.

    Args:
        target: Name of the target, for example "cpu".
        cores: CPU cores of the machine; None for the committed configs.
    """
    return target if cores is None else f"{target}-{cores}"


def _gpu_batching(model: Network, ensembles: Sequence[Ensemble]) -> Fields:
    policy = queue_policy(GPU_BATCHES * model.batching.max_batch_size)
    return _merging(model, model.batching.queue_delay_us) | _unless_step(
        ensembles, policy
    )


def _unless_step(ensembles: Sequence[Ensemble], policy: Fields) -> Fields:
    """Return the queue policy of a network; none for a step of an ensemble."""
    return {} if ensembles else {"default_queue_policy": policy}


def _deployed_ensembles(name: str, repository: Repository) -> list[Ensemble]:
    """Return the ensembles of this repository that have a model as a step."""
    return [
        each for each in repository.find_ensembles(name) if repository.is_deployed(each)
    ]


def _merging(model: Network, queue_delay_us: int) -> Fields:
    fields: Fields = {}
    if queue_delay_us:
        fields["max_queue_delay_microseconds"] = queue_delay_us
    if model.batching.preferred_batch_sizes:
        fields["preferred_batch_size"] = list(model.batching.preferred_batch_sizes)
    return fields


def render_configs(
    declaration: Declaration, repository: Repository, *, cores: int | None = None
) -> Iterator[tuple[Path, str]]:
    """Yield (path, text) of every config of a declaration.

    Args:
        declaration: A network, Python model or ensemble.
        repository: The repository that it belongs to, which knows its weights.
        cores: CPU cores of the machine; None for the committed configs.
    """
    folder = repository.folder(declaration.name)
    if isinstance(declaration, Network):
        ensembles = _deployed_ensembles(declaration.name, repository)
        shared = _network_fields(declaration, repository, ensembles)
        for target, fields in TARGETS.items():
            own = fields(declaration, cores or COMMITTED_CORES, ensembles)
            parameters = shared["parameters"] | own.pop("parameters", {})
            text = config_text(shared | own | {"parameters": parameters})
            yield _config_path(folder, target, cores), text
    elif isinstance(declaration, PythonModel):
        for target in TARGETS:
            message = _joint_fields(declaration, repository) | _python_fields(
                declaration, repository, target, cores or COMMITTED_CORES
            )
            yield _config_path(folder, target, cores), config_text(message)
    elif cores is None:
        text = config_text(_joint_fields(declaration, repository))
        yield folder / "config.pbtxt", text


def _config_path(folder: Path, target: str, cores: int | None) -> Path:
    if cores is None and target == DEFAULT_TARGET:
        return folder / "config.pbtxt"
    return folder / "configs" / f"{config_name(target, cores)}.pbtxt"


def config_text(fields: Fields) -> str:
    """Return the text form of a ModelConfig.

    Args:
        fields: The message as JSON values.

    Raises:
        google.protobuf.json_format.ParseError: A field is misspelt.
    """
    message = json_format.ParseDict(fields, model_config_pb2.ModelConfig())
    text: str = text_format.MessageToString(message)
    return GENERATED + text


def _network_fields(
    model: Network, repository: Repository, ensembles: Sequence[Ensemble]
) -> Fields:
    origin = repository.origin(model.name)
    return {
        "name": model.name,
        "max_batch_size": model.batching.max_batch_size,
        "input": tensor_fields(model.inputs),
        "output": tensor_fields(model.output_tensors),
        "version_policy": {"latest": {"num_versions": 1}},
        "parameters": _parameters(
            {
                "weights": str(origin),
                "stand_in_weights": model.name if isinstance(origin, StandIn) else "",
                **_variant_parameters(model),
                "source": str(model.source),
                "licence": model.source.licence,
                "assumptions": model.assumptions,
                "step_of": ",".join(each.name for each in ensembles),
                **_tensor_parameters(model),
            }
        ),
    }


def _joint_fields(
    declaration: PythonModel | Ensemble, repository: Repository
) -> Fields:
    fields: Fields = {
        "name": declaration.name,
        "max_batch_size": 0,
        "input": tensor_fields(declaration.inputs),
        "output": tensor_fields(declaration.output_tensors),
        "version_policy": {"latest": {"num_versions": 1}},
    }
    if isinstance(declaration, PythonModel):
        return fields
    stand_ins = [
        model.name
        for model in declaration.models
        if isinstance(repository.origin(model.name), StandIn)
    ]
    return fields | {
        "platform": "ensemble",
        "max_batch_size": declaration.max_batch_size if declaration.batched else 0,
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
                "max_people": str(declaration.max_batch_size),
                "stand_in_weights": ",".join(stand_ins),
                **_ensemble_parameters(declaration),
                **_output_sources(declaration, repository),
            }
        ),
    }


def _python_fields(
    model: PythonModel, repository: Repository, target: str, cores: int
) -> Fields:
    instances = count_instances(model, target, cores)
    gpu_file = gpu_form(model, target)
    on_gpu = gpu_file is not None
    parameters = dict(model.parameters)
    networks = {
        network.name
        for ensemble in _deployed_ensembles(model.name, repository)
        for network in ensemble.models
    }
    parameters["networks"] = ",".join(sorted(networks))
    if model.waiting_people_per_core is not None:
        people = PEOPLE_PER_GPU if on_gpu else model.waiting_people_per_core * cores
        parameters["max_waiting_people"] = str(people)
    # KIND_GPU: on each GPU of the machine
    kind = "KIND_GPU" if on_gpu else "KIND_CPU"
    policy = queue_policy(GPU_FRAMES) if on_gpu else cpu_queue_policy(instances)
    return {
        "backend": "python",
        "default_model_filename": "" if gpu_file is None else gpu_file.name,
        "instance_group": [{"kind": kind, "count": instances}],
        "dynamic_batching": {"default_queue_policy": policy},
        "parameters": _parameters(parameters),
    }


def tensor_fields(tensors: Sequence[Tensor]) -> list[Fields]:
    """Return the fields of tensors in a ModelConfig.

    Args:
        tensors: Inputs or outputs.
    """
    return [
        {
            "name": tensor.name,
            "data_type": f"TYPE_{tensor.data_type}",
            "dims": list(tensor.shape),
            **({"optional": True} if tensor.optional else {}),
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


def _variant_parameters(model: Network) -> dict[str, str]:
    """Name of the variant, and all its options; nothing for a model without choices."""
    if not isinstance(model, Model) or not model.choices:
        return {}
    options = ", ".join(f"{choice}={name}" for choice, name in model.options.items())
    return {"variant": model.variant, "variant_options": options}


def _tensor_parameters(model: Network) -> dict[str, str]:
    """Facts that a client needs about tensors, as `<tensor>.<fact>`."""
    facts: dict[str, str] = {}
    for image in model.images:
        facts[f"{image.name}.order"] = "RGB"
        facts[f"{image.name}.interpolation"] = image.interpolation
        if image.shorter_edge is not None:
            facts[f"{image.name}.shorter_edge"] = str(image.shorter_edge)
        if isinstance(model, OnnxModel):
            continue  # its file normalises in a way that is not known here
        facts[f"{image.name}.normalisation"] = (
            f"inside: {image.order}, mean {_list(image.mean)}, std {_list(image.std)}"
        )
    for output in model.outputs:
        if output.labels:
            facts[f"{output.name}.labels"] = ",".join(output.labels)
            facts[f"{output.name}.threshold"] = str(output.threshold)
    return facts


def _ensemble_parameters(ensemble: Ensemble) -> dict[str, str]:
    """Facts of the steps about the tensors that the ensemble itself has."""
    own = {t.name for t in (*ensemble.inputs, *ensemble.output_tensors)}
    facts: dict[str, str] = {}
    for step in ensemble.steps:
        if not isinstance(step.model, Network):
            continue
        renames = {**step.inputs, **step.outputs}
        for key, value in _tensor_parameters(step.model).items():
            tensor, _, fact = key.partition(".")
            if renames[tensor] not in own:
                continue
            name = f"{renames[tensor]}.{fact}"
            # networks that share crops may normalise them differently
            known = facts.get(name, value)
            facts[name] = value if known == value else f"{known}; {value}"
    return facts


def _output_sources(ensemble: Ensemble, repository: Repository) -> dict[str, str]:
    """Network and weights of each output, by which clients tell embeddings apart."""
    own = {tensor.name for tensor in ensemble.output_tensors}
    sources: dict[str, str] = {}
    for step in ensemble.steps:
        if not isinstance(step.model, Network):
            continue
        for output in sorted(own & set(step.outputs.values())):
            sources[f"{output}.model"] = step.model.name
            sources[f"{output}.weights"] = str(repository.origin(step.model.name))
    return sources


def _list(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)
