"""The concurrent gender and ReID network."""

from __future__ import annotations

from torch import Tensor

from tests.references.blocks.fastreid import EmbeddingHead
from tests.references.blocks.pixels import zero_to_one
from tests.references.person_gender import GenderModel, ResNetIBNAux


class ConcurrentModel(GenderModel):
    """Gender branch after layer3, ReID branch after layer4."""

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


REFERENCE = ConcurrentModel
