"""Self-labelled people of a video: crops whose identity is the number of a track.

OpenCV's HOG detector finds upright people, ByteTrack numbers them. A track that begins
where a track has just ended, and is the only one that could continue it, is the
same person. No person looks at the result, so what is ambiguous is dropped, and
counted:

- crops whose box overlaps a second box (two people in one crop),
- tracks that several others could continue, or that could continue several others,
- tracks with a jump between two detections (perhaps two people with one number),
- tracks that are on both sides of the split in time,
- tracks with too few crops.

The output is one file with all boxes and JPEG-coded crops, small enough to be carried
to a machine with a GPU; tracks are joined and dropped when it is read.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import typer

from personserve.cli.detection import detect_people
from personserve.cli.trackers import ByteTracker
from personserve.internal.files import atomic_write

TRAIN_SHARE = 0.7
"""Share of the video's time that is for training."""

MAX_OVERLAP = 0.2
"""Largest share of a crop that another box may cover."""

MAX_JUMP = 0.6
"""Largest step between two detections, in widths of the box for each frame between."""

MAX_GAP_FRAMES = 20
"""Frames for which the tracker remembers a person (2 s at 10 Hz)."""

HANDOVER_S = 3.0
HANDOVER_WIDTHS = 1.5
"""A track may continue a former one if it begins within this time after its end, and
this near to the place where its last velocity leads.
"""

VELOCITY_SIGHTINGS = 6
"""Detections that the last velocity is measured over; HOG's boxes tremble."""

MIN_CROPS = 8
JPEG_QUALITY = 95

Boxes = npt.NDArray[np.float32]

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Sighting:
    """One detection of a numbered person.

    Attributes:
        frame: Number of the frame.
        track: Number of the track.
        box: (x0, y0, x1, y1) in pixels.
        jpeg: The crop, or b"" if another box overlaps it.
    """

    frame: int
    track: int
    box: Boxes
    jpeg: bytes


@app.command()
def prepare(
    video: Annotated[Path, typer.Argument(help="A video with upright people.")],
    output: Annotated[Path, typer.Argument(help="The .npz file to write.")],
) -> None:
    """Detect, track and cut out people, and write crops with identities."""
    sightings, frames, rate_hz = follow_people(video)
    with atomic_write(output) as partial, partial.open("wb") as file:
        np.savez(
            file,
            jpeg=np.frombuffer(b"".join(s.jpeg for s in sightings), np.uint8),
            sizes=np.array([len(s.jpeg) for s in sightings], np.int64),
            tracks=np.array([s.track for s in sightings], np.int64),
            frames=np.array([s.frame for s in sightings], np.int64),
            boxes=np.stack([s.box for s in sightings]).astype(np.float32),
            video=np.array([frames, rate_hz], np.float64),
        )
    kept, counts = choose_crops(sightings, frames, rate_hz)
    typer.echo(f"{frames} frames, {len(sightings)} detections, {len(kept)} crops kept")
    for reason, count in sorted(counts.items()):
        typer.echo(f"{reason}: {count}")
    typer.echo(f"wrote {output}, {output.stat().st_size / 1e6:.1f} MB")


def load_crops(path: Path) -> tuple[list[Sighting], float, dict[str, int]]:
    """Return the unambiguous crops of a file, and counts of dropped ones by reason.

    Args:
        path: A file that `prepare` wrote.

    Returns:
        The crops, the number of the frame that splits training and test, and counts.
    """
    with np.load(path, allow_pickle=False) as file:
        data = file["jpeg"].tobytes()
        ends = np.cumsum(file["sizes"])
        columns = file["frames"], file["tracks"], file["boxes"], file["sizes"], ends
        frames, rate_hz = file["video"]
    sightings = [
        Sighting(int(frame), int(track), box, data[end - size : end])
        for frame, track, box, size, end in zip(*columns, strict=True)
    ]
    kept, counts = choose_crops(sightings, int(frames), float(rate_hz))
    return kept, TRAIN_SHARE * float(frames), counts


def follow_people(video: Path) -> tuple[list[Sighting], int, float]:
    """Return all numbered detections, the number of frames, and the rate in Hz.

    Args:
        video: The video.
    """
    capture, tracker = cv2.VideoCapture(str(video)), ByteTracker()
    rate_hz = capture.get(cv2.CAP_PROP_FPS) or 10.0
    sightings: list[Sighting] = []
    number = 0
    while True:
        is_read, frame = capture.read()
        if not is_read:
            break
        boxes = detect_people(np.asarray(frame, np.uint8))
        tracks = tracker.update(boxes, number / rate_hz)
        for index, (box, track) in enumerate(zip(boxes, tracks, strict=True)):
            if track >= 0:
                others = np.delete(boxes, index, axis=0)
                jpeg = b"" if _covered_share(box, others) > MAX_OVERLAP else None
                jpeg = _cut_crops(frame, box) if jpeg is None else jpeg
                sightings.append(Sighting(number, track, box, jpeg))
        number += 1
    capture.release()
    return sightings, number, rate_hz


