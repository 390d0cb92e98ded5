"""Independent references: ordinary torch modules, written from the seed's print-out
and the public architectures, sharing no code with builders/networks or builders/ops.

FastReID's distilled net is written the way its authors do, with the ReLU at the start
of each block, unlike our wiring.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class IBN(nn.Module):
    def __init__(self, planes: int) -> None:
        super().__init__()
        self.half = int(planes * 0.5)
        self.IN = nn.InstanceNorm2d(self.half, affine=True)
        self.BN = nn.BatchNorm2d(planes - self.half)

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.split(x, self.half, 1)
        return torch.cat((self.IN(first.contiguous()), self.BN(second.contiguous())), 1)


class Block(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int, ibn: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = IBN(planes) if ibn else nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        if stride != 1 or inputs != planes:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, planes, 1, stride, bias=False), nn.BatchNorm2d(planes)
            )

    def shortcut(self, x: Tensor) -> Tensor:
        return self.downsample(x) if hasattr(self, "downsample") else x

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.shortcut(x))


class DistillBlock(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(x)
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return y + self.shortcut(x)


def layer(
    block: type[Block], inputs: int, planes: int, stride: int, ibn: bool
) -> nn.Sequential:
    return nn.Sequential(
        block(inputs, planes, stride, ibn), block(planes, planes, 1, ibn)
    )


class ResNetIBNAux(nn.Module):
    """Seed 000's backbone, up to layer3, or layer4 for the concurrent network."""

    def __init__(self, last: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = layer(Block, 64, 64, 1, True)
        self.layer2 = layer(Block, 64, 128, 2, True)
        self.layer3 = layer(Block, 128, 256, 2, True)
        if last == 4:
            self.layer4 = layer(Block, 256, 512, 2, False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(functional.relu(self.bn1(self.conv1(x))))
        return self.layer3(self.layer2(self.layer1(x)))


class LinearLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Sequential(nn.Linear(512, 128), nn.Linear(128, 1))


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear_layers = LinearLayers()


def zero_to_one(crops: Tensor) -> Tensor:
    """torchvision's ToTensor and Normalize with ImageNet's figures."""
    x = crops.permute(0, 3, 1, 2) / 255
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    return (x - mean) / std


class GenderModel(nn.Module):
    """The print-out of seed 000."""

    crop_hw = (224, 224)

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNetIBNAux()
        self.gender_classifier = Classifier()
        self.gender_conv = nn.Sequential(
            nn.Conv2d(256, 512, 3, 2, 1),
            nn.BatchNorm2d(512),
            nn.ReLU(),
            nn.AvgPool2d(7, 7, 0),
        )

    def gender(self, x: Tensor) -> Tensor:
        x = self.gender_conv(x).view(len(x), -1)
        return torch.sigmoid(self.gender_classifier.linear_layers.linear(x))

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        return {"female_probability": self.gender(self.backbone(zero_to_one(crops)))}


class GeMP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.ones(1) * 3)

    def forward(self, x: Tensor) -> Tensor:
        powered = x.clamp(min=1e-6).pow(self.p)
        return functional.adaptive_avg_pool2d(powered, 1).pow(1.0 / self.p)


class EmbeddingHead(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(0, dim))
        self.pool_layer = GeMP()
        self.bottleneck = nn.Sequential(nn.BatchNorm2d(dim))

    def forward(self, x: Tensor) -> Tensor:
        x = self.bottleneck(self.pool_layer(x))[..., 0, 0]
        return x / x.norm(dim=1, keepdim=True)


class DistillBackbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.layer1 = layer(DistillBlock, 64, 64, 1, True)
        self.layer2 = layer(DistillBlock, 64, 128, 2, True)
        self.layer3 = layer(DistillBlock, 128, 256, 2, True)
        self.layer4 = layer(DistillBlock, 256, 512, 1, False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(functional.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return functional.relu(x)


class FastReIDKdR18(nn.Module):
    """FastReID's kd-r18-r101_ibn at inference, on 0..255 RGB as it normalises."""

    crop_hw = (384, 128)

    def __init__(self) -> None:
        super().__init__()
        self.backbone = DistillBackbone()
        self.heads = EmbeddingHead(512)

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
        std = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
        x = (crops.permute(0, 3, 1, 2).float() - mean) / std
        return {"embedding": self.heads(self.backbone(x))}


class ConcurrentModel(GenderModel):
    """Seed 000's concurrent network: gender after block 3, ReID after block 4."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNetIBNAux(last=4)
        self.heads = EmbeddingHead(512)
        del self.heads.weight

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        shared = self.backbone(zero_to_one(crops))
        return {
            "female_probability": self.gender(shared),
            "embedding": self.heads(self.backbone.layer4(shared)),
        }


REFERENCES: dict[str, type[nn.Module]] = {
    "person_gender": GenderModel,
    "person_reid_kd_r18": FastReIDKdR18,
    "person_gender_reid": ConcurrentModel,
}


def randomised(name: str, seed: int = 0) -> nn.Module:
    """The reference of `name` with every weight and statistic random."""
    torch.manual_seed(seed)
    module = REFERENCES[name]().eval()
    for key, tensor in module.state_dict().items():
        part = key.rpartition(".")[2]
        if tensor.ndim > 1 and tensor.numel():
            nn.init.kaiming_normal_(tensor)
        elif part == "p":
            tensor.uniform_(2.5, 3.5)
        elif part == "running_var":
            tensor.uniform_(0.5, 3.0)
        elif part == "weight":
            tensor.uniform_(0.5, 1.5)
        elif part in {"bias", "running_mean"}:
            tensor.normal_(0.0, 0.3)
    _centre(module)
    return module


def _centre(module: nn.Module) -> None:
    """Move logits around zero: a saturated sigmoid would hide any difference."""

    def centre(layer: nn.Linear, _inputs: object, logits: Tensor) -> None:
        layer.bias -= logits.mean(dim=0)

    last = [m for m in module.modules() if isinstance(m, nn.Linear)][-1:]
    handles = [layer.register_forward_hook(centre) for layer in last]
    with torch.no_grad():
        grids = torch.rand(16, 3, 8, 4) * 255
        crops = functional.interpolate(grids, module.crop_hw, mode="bilinear")
        module(crops.permute(0, 2, 3, 1).byte())
    for handle in handles:
        handle.remove()
