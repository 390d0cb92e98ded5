"""Bad requests through both forms of the frame ensemble's preprocessing.

    python -m builders.benchmarks.gpu_inputs OUTDIR

Both forms get the same requests, all at once: bad ones, each between sound ones. The
error of a bad one must be the same text from both forms, and the sound ones must get
their own crops. What differs is printed, and written to OUTDIR/inputs.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from builders.benchmarks.gpu_frames import encode_jpeg
from builders.benchmarks.gpu_frames_served import serve_preprocessing
from builders.benchmarks.gpu_server import PREPROCESSING
from personserve import Client, PersonServeError

TIMEOUT_S = 60
LARGEST_DIFFERENCE = 3
"""Grey levels between the decoders of GPU and CPU."""


def make_requests() -> dict[str, dict[str, Any]]:
    """Return sound and bad requests by name; the names of sound ones begin so."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    frame = cv2.resize(small, (160, 120), interpolation=cv2.INTER_CUBIC)
    jpeg = encode_jpeg(frame)
    png = cv2.imencode(".png", frame)[1].tobytes()
    boxes = np.array([[1, 2, 90, 110], [5, 0, 60, 100]], np.float32)
    size = np.array([120, 160], np.int32)

    def frame_from_bytes(data: bytes, rows: Any = boxes, **more: Any) -> dict[str, Any]:
        return {"encoded_frame": np.frombuffer(data, np.uint8), "boxes": rows, **more}

    def frame_from_pixels(rows: Any = boxes, size_hw: Any = size) -> dict[str, Any]:
        return {"raw_frame": frame.ravel(), "frame_size": size_hw, "boxes": rows}

    return {
        "sound JPEG": frame_from_bytes(jpeg),
        "no frame": {"boxes": boxes},
        "sound raw frame": frame_from_pixels(),
        "both frames": frame_from_bytes(jpeg, raw_frame=frame.ravel(), frame_size=size),
        "size beside a JPEG": frame_from_bytes(jpeg, frame_size=size),
        "no size": {"raw_frame": frame.ravel(), "boxes": boxes},
        "wrong size": frame_from_pixels(size_hw=np.array([120, 161], np.int32)),
        "negative size": frame_from_pixels(size_hw=np.array([-120, -160], np.int32)),
        "sound PNG": frame_from_bytes(png),
        "too large": frame_from_pixels(size_hw=np.array([1 << 20, 1 << 20], np.int32)),
        "no image": frame_from_bytes(b"\x01\x02\x03"),
        "JPEG cut off": frame_from_bytes(jpeg[: len(jpeg) // 2]),
        "JPEG header alone": frame_from_bytes(jpeg[:30]),
        "damaged JPEG": frame_from_bytes(jpeg[:300] + bytes(200) + jpeg[500:]),
        "PNG cut off": frame_from_bytes(png[: len(png) // 2]),
        "GIF": frame_from_bytes(b"GIF89a" + bytes(100)),
        "sound JPEG, one box": frame_from_bytes(jpeg, boxes[:1]),
        "no boxes": frame_from_bytes(jpeg, boxes[:0]),
        "65 boxes": frame_from_bytes(jpeg, np.repeat(boxes[:1], 65, 0)),
        "box outside": frame_from_bytes(
            jpeg, np.array([[500, 500, 600, 600]], np.float32)
        ),
        "box without area": frame_from_bytes(
            jpeg, np.array([[5, 5, 5, 90]], np.float32)
        ),
        "box not a number": frame_from_bytes(
            jpeg, np.array([[0, 0, np.nan, 9]], np.float32)
        ),
        "box infinite": frame_from_pixels(np.array([[0, 0, np.inf, 9]], np.float32)),
        "sound raw frame, one box": frame_from_pixels(boxes[1:]),
    }


def ask_form(form: str) -> dict[str, Any]:
    """Return each request's answer: crops by name, or the text of the error.

    Args:
        form: "gpu" or "cpu".
    """
    requests = make_requests()
    with (
        serve_preprocessing(form, 1) as (address, _),
        Client(address, timeout_s=TIMEOUT_S) as client,
        ThreadPoolExecutor(len(requests)) as pool,
    ):

        def ask(inputs: dict[str, Any]) -> Any:
            try:
                return client.infer(PREPROCESSING, inputs)
            except PersonServeError as exc:
                # the id is the request's own, and not a part of the server's text
                return str(exc).replace(f", request {exc.request_id}", "")

        return dict(zip(requests, pool.map(ask, requests.values()), strict=True))


def find_differences() -> dict[str, list[str]]:
    """Return what both forms answer differently, by request, and what they agree on."""
    ours, theirs = ask_form("gpu"), ask_form("cpu")
    differences: dict[str, list[str]] = {}
    for name, answer in ours.items():
        other = theirs[name]
        if isinstance(answer, str) or isinstance(other, str):
            texts = [
                each if isinstance(each, str) else "crops" for each in (answer, other)
            ]
            if texts[0] != texts[1] or name.startswith("sound"):
                differences[name] = texts
            continue
        error = max(
            int(np.abs(answer[key].astype(int) - other[key]).max()) for key in answer
        )
        if error > LARGEST_DIFFERENCE:
            differences[name] = [f"crops differ by {error} grey levels"]
    return differences


def main() -> int:
    """Ask both forms, and print what differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="folder for results")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    differences = find_differences()
    result = {"requests": len(make_requests()), "differences": differences}
    text = json.dumps(result, indent=2)
    (arguments.output / "inputs.json").write_text(text, encoding="utf-8")
    sys.stdout.write(f"{text}\n")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
