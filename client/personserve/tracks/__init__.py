"""People over time: one answer for each track of a tracker, from few requests.

    tracks = Tracks(client, rate_hz=10)
    for frame in video:
        detections = tracker.update_with_detections(detect(frame))
        for track in tracks.update(frame, detections):
            print(track)

`Tracks` accepts the results of any tracker, and asks the server only about people whose
answer is worth a request: `RequestPolicy` says when. Each `Track` has the weighted mean
of its answers. `AsyncTracks` is the same for asyncio.
"""

from personserve.tracks.annotation import annotate_tracks as annotate_tracks
from personserve.tracks.policy import RequestPolicy as RequestPolicy
from personserve.tracks.results import TrackedBoxes as TrackedBoxes
from personserve.tracks.results import TrackerId as TrackerId
from personserve.tracks.track import Track as Track
from personserve.tracks.tracks import AsyncTracks as AsyncTracks
from personserve.tracks.tracks import Tracks as Tracks

__all__ = [
    "AsyncTracks",
    "RequestPolicy",
    "Track",
    "TrackedBoxes",
    "TrackerId",
    "Tracks",
    "annotate_tracks",
]
