"""Galleries of known people, searched by embedding.

    gallery = Gallery()
    gallery.add(["anna", "ben"], people, {"camera": "entrance", "time_s": time.time()})
    for match in gallery.search(person, count=3, where=Filter(cameras="entrance")):
        print(match.id, match.similarity, match.payload["time_s"])

`MemoryGallery` holds everything in this process and searches with NumPy; `Gallery` does
with FAISS. `QdrantGallery` has the same methods on a Qdrant server, for several
machines. `estimate_threshold` finds the similarity from which on two embeddings are
those of the same person.
"""

from personserve.gallery.base import BaseGallery as BaseGallery
from personserve.gallery.faiss import Gallery as Gallery
from personserve.gallery.filters import Filter as Filter
from personserve.gallery.matches import Entry as Entry
from personserve.gallery.matches import GalleryError as GalleryError
from personserve.gallery.matches import Match as Match
from personserve.gallery.memory import MemoryGallery as MemoryGallery
from personserve.gallery.payloads import Payload as Payload
from personserve.gallery.qdrant import QdrantGallery as QdrantGallery
from personserve.gallery.thresholds import Threshold as Threshold
from personserve.gallery.thresholds import estimate_threshold as estimate_threshold
from personserve.gallery.thresholds import (
    estimate_threshold_from_frames as estimate_threshold_from_frames,
)
from personserve.gallery.vectors import Embeddings as Embeddings

__all__ = [
    "BaseGallery",
    "Embeddings",
    "Entry",
    "Filter",
    "Gallery",
    "GalleryError",
    "Match",
    "MemoryGallery",
    "Payload",
    "QdrantGallery",
    "Threshold",
    "estimate_threshold",
    "estimate_threshold_from_frames",
]
