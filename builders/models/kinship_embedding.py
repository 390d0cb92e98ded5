"""One face to what kinship_compact knows of it: the network up to its pair head.

With kinship_pair it compares N faces with M others at N + M passes of the trunk, not
N x M. Weights are kinship_compact's own file.
"""

from __future__ import annotations

from builders.models import kinship_compact
from builders.ops import Ops, V
from builders.spec import Model, Output

EMBEDDING = Output("embedding", 256)


def network(ops: Ops[V], face: V) -> dict[str, V]:
    """Faces to embeddings, not normalised."""
    return {EMBEDDING.name: kinship_compact.embedding(ops, face)}


MODEL = Model(
    name="kinship_embedding",
    source=kinship_compact.MODEL.source,
    licence=kinship_compact.MODEL.licence,
    assumptions=kinship_compact.MODEL.assumptions,
    network=network,
    images=(kinship_compact.face("face"),),
    outputs=(EMBEDDING,),
    dropped=("head.*",),
)
