"""Ensembles over any networks that take crops: behind a frame, and behind crops.

    MODEL = frame_ensemble("person_attributes_shared", (person_gender_reid.MODEL,))

is a whole file in ensembles/. The ensemble takes one frame and N boxes. Preprocessing
cuts each box once for every different cut (height, width, interpolation) that the
networks need, and is one Python model for all ensembles with the same cuts, named after
them. Each output of a network becomes an output of the ensemble; its name is the role
by which clients find it, for example `female_probability` or `embedding`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from builders.repository.layout import ROOT
from builders.repository.python_models import RUNTIMES
from builders.repository.queue_limits import PEOPLE_PER_CORE
from builders.spec.ensemble import ChooseVariant, Ensemble, PythonModel, Step
from builders.spec.model import Model, Network
from builders.tensors import Tensor, require
from personserve.images.crops import CropShape
from personserve.images.formats import MAX_IMAGE_PIXELS

SOURCES = ROOT / "ensembles" / "person_preprocess"
"""Folder of the preprocessing model's model.py, and of what belongs to it alone."""

CLIENT_IMAGES = ROOT / "client" / "personserve" / "images"
CLIENT_MODULES = (
    "antialias",
    "crops",
    "decoding",
    "encoded",
    "formats",
    "jpeg_layout",
    "layout",
    "png_layout",
    "webp_layout",
)
"""The client's modules that the preprocessing model imports, so that client and server
cut the same pixels."""

FRAME_INPUTS = (
    Tensor("encoded_frame", "UINT8", (-1,), optional=True),
    Tensor("raw_frame", "UINT8", (-1,), optional=True),
    Tensor("frame_size", "INT32", (2,), optional=True),
    Tensor("boxes", "FP32", (-1, 4)),
)
"""One frame, either encoded or raw, and its N boxes. Every input has one variable
dimension at most: Triton 2.51 compares only the product of a shape with the number of
bytes, so that two negative dimensions would reach the Python backend, whose process
ends on them."""

PERSON_MODEL = "person_preprocess"
PERSON_CUTS: Mapping[CropShape, str] = {
    CropShape(224, 224, "linear"): "gender_crops",
    CropShape(384, 128, "cubic"): "reid_crops",
}
"""The cuts of person_attributes, whose preprocessing model and tensors have names of
their own. Other cuts are named by their sizes."""

MAX_PEOPLE = 64
"""Largest number of people that a preprocessing model's name does not state."""


def frame_ensemble(
    name: str,
    networks: Sequence[Network],
    *,
    roles: Mapping[str, str] | None = None,
    on_request: bool = True,
) -> Ensemble:
    """Declare an ensemble that takes a frame and boxes.

    Args:
        name: Name of the ensemble, and of its file in ensembles/.
        networks: Networks that answer for each box. Each takes one image.
        roles: Names of the ensemble's outputs by "network.output", where they differ
            from the networks' own.
        on_request: Whether the ensemble is rendered and loaded only when it is named.

    Returns:
        The ensemble, `batched=False`.

    Raises:
        SpecError: A network takes something else than one image, or two outputs have
            the same role.
    """
    cuts = _check_cuts(name, networks)
    preprocessing = frame_preprocessing(networks)
    tensors = _name_tensors(cuts)
    outputs = _name_outputs(name, networks, roles or {})
    cut_step = Step(
        preprocessing,
        {tensor.name: tensor.name for tensor in preprocessing.inputs},
        {tensor.name: tensor.name for tensor in preprocessing.output_tensors},
    )
    return Ensemble(
        name,
        (cut_step, *_network_steps(networks, tensors, outputs)),
        tuple(role for each in outputs for role in each.values()),
        batched=False,
        on_request=on_request,
        for_models=lambda choose: frame_ensemble(
            name, _choose(networks, choose), roles=roles, on_request=on_request
        ),
    )


def crops_ensemble(
    name: str,
    networks: Sequence[Network],
    *,
    roles: Mapping[str, str] | None = None,
    on_request: bool = True,
) -> Ensemble:
    """Declare the ensemble that takes crops: a frame ensemble without preprocessing.

    Args:
        name: Name of the ensemble, and of its file in ensembles/.
        networks: See frame_ensemble.
        roles: See frame_ensemble.
        on_request: See frame_ensemble.

    Returns:
        The ensemble, `batched=True`. It has one input for every different cut.

    Raises:
        SpecError: As frame_ensemble.
    """
    tensors = _name_tensors(_check_cuts(name, networks))
    outputs = _name_outputs(name, networks, roles or {})
    return Ensemble(
        name,
        tuple(_network_steps(networks, tensors, outputs)),
        tuple(role for each in outputs for role in each.values()),
        batched=True,
        on_request=on_request,
        for_models=lambda choose: crops_ensemble(
            name, _choose(networks, choose), roles=roles, on_request=on_request
        ),
    )


