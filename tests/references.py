"""Independent references: ordinary torch modules, written from the seed's print-out
and the public architectures, sharing no code with builders/networks or builders/ops.

FastReID's distilled net is written the way its authors do, with the ReLU at the start
of each block, unlike our wiring.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature

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


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int, ibn: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = IBN(planes) if ibn else nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * 4)
        if stride != 1 or inputs != planes * 4:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, planes * 4, 1, stride, bias=False),
                nn.BatchNorm2d(planes * 4),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return functional.relu(
            y + (self.downsample(x) if hasattr(self, "downsample") else x)
        )


class NonLocal(nn.Module):
    """FastReID's Non_local with one inner channel, in its literal N x N form."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Conv2d(channels, 1, 1)
        self.W = nn.Sequential(nn.Conv2d(1, channels, 1), nn.BatchNorm2d(channels))
        self.theta = nn.Conv2d(channels, 1, 1)
        self.phi = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        g = self.g(x).view(batch, 1, -1).permute(0, 2, 1)
        theta = self.theta(x).view(batch, 1, -1).permute(0, 2, 1)
        phi = self.phi(x).view(batch, 1, -1)
        f = torch.matmul(theta, phi)
        y = torch.matmul(f / f.size(-1), g).permute(0, 2, 1).contiguous()
        return self.W(y.view(batch, 1, *x.shape[2:])) + x


