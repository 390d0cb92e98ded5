"""A search for the people of one camera among those of all other cameras.

Run:
    python -m builders serve                        # in another terminal
    python client/examples/cross_camera.py grpc://127.0.0.1:8001 crops/ entrance

`crops/` has a folder for each camera, with images that are cropped to one person each:
crops/entrance/1.jpg, crops/yard/1.jpg, ... The modification time of a file is the time
when the person was seen. All people of the camera `entrance` are searched for among
those of all other cameras, from an hour before to an hour after.

MemoryGallery needs no other package. QdrantGallery(qdrant_client.QdrantClient(...)) has
the same methods for several machines, and sends all searches below as one request.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

from personserve import Client
from personserve.gallery import Filter, MemoryGallery

AROUND = timedelta(hours=1)
RETENTION = timedelta(days=30)
THRESHOLD = 0.5
"""Cosine similarity from which on two images count as the same person. The right value
depends on the network's weights and on the cameras; see estimate_threshold."""

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def main(address: str, folder: str, camera: str) -> None:
    """Add the people of all cameras to a gallery, and search across cameras."""
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES)
    ids = [path.relative_to(folder).as_posix() for path in paths]
    times = [datetime.fromtimestamp(p.stat().st_mtime, timezone.utc) for p in paths]
    cameras = [id_.split("/")[0] for id_ in ids]
    sightings = zip(cameras, times, strict=True)

    with Client(address) as client:
        people = client.attributes_of_crops(paths)
    gallery = MemoryGallery()
    gallery.set_threshold(THRESHOLD)
    gallery.add(ids, people, [{"camera": c, "time_s": t} for c, t in sightings])
    gallery.expire(max(times) - RETENTION)
    print(gallery)

    # a filter for each person: the other cameras, around the time of this sighting
    queries = [index for index, name in enumerate(cameras) if name == camera]
    filters = [
        Filter(
            other_than_cameras=camera,
            since=times[index] - AROUND,
            until=times[index] + AROUND,
        )
        for index in queries
    ]
    results = gallery.search_all(people[queries], count=3, where=filters)
    for index, matches in zip(queries, results, strict=True):
        seen = [match for match in matches if match.is_same_person]
        print(f"{ids[index]}: {'seen elsewhere:' if seen else 'not seen elsewhere'}")
        for match in seen:
            later_s = float(match.payload["time_s"]) - times[index].timestamp()
            place = f"{match.payload['camera']}, {later_s:+.0f} s"
            print(f"  {place}: {match.id}, cosine similarity {match.similarity:.3f}")
    if people.stand_in_weights:
        print("untrained weights: the similarities are meaningless")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
