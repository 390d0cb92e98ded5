"""Independent references: one torch module per model, discovered by file name.

Each file declares REFERENCE, a class or function that returns the module. The modules
are written from the published print-outs and architectures and share no code with
builders/networks or builders/ops.
"""

from __future__ import annotations

import pkgutil
from dataclasses import replace
from importlib import import_module
from inspect import signature

import torch
from torch import Tensor, nn
from torch.nn import functional

from builders.spec.model import Model
from tests.statistics_cache import Arrays, remember

SMALL_SIZES_HW = {
    # 13 million parameters instead of 320 million at 100x100
    "kinship_concat": (20, 20),
    # a sixteenth of the time at 256x128; other models test the same operations at size
    "person_reid_bot_r50": (64, 32),
    "person_reid_bot_r50_ibn": (64, 32),
    "person_reid_osnet_ain_x1_0": (64, 32),
    "person_reid_osnet_x0_25": (64, 32),
    "person_reid_osnet_x1_0": (64, 32),
}
"""Height and width of images at which a model is compared; its layers are the same."""


def reference_names() -> set[str]:
    """Return the names of all models that have a reference."""
    return {info.name for info in pkgutil.iter_modules(__path__) if not info.ispkg}


def shrink_model(model: Model) -> Model:
    """Return a model at the size of its reference (SMALL_SIZES_HW).

    Args:
        model: The model as it is declared.
    """
    if model.name not in SMALL_SIZES_HW:
        return model
    height, width = SMALL_SIZES_HW[model.name]
    images = (replace(i, height=height, width=width) for i in model.images)
    return replace(model, images=tuple(images))


def load_reference(name: str) -> nn.Module:
    """Return the reference of a model, with PyTorch's initial weights.

    Args:
        name: Name of the model.
    """
    module: nn.Module = import_module(f"{__name__}.{name}").REFERENCE()
    if name in SMALL_SIZES_HW:
        module.crop_hw = SMALL_SIZES_HW[name]
    return module


def random_reference(name: str, seed: int = 0) -> nn.Module:
    """Return the reference of a model with every weight and statistic random.

    Args:
        name: Name of the model.
        seed: Seed of the random values.
    """
    torch.manual_seed(seed)
    module = load_reference(name).eval()
    for key, tensor in module.state_dict().items():
        part = key.rpartition(".")[2]
        if tensor.ndim > 1 and tensor.numel():
            nn.init.kaiming_normal_(tensor)
        elif part == "p":
            tensor.uniform_(2.5, 3.5)
        elif key.endswith(".W.1.weight"):
            tensor.uniform_(0.005, 0.02)  # larger values overflow in these cubic blocks
        elif part == "weight":
            tensor.uniform_(0.5, 1.5)
        elif part == "bias":
            tensor.normal_(0.0, 0.3)
    state = module.state_dict()

    def measure() -> Arrays:
        _set_statistics(module)
        return {key: t.numpy() for key, t in state.items() if t.ndim < 2}

    for key, array in remember(f"reference-{name}-{seed}", measure).items():
        state[key].copy_(torch.from_numpy(array))
    torch.manual_seed(seed)
    return module


def _set_statistics(module: nn.Module) -> None:
    """Set random statistics near those of noise images, and logits around zero.

    With other statistics deep networks overflow, and a saturated sigmoid hides
    differences.
    """

    def set_near(layer: nn.BatchNorm1d | nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        axes = [axis for axis in range(inputs[0].ndim) if axis != 1]
        variance, mean = torch.var_mean(inputs[0], dim=axes)
        shift = torch.randn_like(mean) * 0.3
        layer.running_mean.copy_(mean + shift * variance.sqrt())
        layer.running_var.copy_(variance * torch.empty_like(mean).uniform_(0.5, 2.0))

    def centre(layer: nn.Linear, _inputs: object, logits: Tensor) -> Tensor:
        layer.bias -= logits.mean(dim=0)
        return logits - logits.mean(dim=0)

    handles = [
        layer.register_forward_pre_hook(set_near)
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
        else layer.register_forward_hook(centre)
        for layer in module.modules()
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.Linear)
    ]
    if hasattr(module, "vector_size"):
        samples = torch.randn(16, module.vector_size)
    else:
        grids = torch.rand(16, 3, 8, 4) * 255
        crops = functional.interpolate(grids, module.crop_hw, mode="bilinear")
        samples = crops.permute(0, 2, 3, 1).byte()
    inputs = len(signature(module.forward).parameters)
    with torch.no_grad():
        module(*(samples.roll(n, 0) for n in range(inputs)))
    for handle in handles:
        handle.remove()
