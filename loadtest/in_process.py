"""The server's work done in this process: the same ONNX files and the same pixels, for
what serving costs (overhead) and for other servers (rivals).
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import simplejpeg

from personserve._crops import CropShape, cut, pixel_boxes

REPOSITORY = Path(__file__).resolve().parent.parent / "model_repository"

SHAPES = {
    "person_gender": CropShape(224, 224, "linear"),
    "person_reid_kd_r18": CropShape(384, 128, "cubic"),
}
"""What person_attributes runs on a frame."""

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class NotBuiltError(RuntimeError):
    """A model whose ONNX file is not there; says what to do."""


def open_session(repository: Path, model: str) -> onnxruntime.InferenceSession:
    """`model`'s ONNX file on one thread."""
    path = repository / model / "1" / "model.onnx"
    if not path.is_file():
        raise NotBuiltError(f"{path} is not there: run python -m builders build")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )


def cut_people(jpeg: bytes, boxes: Floats) -> list[Bytes]:
    """The crops that SHAPES want of each person in a picture."""
    pixels = simplejpeg.decode_jpeg(jpeg, colorspace="BGR")
    whole = pixel_boxes(boxes, *pixels.shape[:2])
    return cut(pixels, whole, list(SHAPES.values()), order="BGR")


class Networks:
    """Both networks of a frame, one session each, one thread each."""

    def __init__(self, repository: Path) -> None:
        cv2.setNumThreads(1)
        self._sessions = {name: open_session(repository, name) for name in SHAPES}

    def gender(self, crops: Bytes) -> Floats:
        """P(female) [N, 1] of crops [N, 224, 224, 3]."""
        (found,) = self._sessions["person_gender"].run(None, {"crops": crops})
        return np.asarray(found, np.float32)

    def frame(self, jpeg: bytes, boxes: Floats) -> tuple[Floats, Floats]:
        """P(female) [N, 1] and embeddings [N, 512] of the people in a picture."""
        gender_crops, reid_crops = cut_people(jpeg, boxes)
        (embeddings,) = self._sessions["person_reid_kd_r18"].run(
            None, {"crops": reid_crops}
        )
        return self.gender(gender_crops), np.asarray(embeddings, np.float32)
