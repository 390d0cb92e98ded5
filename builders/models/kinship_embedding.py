"""Embedding of one face: the trunk of kinship_compact.

Together with kinship_pair it compares N faces with M others in N + M passes of the
trunk instead of N x M. It loads kinship_compact's checkpoint.
"""

from __future__ import annotations

from builders.models import kinship_compact
from builders.ops import Ops, V
from builders.spec.model import Model
from builders.tensors import Output

EMBEDDING = Output("embedding", 256)


def network(ops: Ops[V], face: V) -> dict[str, V]:
    """Return embeddings [N, 256], not normalised, of faces [N, 3, 100, 100].

    Args:
        ops: The backend.
        face: Faces.
    """
    return {EMBEDDING.name: kinship_compact.embed_face(ops, face)}


MODEL = Model(
    name="kinship_embedding",
    source=kinship_compact.MODEL.source,
    assumptions=kinship_compact.MODEL.assumptions,
    network=network,
    images=(kinship_compact.face("face"),),
    outputs=(EMBEDDING,),
    dropped=("head.*",),
)
