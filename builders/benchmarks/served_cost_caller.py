"""Callers of served_cost, in a process of their own with one checkout's client.

It imports nothing of this repository but `personserve`, which is the one on PYTHONPATH,
and uses only calls that all versions of the client have. Each line of the input is a
JSON object with job, callers and seconds; each line of the output is the result.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping

import cv2
import numpy as np

import personserve

HEIGHT, WIDTH = 1080, 1920
PEOPLE = 10
CROP_HEIGHT, CROP_WIDTH = 300, 120
TIMEOUT_S = 60.0
JPEG_QUALITY = 90


def make_jobs(client: personserve.Client) -> dict[str, Callable[[], object]]:
    """Return the requests that are measured, by name of the model.

    Args:
        client: The client.
    """
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (HEIGHT // 20, WIDTH // 20, 3), dtype=np.uint8)
    frame = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    _, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    jpeg = data.tobytes()
    lefts = np.linspace(0, WIDTH - CROP_WIDTH, PEOPLE).astype(int)
    boxes = [[int(x), 200, int(x) + CROP_WIDTH, 200 + CROP_HEIGHT] for x in lefts]
    crops = [frame[y0:y1, x0:x1] for x0, y0, x1, y1 in boxes]
    return {
        "person_attributes": lambda: client.attributes(jpeg, boxes),
        "person_attributes_crops": lambda: client.attributes_of_crops(crops),
    }


def measure(send: Callable[[], object], callers: int, seconds: float) -> list[float]:
    """Call a function from several threads; the durations of all calls in seconds.

    Args:
        send: Function to call; it returns when the request is answered.
        callers: Number of threads.
        seconds: Time after which no new calls are started.
    """
    durations: list[float] = []
    end = time.perf_counter() + seconds

    def run() -> None:
        while (began := time.perf_counter()) < end:
            send()
            durations.append(time.perf_counter() - began)

    threads = [threading.Thread(target=run) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return durations


def _write(record: Mapping[str, object]) -> None:
    sys.stdout.write(f"{json.dumps(record)}\n")
    sys.stdout.flush()


def main() -> None:
    """Serve the requests on the standard input."""
    with personserve.Client(sys.argv[1], timeout_s=TIMEOUT_S) as client:
        jobs = make_jobs(client)
        for send in jobs.values():
            people: object = send()  # also describes the model
            if len(people) != PEOPLE:  # type: ignore[arg-type]
                sys.exit(f"expected {PEOPLE} people, got {people}")
        _write({"client": personserve.__file__})
        for line in sys.stdin:
            task = json.loads(line)
            began = time.perf_counter()
            durations = measure(jobs[task["job"]], task["callers"], task["seconds"])
            elapsed_s = time.perf_counter() - began
            result = {
                "people_per_s": PEOPLE * len(durations) / elapsed_s,
                "p50_ms": 1000 * float(np.median(durations)),
            }
            _write(result)


if __name__ == "__main__":
    main()
