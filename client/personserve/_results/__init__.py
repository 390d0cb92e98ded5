"""Results of calls: frozen dataclasses of plain values and NumPy arrays."""

from personserve._results.annotation import annotate as annotate
from personserve._results.inference import Classification as Classification
from personserve._results.inference import ClassScore as ClassScore
from personserve._results.inference import InferResult as InferResult
from personserve._results.kinship import Kinship as Kinship
from personserve._results.people import People as People
from personserve._results.people import PersonIndices as PersonIndices
from personserve._results.people import require_embeddings as require_embeddings
from personserve._results.person import FloatArray as FloatArray
from personserve._results.person import Person as Person
from personserve._results.person import require_embedding as require_embedding
from personserve._results.roles import Gender as Gender
from personserve._results.roles import Role as Role
from personserve._results.source import EmbeddingSource as EmbeddingSource
from personserve._results.source import require_one_source as require_one_source

__all__ = [
    "ClassScore",
    "Classification",
    "EmbeddingSource",
    "FloatArray",
    "Gender",
    "InferResult",
    "Kinship",
    "People",
    "Person",
    "PersonIndices",
    "Role",
    "annotate",
    "require_embedding",
    "require_embeddings",
    "require_one_source",
]
