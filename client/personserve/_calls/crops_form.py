"""The models that take crops in place of a model's frames.

A model for frames may have a form for crops on the server, which has its name with the
ending "_crops". Without it, each of its networks takes the crops by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from personserve._calls.batches import read_max_people
from personserve._calls.models import ModelCalls
from personserve._descriptions import CROPS_SUFFIX
from personserve._errors import ModelLoadingError, ModelUnavailableError
from personserve._retry import Call
from personserve._types import Array
from personserve._wire.requests import ModelDescription
from personserve.images.crops import CropShape, Pixels


@dataclass(frozen=True)
class Part:
    """A model that takes crops, and its answers.

    Attributes:
        model: Description of the model.
        roles: The role of each output, by the model's own name of the output.
    """

    model: ModelDescription
    roles: Mapping[str, str]


@dataclass(frozen=True)
class CropsForm:
    """The models that take crops in place of a model's frames.

    Attributes:
        model: Description of what they answer together.
        parts: The models to ask: one that answers everything, or several networks.
    """

    model: ModelDescription
    parts: tuple[Part, ...]

    @cached_property
    def max_people(self) -> int:
        """Largest number of people of one request."""
        return min(read_max_people(part.model) for part in self.parts)

    @cached_property
    def shapes(self) -> list[CropShape]:
        """The different sizes of crops that are needed."""
        shapes = (
            part.model.crop_shape(tensor.name)
            for part in self.parts
            for tensor in part.model.inputs
        )
        return list(dict.fromkeys(shapes))

    def infer(
        self, models: ModelCalls, crops: Sequence[Pixels], rows: int
    ) -> Call[tuple[ModelDescription, Mapping[str, Array]]]:
        """Infer, and return the outputs of all parts by role.

        Args:
            models: Calls about models.
            crops: UINT8 [rows, height, width, 3] of each of `shapes`, in RGB order.
            rows: Number of people.

        Returns:
            The call, with the description that belongs to the outputs.
        """
        by_shape = dict(zip(self.shapes, crops, strict=True))
        outputs: dict[str, Array] = {}
        for part in self.parts:
            inputs: dict[str, Array] = {
                tensor.name: by_shape[part.model.crop_shape(tensor.name)]
                for tensor in part.model.inputs
            }
            model, answer = yield from models.infer_checked(part.model, inputs, rows)
            if part.model is self.model:
                return model, answer
            outputs |= {
                role: answer[name]
                for name, role in part.roles.items()
                if name in answer
            }
        return self.model, outputs


def crops_name(model: str) -> str:
    """Return the name of a model's form for crops.

    Args:
        model: Name of a model for frames, or of its form for crops.

    Returns:
        The name with the ending "_crops".
    """
    return model if model.endswith(CROPS_SUFFIX) else model + CROPS_SUFFIX


def describe_crops_form(
    models: ModelCalls, name: str, endpoint: str
) -> Call[CropsForm]:
    """Describe what takes crops in place of a model's frames.

    Args:
        models: Calls about models.
        name: Name of a model for frames, or of a model that takes crops itself.
        endpoint: Address of the server.

    Returns:
        The call. It fails with the error of the model if that takes neither.
    """
    try:
        model = yield from models.describe_cached(crops_name(name), endpoint)
    except ModelLoadingError:
        raise
    except ModelUnavailableError:
        if name.endswith(CROPS_SUFFIX):
            raise
        model = yield from models.describe_for("crops", name, endpoint)
    if model.takes_frames:
        parts = yield from _describe_networks(models, model)
        return CropsForm(model, parts)
    return CropsForm(model, (Part(model, {}),))


def _describe_networks(
    models: ModelCalls, model: ModelDescription
) -> Call[tuple[Part, ...]]:
    """Describe the networks of a model for frames, which take one crop each."""
    roles_of: dict[str, list[str]] = {}
    for tensor in model.outputs:
        name = model.parameter(f"{tensor.name}.model")
        roles_of.setdefault(name, []).append(tensor.name)
    parts = []
    for name, roles in roles_of.items():
        try:
            network = yield from models.describe_cached(name, model.endpoint)
        except ModelLoadingError:
            raise
        except ModelUnavailableError as exc:
            raise ModelUnavailableError(
                f"crops for {model.name} need {crops_name(model.name)} or the network "
                f"{name}, and the server has neither; crop on the server",
                model=model.name,
            ) from exc
        outputs = [tensor.name for tensor in network.outputs]
        if set(roles) <= set(outputs):
            names = {role: role for role in roles}
        elif len(roles) == len(outputs) == 1:
            names = {outputs[0]: roles[0]}
        else:
            raise ModelUnavailableError(
                f"the server does not say which outputs of {name} "
                f"({', '.join(outputs)}) are the roles {', '.join(roles)}; crops need "
                f"{crops_name(model.name)}, which it does not have; crop on the server",
                model=model.name,
            )
        parts.append(Part(network, names))
    return tuple(parts)