def _covered_share(box: Boxes, others: Boxes) -> float:
    """Return the largest share of a box that one of the others covers."""
    if not len(others):
        return 0.0
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    common = np.clip(high - low, 0, None).prod(axis=1)
    return float((common / np.prod(box[2:] - box[:2])).max())


def _cut_crops(frame: npt.NDArray[Any], box: Boxes) -> bytes:
    height, width = frame.shape[:2]
    x0, y0, x1, y1 = box.round().astype(int)
    crop = frame[max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)]
    if not crop.size:
        return b""
    how = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    return bytes(cv2.imencode(".jpg", crop, how)[1].tobytes())


def choose_crops(
    sightings: list[Sighting], frames: int, rate_hz: float
) -> tuple[list[Sighting], dict[str, int]]:
    """Return the crops of unambiguous tracks, and counts of dropped ones by reason.

    Args:
        sightings: All numbered detections.
        frames: Number of frames.
        rate_hz: Frames per second.
    """
    tracks: dict[int, list[Sighting]] = {}
    for sighting in sightings:
        tracks.setdefault(sighting.track, []).append(sighting)
    counts: Counter[str] = Counter({"tracks of the tracker": len(tracks)})
    tracks, ambiguous = _join_tracks(tracks, rate_hz)
    counts["people after joining tracks"] = len(tracks)
    split = TRAIN_SHARE * frames
    kept: list[Sighting] = []
    for number, track in tracks.items():
        crops = [s for s in track if s.jpeg]
        counts["crops dropped, overlap"] += len(track) - len(crops)
        if track[0].frame < split <= track[-1].frame:
            reason = "on both sides of the split"
        elif number in ambiguous:
            reason = "several may continue it"
        elif _has_jump(track):
            reason = "jump"
        elif len(crops) < MIN_CROPS:
            reason = f"fewer than {MIN_CROPS} crops"
        else:
            part = "training" if track[-1].frame < split else "test"
            counts[f"people kept, {part}"] += 1
            counts[f"crops kept, {part}"] += len(crops)
            kept += [replace(crop, track=number) for crop in crops]
            continue
        counts[f"people dropped, {reason}"] += 1
        counts["crops dropped with them"] += len(crops)
    return kept, dict(counts)


def _centre(box: Boxes) -> Boxes:
    return (box[:2] + box[2:]) / 2


def _has_jump(track: list[Sighting]) -> bool:
    for before, after in pairwise(track):
        if after.frame - before.frame > MAX_GAP_FRAMES:
            continue  # two joined tracks, which were compared already
        step = np.linalg.norm(_centre(after.box) - _centre(before.box))
        width = before.box[2] - before.box[0]
        # HOG's boxes change their size from frame to frame by a scale step
        if step > width * (0.5 + MAX_JUMP * (after.frame - before.frame)):
            return True
    return False


def _join_tracks(
    tracks: dict[int, list[Sighting]], rate_hz: float
) -> tuple[dict[int, list[Sighting]], set[int]]:
    """Join tracks that continue each other; return also the numbers of ambiguous ones.

    Args:
        tracks: Detections by number of the track.
        rate_hz: Frames per second.
    """
    after: dict[int, list[int]] = {number: [] for number in tracks}
    before: dict[int, list[int]] = {number: [] for number in tracks}
    for first, track in tracks.items():
        for second, other in tracks.items():
            if _may_continue(track, other[0], rate_hz):
                after[first].append(second)
                before[second].append(first)
    ambiguous = {n for n in tracks if len(after[n]) > 1 or len(before[n]) > 1}
    joined: dict[int, list[Sighting]] = {}
    name: dict[int, int] = {}
    for number in sorted(tracks, key=lambda n: tracks[n][0].frame):
        sources = before[number]
        is_certain = len(sources) == 1 and len(after[sources[0]]) == 1
        name[number] = name[sources[0]] if is_certain else number
        joined.setdefault(name[number], []).extend(tracks[number])
    return joined, {name[number] for number in ambiguous}


def _may_continue(track: list[Sighting], start: Sighting, rate_hz: float) -> bool:
    end, earlier = track[-1], track[-min(len(track), VELOCITY_SIGHTINGS)]
    gap = start.frame - end.frame
    if not 0 < gap <= HANDOVER_S * rate_hz:
        return False
    time = max(1, end.frame - earlier.frame)
    velocity = (_centre(end.box) - _centre(earlier.box)) / time
    expected = _centre(end.box) + velocity * gap
    width = float(end.box[2] - end.box[0])
    distance = float(np.linalg.norm(_centre(start.box) - expected))
    return distance < HANDOVER_WIDTHS * width


if __name__ == "__main__":
    app()
