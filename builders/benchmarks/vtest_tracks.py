"""Self-labelled people of a video: crops whose identity is the number of a track.

OpenCV's HOG detector finds upright people, ByteTrack numbers them. No person looks at
the result, so what is ambiguous is dropped, and counted:

- crops whose box overlaps another one (two people in one crop),
- tracks with a jump between two detections (perhaps two people with one number),
- tracks that begin near the place where another one has just ended (perhaps one person
  with two numbers),
- tracks that are on both sides of the split in time,
- tracks with too few crops.

The output is one file of JPEG-coded crops, small enough to be carried to a machine with
a GPU.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
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

HANDOVER_S = 4.0
HANDOVER_WIDTHS = 4.0
"""A track that begins within this time and distance of another one's end is ambiguous.
"""

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
    kept, counts = choose_crops(sightings, frames, rate_hz)
    arrays = pack(kept, frames)
    with atomic_write(output) as partial, partial.open("wb") as file:
        np.savez(file, **arrays, counts=np.array(sorted(counts.items())))
    typer.echo(f"{frames} frames, {len(sightings)} detections with a number")
    for reason, count in sorted(counts.items()):
        typer.echo(f"{reason}: {count}")
    typer.echo(f"wrote {output}, {output.stat().st_size / 1e6:.1f} MB")


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
        boxes = detect_people(frame)
        tracks = tracker.update(boxes, number / rate_hz)
        for index, (box, track) in enumerate(zip(boxes, tracks, strict=True)):
            if track >= 0:
                others = np.delete(boxes, index, axis=0)
                jpeg = b"" if _covered_share(box, others) > MAX_OVERLAP else None
                jpeg = _cut(frame, box) if jpeg is None else jpeg
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


def _cut(frame: npt.NDArray[Any], box: Boxes) -> bytes:
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
    """Return the crops of unambiguous tracks, and what was dropped, by reason.

    Args:
        sightings: All numbered detections.
        frames: Number of frames.
        rate_hz: Frames per second.
    """
    tracks: dict[int, list[Sighting]] = {}
    for sighting in sightings:
        tracks.setdefault(sighting.track, []).append(sighting)
    split = TRAIN_SHARE * frames
    handovers = _find_handovers(tracks, rate_hz)
    counts: Counter[str] = Counter()
    kept: list[Sighting] = []
    for number, track in tracks.items():
        crops = [s for s in track if s.jpeg]
        counts["crops dropped, overlap"] += len(track) - len(crops)
        if track[0].frame < split <= track[-1].frame:
            reason = "on both sides of the split"
        elif _has_jump(track):
            reason = "jump"
        elif number in handovers:
            reason = "perhaps the person of another track"
        elif len(crops) < MIN_CROPS:
            reason = f"fewer than {MIN_CROPS} crops"
        else:
            part = "training" if track[-1].frame < split else "held out"
            counts[f"tracks kept, {part}"] += 1
            counts[f"crops kept, {part}"] += len(crops)
            kept += crops
            continue
        counts[f"tracks dropped, {reason}"] += 1
        counts["crops dropped with their track"] += len(crops)
    return kept, dict(counts)


def _centre(box: Boxes) -> Boxes:
    return (box[:2] + box[2:]) / 2


def _has_jump(track: list[Sighting]) -> bool:
    for before, after in pairwise(track):
        step = np.linalg.norm(_centre(after.box) - _centre(before.box))
        width = before.box[2] - before.box[0]
        # HOG's boxes change their size from frame to frame by a scale step
        if step > width * (0.5 + MAX_JUMP * (after.frame - before.frame)):
            return True
    return False


def _find_handovers(tracks: dict[int, list[Sighting]], rate_hz: float) -> set[int]:
    """Return the shorter one of each two tracks that may be of one person."""
    handovers = set()
    for first in tracks.values():
        end = first[-1]
        for second in tracks.values():
            start = second[0]
            gap_s = (start.frame - end.frame) / rate_hz
            if not 0 < gap_s <= HANDOVER_S:
                continue
            width = end.box[2] - end.box[0]
            distance = np.linalg.norm(_centre(start.box) - _centre(end.box))
            if distance < HANDOVER_WIDTHS * width:
                handovers.add(min(first, second, key=len)[0].track)
    return handovers


def pack(kept: list[Sighting], frames: int) -> dict[str, npt.NDArray[Any]]:
    """Return arrays: JPEG bytes one after the other, their ends, tracks and frames.

    Args:
        kept: The crops.
        frames: Number of frames of the video.
    """
    return {
        "jpeg": np.frombuffer(b"".join(s.jpeg for s in kept), np.uint8),
        "ends": np.cumsum([len(s.jpeg) for s in kept]).astype(np.int64),
        "tracks": np.array([s.track for s in kept], np.int64),
        "frames": np.array([s.frame for s in kept], np.int64),
        "split_frame": np.array(round(TRAIN_SHARE * frames)),
    }


if __name__ == "__main__":
    app()
