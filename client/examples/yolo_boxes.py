"""Boxes from a detector: supervision's Detections and ultralytics' Results, and back.

Run:
    python -m builders serve                        # in another terminal
    python client/examples/yolo_boxes.py grpc://127.0.0.1:8001 street.jpg

Writes annotated.jpg. A result with boxes of other classes (cars) is refused.
Needs `pip install ultralytics supervision` to detect people. Where one of them is not
installed, this file defines a stand-in object with the same attributes and one box
around the whole image, and says so.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from personserve import Client, People, annotate

PERSON_CLASS = 0
"""Number of the class "person" in COCO, which YOLO models are trained on."""


def main(address: str, path: str) -> None:
    """Analyse the people of one image twice, once for each kind of result."""
    image = cv2.imread(path)
    if image is None:
        sys.exit(f"error: cannot read {path}")

    results = detect_with_ultralytics(image)
    detections = supervision_detections(results, image)

    with Client(address) as client:
        # ultralytics returns a list with one Results object for each image
        people = client.attributes(image, results)
        print_people("ultralytics", people)
        cv2.imwrite("annotated.jpg", annotate(image, people))

        # a detector of several classes: keep the people only
        detections = detections[detections.class_id == PERSON_CLASS]
        people = client.attributes(image, detections)
        print_people("supervision", people)

        # and back, for example for supervision's annotators and trackers
        detections = people.to_supervision(detections)
        print(f"Detections.data: {', '.join(sorted(detections.data))}")


def print_people(title: str, people: People) -> None:
    """Print one line for each person, and a warning for untrained weights."""
    print(f"{title}: {len(people)} people")
    for person in people:
        box = np.round(person.box).tolist()
        print(f"  {box} {person.gender.label} {person.gender.probability:.2f}")
    if people.stand_in_weights:
        print(f"  untrained weights: {', '.join(people.stand_in_weights)}")


def detect_with_ultralytics(image: np.ndarray) -> Any:
    """Return a list with the Results of one image, people only."""
    if find_spec("ultralytics"):
        from ultralytics import YOLO

        return YOLO("yolo11n.pt")(image, classes=[PERSON_CLASS])
    print("ultralytics is not installed: using a stand-in for its Results")
    boxes = SimpleNamespace(xyxy=whole_image_box(image), cls=np.array([PERSON_CLASS]))
    return [SimpleNamespace(boxes=boxes, names={PERSON_CLASS: "person"})]


def supervision_detections(results: Any, image: np.ndarray) -> Any:
    """Return Detections, made from ultralytics' Results where both are installed."""
    if find_spec("supervision") and find_spec("ultralytics"):
        import supervision

        return supervision.Detections.from_ultralytics(results[0])
    if find_spec("supervision"):
        import supervision

        return supervision.Detections(
            xyxy=whole_image_box(image), class_id=np.array([PERSON_CLASS])
        )
    print("supervision is not installed: using a stand-in for its Detections")
    return StandInDetections(whole_image_box(image), np.array([PERSON_CLASS]))


@dataclass
class StandInDetections:
    """The part of supervision.Detections that this example uses."""

    xyxy: np.ndarray
    class_id: np.ndarray
    data: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, index: np.ndarray) -> StandInDetections:
        """Return the detections for which a mask is True."""
        return StandInDetections(self.xyxy[index], self.class_id[index])


def whole_image_box(image: np.ndarray) -> np.ndarray:
    """Return one box [1, 4] around the whole image."""
    height, width = image.shape[:2]
    return np.array([[0, 0, width, height]], np.float32)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
