"""A gallery of known people, and a search in it.

Run:
    python -m builders serve                        # in another terminal
    python client/examples/find_people.py grpc://127.0.0.1:8001 known/ someone.jpg

`known/` has one image for each person, cropped to the person; the file name without
its suffix becomes the id. `someone.jpg` is cropped to a person too.
Needs `pip install faiss-cpu`. For a gallery that several machines share,
use QdrantGallery(qdrant_client.QdrantClient(...)) in place of Gallery().
"""

from __future__ import annotations

import sys
from pathlib import Path

from personserve import Client
from personserve.gallery import Gallery

THRESHOLD = 0.5
"""Cosine similarity from which on two images count as the same person. The right value
depends on the network's weights and on the cameras: personserve.gallery has
estimate_threshold for labelled images and estimate_threshold_from_frames for video."""

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def main(address: str, folder: str, query: str) -> None:
    """Add everyone in a folder to a gallery, save it, and search in it."""
    paths = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in SUFFIXES)
    gallery = Gallery()
    with Client(address) as client:
        people = client.attributes_of_crops(paths)
        gallery.add([path.stem for path in paths], people)
        gallery.set_threshold(THRESHOLD)
        print(f"{len(gallery)} known people, {gallery.dimension} values each")

        (person,) = client.attributes_of_crops([Path(query)])

    matches = gallery.search(person, count=3)
    for match in matches:
        verdict = "same person" if match.is_same_person else "someone else"
        print(f"{match.id}: cosine similarity {match.similarity:.3f}, {verdict}")
    if not any(match.is_same_person for match in matches):
        print(f"unknown person: no similarity reaches {THRESHOLD}")
    if people.stand_in_weights:
        print("untrained weights: the similarities are meaningless")

    gallery.save("people.npz")
    print(f"saved, and read again: {len(Gallery.load('people.npz'))} people")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