def layer(
    block: type[nn.Module],
    inputs: int,
    planes: int,
    stride: int,
    ibn: bool,
    blocks: int = 2,
) -> nn.Sequential:
    width = planes * (4 if block is Bottleneck else 1)
    return nn.Sequential(
        block(inputs, planes, stride, ibn),
        *(block(width, planes, 1, ibn) for _ in range(blocks - 1)),
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
    def __init__(self, blocks: tuple[int, ...], ibn: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.layer1 = layer(DistillBlock, 64, 64, 1, ibn, blocks[0])
        self.layer2 = layer(DistillBlock, 64, 128, 2, ibn, blocks[1])
        self.layer3 = layer(DistillBlock, 128, 256, 2, ibn, blocks[2])
        self.layer4 = layer(DistillBlock, 256, 512, 1, False, blocks[3])

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(functional.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return functional.relu(x)


class R50Backbone(nn.Module):
    def __init__(self, ibn: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.layer1 = layer(Bottleneck, 64, 64, 1, ibn, 3)
        self.layer2 = layer(Bottleneck, 256, 128, 2, ibn, 4)
        self.layer3 = layer(Bottleneck, 512, 256, 2, ibn, 6)
        self.layer4 = layer(Bottleneck, 1024, 512, 1, False, 3)
        self.NL_2 = nn.ModuleList([NonLocal(512) for _ in range(2)])
        self.NL_3 = nn.ModuleList([NonLocal(1024) for _ in range(3)])

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
    """FastReID at inference, on 0..255 RGB as it normalises."""

    crop_hw = (384, 128)

    def __init__(self, backbone: nn.Module, dim: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = EmbeddingHead(dim)

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
        std = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
        x = (crops.permute(0, 3, 1, 2).float() - mean) / std
        return {"embedding": self.heads(self.backbone(x))}


class GenNet(nn.Module):
    crop_hw = (256, 128)

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for inputs, outputs in ((3, 32), (32, 64), (64, 128), (128, 128), (128, 256)):
            parts += [
                nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*parts)
        self.classifier = nn.Sequential(
            nn.Linear(256, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 1)
        )

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        x = self.features(zero_to_one(crops)).mean((2, 3))
        return {"female_probability": torch.sigmoid(self.classifier(x))}


class RMBlock(nn.Module):
    def __init__(self, inputs: int, width: int, inner: int, down: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        stride = 2 if down else 1
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        if down:
            self.shortcut = nn.Conv2d(inputs, width, 1, bias=False)
            self.shortcut_bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.elu(self.bn1(self.conv1(x)))
        y = functional.elu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if hasattr(self, "shortcut"):
            x = self.shortcut_bn(self.shortcut(functional.max_pool2d(x, 2)))
        return functional.elu(x + y)


class RMNet(nn.Module):
    crop_hw = (256, 128)

    def __init__(self) -> None:
        super().__init__()
        self.data_bn = nn.BatchNorm2d(3)
        self.conv1 = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        inputs = 32
        for number, (blocks, width, inner) in enumerate(
            ((4, 32, 8), (8, 64, 16), (10, 128, 32), (11, 256, 64)), start=1
        ):
            stage = nn.Module()
            if number > 1:
                stage.add_module("down", RMBlock(inputs, width, inner, True))
            for index in range(blocks):
                stage.add_module(str(index), RMBlock(width, width, inner, False))
            self.add_module(f"layer{number}", stage)
            inputs = width
        self.classifier = nn.Linear(256, 1)

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        x = self.data_bn(crops.flip(-1).permute(0, 3, 1, 2).float())
        x = functional.relu(self.bn1(self.conv1(x)))
        for number in range(1, 5):
            for block in getattr(self, f"layer{number}").children():
                x = block(x)
        return {"female_probability": torch.sigmoid(self.classifier(x.mean((2, 3))))}


class SameConv(nn.Module):
    """Convolution and batch norm under one name, padded as TensorFlow pads."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.bn = nn.BatchNorm2d(outputs)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        size, kernel = x.shape[-1], self.weight.shape[-1]
        out = -(-size // self.stride)
        total = max((out - 1) * self.stride + kernel - size, 0)
        before, after = total // 2, total - total // 2
        x = functional.pad(x, (before, after, before, after))
        return self.bn(functional.conv2d(x, self.weight, stride=self.stride))


class SEBlock(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = SameConv(inputs, width, 1, 1)
        self.conv2 = SameConv(width, width, 3, stride)
        self.conv3 = SameConv(width, width * 4, 1, 1)
        self.fc1 = nn.Linear(width * 4, width // 4)
        self.fc2 = nn.Linear(width // 4, width * 4)
        if inputs != width * 4:
            self.convshortcut = SameConv(inputs, width * 4, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.conv1(x))
        y = self.conv3(functional.relu(self.conv2(y)))
        gate = torch.sigmoid(self.fc2(functional.relu(self.fc1(y.mean((2, 3))))))
        y = y * gate[:, :, None, None]
        return functional.relu(
            y + (self.convshortcut(x) if hasattr(self, "convshortcut") else x)
        )


class SEResNet50(nn.Module):
    """tensorpack's graph, on BGR in 0..1 with its reversed constants."""

    crop_hw = (224, 224)

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = SameConv(3, 64, 7, 2)
        inputs = 64
        for group, (width, blocks) in enumerate(
            ((64, 3), (128, 4), (256, 6), (512, 3))
        ):
            stage = nn.Module()
            for index in range(blocks):
                stride = 2 if group > 0 and index == 0 else 1
                stage.add_module(f"block{index}", SEBlock(inputs, width, stride))
                inputs = width * 4
            self.add_module(f"group{group}", stage)
        self.linear = nn.Linear(2048, 1000)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        x = pictures.flip(-1).permute(0, 3, 1, 2) / 255
        mean = torch.tensor([0.406, 0.456, 0.485])[:, None, None]
        std = torch.tensor([0.225, 0.224, 0.229])[:, None, None]
        x = functional.relu(self.conv0((x - mean) / std))
        x = functional.max_pool2d(functional.pad(x, (0, 1, 0, 1)), 3, 2)
        for group in range(4):
            for block in getattr(self, f"group{group}").children():
                x = block(x)
        return {"logits": self.linear(x.mean((2, 3)))}


class KinshipCompact(nn.Module):
    crop_hw = (100, 100)

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for inputs, outputs, stride in (
            (3, 32, 2),
            (32, 64, 2),
            (64, 128, 2),
            (128, 192, 2),
            (192, 192, 1),
        ):
            parts += [
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.trunk = nn.Sequential(*parts)
        self.embed = nn.Linear(192, 256)
        self.head = nn.Sequential(nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 1))

    def forward(self, face_a: Tensor, face_b: Tensor) -> dict[str, Tensor]:
        a, b = (
            self.embed(self.trunk(f.permute(0, 3, 1, 2) / 255).mean((2, 3)))
            for f in (face_a, face_b)
        )
        logit = self.head(torch.cat(((a - b).abs(), a * b), 1))
        return {"related_probability": torch.sigmoid(logit)}


class KinshipEmbedding(KinshipCompact):
    def __init__(self) -> None:
        super().__init__()
        del self.head

    def forward(self, face: Tensor) -> dict[str, Tensor]:
        x = self.trunk(face.permute(0, 3, 1, 2) / 255)
        return {"embedding": self.embed(x.mean((2, 3)))}


class KinshipPair(nn.Module):
    vector_size = 256

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 1))

    def forward(self, embedding_a: Tensor, embedding_b: Tensor) -> dict[str, Tensor]:
        apart, together = embedding_a - embedding_b, embedding_a * embedding_b
        logit = self.head(torch.hstack([apart.abs(), together]))
        return {"related_probability": torch.sigmoid(logit)}


class KinshipConcat(nn.Module):
    """The author's network, as its train.py wires it."""

    crop_hw = (100, 100)

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for inputs, outputs in ((3, 64), (64, 64), (64, 32)):
            parts += [
                nn.ReflectionPad2d(1),
                nn.Conv2d(inputs, outputs, 3),
                nn.ReLU(inplace=True),
                nn.BatchNorm2d(outputs),
                nn.Dropout2d(0.2),
            ]
        self.cnn1 = nn.Sequential(*parts)
        self.fc1 = nn.Linear(2 * 32 * 100 * 100, 500)
        self.fc2 = nn.Linear(500, 500)
        self.fc3 = nn.Linear(500, 2)

    def forward(self, face_a: Tensor, face_b: Tensor) -> dict[str, Tensor]:
        flat = [
            self.cnn1(f.permute(0, 3, 1, 2) / 255).flatten(1) for f in (face_a, face_b)
        ]
        x = functional.relu(self.fc1(torch.cat(flat, 1)))
        logits = self.fc3(functional.relu(self.fc2(x)))
        return {"related_probability": logits.softmax(1)[:, 1:]}


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


def _r34() -> nn.Module:
    return FastReID(DistillBackbone((3, 4, 6, 3), ibn=False), 512)


REFERENCES: dict[str, Callable[[], nn.Module]] = {
    "kinship_compact": KinshipCompact,
    "kinship_concat": KinshipConcat,
    "kinship_embedding": KinshipEmbedding,
    "kinship_pair": KinshipPair,
    "person_gender": GenderModel,
    "person_gender_gennet_recon": GenNet,
    "person_gender_reid": ConcurrentModel,
    "person_gender_rmnet": RMNet,
    "person_reid_kd_r18": lambda: FastReID(DistillBackbone((2, 2, 2, 2), True), 512),
    "person_reid_kd_r34": _r34,
    "person_reid_sbs_r34": _r34,
    "person_reid_sbs_r50": lambda: FastReID(R50Backbone(ibn=False), 2048),
    "person_reid_sbs_r50_ibn": lambda: FastReID(R50Backbone(ibn=True), 2048),
    "se_resnet50": SEResNet50,
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
        elif key.endswith(".W.1.weight"):
            tensor.uniform_(0.005, 0.02)  # cubic blocks: more would overflow
        elif part == "weight":
            tensor.uniform_(0.5, 1.5)
        elif part == "bias":
            tensor.normal_(0.0, 0.3)
    _settle(module)
    return module


def _settle(module: nn.Module) -> None:
    """Random statistics near those of noise pictures, and logits around zero: deep
    networks would overflow, and a saturated sigmoid would hide any difference.
    """

    def near(layer: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
        shift = torch.randn_like(mean) * 0.3
        layer.running_mean.copy_(mean + shift * variance.sqrt())
        layer.running_var.copy_(variance * torch.empty_like(mean).uniform_(0.5, 2.0))

    def centre(layer: nn.Linear, _inputs: object, logits: Tensor) -> Tensor:
        layer.bias -= logits.mean(dim=0)
        return logits - logits.mean(dim=0)

    handles = [
        layer.register_forward_pre_hook(near)
        if isinstance(layer, nn.BatchNorm2d)
        else layer.register_forward_hook(centre)
        for layer in module.modules()
        if isinstance(layer, nn.BatchNorm2d | nn.Linear)
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
