"""FastReID's backbones, pooling and head.

The distilled network is written as by its authors, with the ReLU at the start of each
block, unlike the wiring in builders/networks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.references.blocks.resnet import (
    Bottleneck,
    DistillBlock,
    NonLocal,
    make_stage,
)


class GeMP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.ones(1) * 3)

    def forward(self, x: Tensor) -> Tensor:
        powered = x.clamp(min=1e-6).pow(self.p)
        return functional.adaptive_avg_pool2d(powered, 1).pow(1.0 / self.p)


class EmbeddingHead(nn.Module):
    def __init__(self, dim: int, pool: nn.Module | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(0, dim))
        self.pool_layer = pool or GeMP()
        self.bottleneck = nn.Sequential(nn.BatchNorm2d(dim))

    def forward(self, x: Tensor) -> Tensor:
        x = self.bottleneck(self.pool_layer(x))[..., 0, 0]
        return x / x.norm(dim=1, keepdim=True)


class DistillBackbone(nn.Module):
    def __init__(self, blocks: tuple[int, ...], ibn: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.layer1 = make_stage(DistillBlock, 64, 64, 1, ibn, blocks[0])
        self.layer2 = make_stage(DistillBlock, 64, 128, 2, ibn, blocks[1])
        self.layer3 = make_stage(DistillBlock, 128, 256, 2, ibn, blocks[2])
        self.layer4 = make_stage(DistillBlock, 256, 512, 1, False, blocks[3])

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(functional.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return functional.relu(x)


class R50Backbone(nn.Module):
    def __init__(self, ibn: bool, non_local: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.layer1 = make_stage(Bottleneck, 64, 64, 1, ibn, 3)
        self.layer2 = make_stage(Bottleneck, 256, 128, 2, ibn, 4)
        self.layer3 = make_stage(Bottleneck, 512, 256, 2, ibn, 6)
        self.layer4 = make_stage(Bottleneck, 1024, 512, 1, False, 3)
        if non_local:
            self.NL_2 = nn.ModuleList([NonLocal(512) for _ in range(2)])
            self.NL_3 = nn.ModuleList([NonLocal(1024) for _ in range(3)])
        else:
            self.NL_2 = self.NL_3 = nn.ModuleList([nn.Identity()] * 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(functional.relu(self.bn1(self.conv1(x))))
        x = self.layer1(x)
        for index, block in enumerate(self.layer2):
            x = block(x)
            if index in (2, 3):
                x = self.NL_2[index - 2](x)
        for index, block in enumerate(self.layer3):
            x = block(x)
            if index in (3, 4, 5):
                x = self.NL_3[index - 3](x)
        return self.layer4(x)


class FastReID(nn.Module):
    """FastReID at inference, with its own normalisation of 0..255 RGB."""

    crop_hw = (384, 128)

    def __init__(
        self, backbone: nn.Module, dim: int, pool: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = EmbeddingHead(dim, pool)

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        x = crops.permute(0, 3, 1, 2).float()
        mean = torch.tensor([123.675, 116.28, 103.53], device=x.device)[:, None, None]
        std = torch.tensor([58.395, 57.12, 57.375], device=x.device)[:, None, None]
        x = (x - mean) / std
        return {"embedding": self.heads(self.backbone(x))}
