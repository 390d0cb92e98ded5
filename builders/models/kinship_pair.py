"""Are two faces kin, from their embeddings: kinship_compact's pair head alone.

See kinship_embedding. Weights are kinship_compact's own file.
"""

from __future__ import annotations

from builders.models import kinship_compact
from builders.models.kinship_embedding import EMBEDDING
from builders.ops import Ops, V
from builders.spec import Batching, Model, Vector


def network(ops: Ops[V], embedding_a: V, embedding_b: V) -> dict[str, V]:
    """Two embeddings to P(related)."""
    return kinship_compact.related(ops, embedding_a, embedding_b)


MODEL = Model(
    name="kinship_pair",
    source=kinship_compact.MODEL.source,
    licence=kinship_compact.MODEL.licence,
    assumptions=kinship_compact.MODEL.assumptions,
    network=network,
    vectors=(
        Vector("embedding_a", EMBEDDING.size),
        Vector("embedding_b", EMBEDDING.size),
    ),
    outputs=(kinship_compact.RELATED,),
    dropped=("trunk.*", "embed.*"),
    # pairs are cheap and many: 100 x 100 faces are 10,000
    batching=Batching(maximum=4096, usual=1024, cpu_instances=1),
)