def frame_preprocessing(networks: Sequence[Network]) -> PythonModel:
    """Return the model that cuts people out of a frame for some networks.

    It depends on their cuts and on the largest number of people only, so that ensembles
    that agree in these share it.

    Args:
        networks: Networks that take one image each.
    """
    tensors = _name_tensors([_cut_of(network) for network in networks])
    max_people = min(network.batching.max_batch_size for network in networks)
    parameters = {
        "max_people": str(max_people),
        "max_frame_pixels": str(MAX_IMAGE_PIXELS),
    }
    for cut, tensor in tensors.items():
        parameters[f"{tensor}.interpolation"] = cut.interpolation
        if cut.shorter_edge is not None:
            parameters[f"{tensor}.shorter_edge"] = str(cut.shorter_edge)
    return PythonModel(
        name=_name_preprocessing(list(tensors), max_people),
        model_file=SOURCES / "model.py",
        modules=(
            RUNTIMES / "admission.py",
            *(
                path
                for path in sorted((*SOURCES.glob("[!_]*.py"), *SOURCES.glob("*.cu")))
                if path.stem != "model"
            ),
            *(CLIENT_IMAGES / f"{module}.py" for module in CLIENT_MODULES),
        ),
        gpu_model_file=SOURCES / "gpu_model.py",
        inputs=FRAME_INPUTS,
        output_tensors=tuple(
            Tensor(tensor, "UINT8", (-1, cut.height, cut.width, 3))
            for cut, tensor in tensors.items()
        ),
        parameters=parameters,
        waiting_people_per_core=PEOPLE_PER_CORE,
    )


def _check_cuts(name: str, networks: Sequence[Network]) -> list[CropShape]:
    """Return the cut of each network, if each takes one image."""
    where = f"ensemble {name}"
    require(bool(networks), f"{where}: expected at least one network")
    counts = Counter(network.name for network in networks)
    twice = [network for network, count in counts.items() if count > 1]
    require(not twice, f"{where}: {', '.join(twice)} is there twice; name it once")
    for network in networks:
        inputs = ", ".join(
            f"{tensor.name} {tensor.data_type} {list(tensor.shape)}"
            for tensor in network.inputs
        )
        require(
            len(network.inputs) == len(network.images) == 1,
            f"{where}: expected networks with one image as input (UINT8 "
            f"[height, width, 3]), and {network.name} takes {inputs}; ask it by itself "
            "(Client.infer)",
        )
    return [_cut_of(network) for network in networks]


def _cut_of(network: Network) -> CropShape:
    (image,) = network.images
    return image.crop_shape


def _name_tensors(cuts: Sequence[CropShape]) -> dict[CropShape, str]:
    """Return the name of the tensor with the crops of each different cut."""
    different = set(cuts)
    if different == set(PERSON_CUTS):
        return dict(PERSON_CUTS)
    ordered = sorted(different, key=_name_cut)
    if len(ordered) == 1:
        return {ordered[0]: "crops"}
    return {cut: f"crops_{_name_cut(cut)}" for cut in ordered}


def _name_cut(cut: CropShape) -> str:
    """Return, for example, "384x128_cubic"."""
    of_edge = "" if cut.shorter_edge is None else f"_of_{cut.shorter_edge}"
    return f"{cut.height}x{cut.width}_{cut.interpolation}{of_edge}"


def _name_preprocessing(cuts: Sequence[CropShape], max_people: int) -> str:
    is_usual = set(cuts) == set(PERSON_CUTS)
    name = PERSON_MODEL if is_usual else "_".join(["preprocess", *map(_name_cut, cuts)])
    return name if max_people == MAX_PEOPLE else f"{name}_up_to_{max_people}"


def _name_outputs(
    name: str, networks: Sequence[Network], roles: Mapping[str, str]
) -> list[dict[str, str]]:
    """Return the roles by output of each network; each role is there once."""
    outputs = [
        {
            tensor.name: roles.get(f"{network.name}.{tensor.name}", tensor.name)
            for tensor in network.output_tensors
        }
        for network in networks
    ]
    known = {f"{n.name}.{t.name}" for n in networks for t in n.output_tensors}
    unknown = sorted(set(roles) - known)
    require(
        not unknown,
        f"ensemble {name}: no output {', '.join(unknown)}; there are: "
        f"{', '.join(sorted(known))}",
    )
    owners: dict[str, str] = {}
    for network, each in zip(networks, outputs, strict=True):
        for output, role in each.items():
            require(
                role not in owners,
                f"ensemble {name}: {owners.get(role)} and {network.name} both answer "
                f"{role!r}, by which clients find an output; leave one network out, or "
                f'rename an output: roles={{"{network.name}.{output}": "..."}}',
            )
            owners[role] = network.name
    return outputs


def _network_steps(
    networks: Sequence[Network],
    tensors: Mapping[CropShape, str],
    outputs: Sequence[Mapping[str, str]],
) -> list[Step]:
    return [
        Step(network, {network.images[0].name: tensors[_cut_of(network)]}, each)
        for network, each in zip(networks, outputs, strict=True)
    ]


def _choose(networks: Sequence[Network], choose: ChooseVariant) -> tuple[Network, ...]:
    return tuple(choose(n) if isinstance(n, Model) else n for n in networks)
