"""Kinship of two face embeddings: the pair head of kinship_compact.

See kinship_embedding. It loads kinship_compact's checkpoint.
"""

from __future__ import annotations

from builders.models import kinship_compact
from builders.models.kinship_embedding import EMBEDDING
from builders.ops import Ops, V
from builders.spec.model import Batching, Model
from builders.tensors import Vector


def network(ops: Ops[V], embedding_a: V, embedding_b: V) -> dict[str, V]:
    """Return P(related) [N, 1] of two embeddings [N, 256] each.

    Args:
        ops: The backend.
        embedding_a: First embedding.
        embedding_b: Second embedding.
    """
    return kinship_compact.compare_embeddings(ops, embedding_a, embedding_b)


MODEL = Model(
    name="kinship_pair",
    source=kinship_compact.MODEL.source,
    assumptions=kinship_compact.MODEL.assumptions,
    network=network,
    vectors=(
        Vector("embedding_a", EMBEDDING.size),
        Vector("embedding_b", EMBEDDING.size),
    ),
    outputs=(kinship_compact.RELATED,),
    dropped=("trunk.*", "embed.*"),
    # pairs are cheap and many: comparing 100 faces with 100 makes 10,000
    batching=Batching(max_batch_size=4096, opt_batch_size=1024, cpu_instances=1),
)
