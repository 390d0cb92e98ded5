"""The trunk of the compact siamese network."""

from __future__ import annotations

from torch import Tensor

from tests.references.kinship_compact import KinshipCompact


class KinshipEmbedding(KinshipCompact):
    def __init__(self) -> None:
        super().__init__()
        del self.head

    def forward(self, face: Tensor) -> dict[str, Tensor]:
        x = self.trunk(face.permute(0, 3, 1, 2) / 255)
        return {"embedding": self.embed(x.mean((2, 3)))}


REFERENCE = KinshipEmbedding
