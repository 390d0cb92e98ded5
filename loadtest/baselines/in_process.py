"""The server's work in this process: the same ONNX files and the same pixels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import simplejpeg

from loadtest.errors import LoadTestError
from loadtest.options import DEFAULT_FRAME_MODEL
from loadtest.server import get_config, model_by_output
from personserve import Client
from personserve.images.crops import CropShape, cut_crops, pixel_boxes

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"

GENDER, EMBEDDING = "female_probability", "embedding"
"""Outputs of a frame model; each network of a frame makes one of them."""

CROPS = "crops"
"""Input of both networks."""

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class NetworkSpec:
    """One network of a frame, as the running server describes it.

    Attributes:
        model: Name of the model.
        crop: Size and interpolation of its crops.
    """

    model: str
    crop: CropShape


def describe_frame_networks(
    client: Client, http: str, model: str
) -> dict[str, NetworkSpec]:
    """Return {output: network} of a model that takes frames.

    Args:
        client: A client of the running server.
        http: HTTP address of the running server, host:port.
        model: Name of the model.

    Raises:
        LoadTestError: If the HTTP address does not answer, or the model is no ensemble
            of one network for the gender and one for the embedding.
        PersonServeError: If the server does not describe its models.
    """
    models = model_by_output(get_config(http, model))
    if len({models.get(output, model) for output in (GENDER, EMBEDDING)}) < 2:
        raise LoadTestError(
            f"{model}: expected an ensemble in which one network answers {GENDER} and "
            f"another {EMBEDDING}, such as {DEFAULT_FRAME_MODEL}"
        )
    return {
        output: NetworkSpec(
            models[output], client.describe(models[output]).crop_shape(CROPS)
        )
        for output in (GENDER, EMBEDDING)
    }


def specs_to_json(specs: Mapping[str, NetworkSpec]) -> str:
    """Return {output: network} as JSON, for another process.

    Args:
        specs: As describe_frame_networks returns them.
    """
    return json.dumps({output: asdict(spec) for output, spec in specs.items()})


def specs_from_json(text: str) -> dict[str, NetworkSpec]:
    """Return what specs_to_json wrote.

    Args:
        text: The JSON.
    """
    return {
        output: NetworkSpec(spec["model"], CropShape(**spec["crop"]))
        for output, spec in json.loads(text).items()
    }


def open_session(repository: Path, model: str) -> onnxruntime.InferenceSession:
    """Open a model's ONNX file with ONNX Runtime, on one thread.

    Args:
        repository: The model repository.
        model: Name of the model.

    Raises:
        LoadTestError: If the file is not built.
    """
    folder = repository / model
    versions = [int(p.name) for p in folder.glob("[0-9]*") if p.name.isdecimal()]
    path = folder / str(max(versions, default=1)) / "model.onnx"
    if not path.is_file():
        raise LoadTestError(f"{path} is missing: run python -m builders build")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )


class Networks:
    """Both networks of a frame, with one session each and one thread per session."""

    def __init__(self, repository: Path, specs: Mapping[str, NetworkSpec]) -> None:
        """Open both sessions.

        Args:
            repository: The model repository.
            specs: As describe_frame_networks returns them.

        Raises:
            LoadTestError: If a network is not built.
        """
        cv2.setNumThreads(1)
        self._repository = repository
        self.specs = specs
        self._sessions = {
            output: open_session(repository, spec.model)
            for output, spec in specs.items()
        }

    @property
    def repository(self) -> Path:
        """The model repository that the networks come from."""
        return self._repository

    def cut_people(self, jpeg: bytes, boxes: Floats) -> dict[str, Bytes]:
        """Decode a JPEG and cut out the people, as the preprocessing model does.

        Args:
            jpeg: The frame.
            boxes: FP32 [N, 4] in pixels.

        Returns:
            {output of the network: crops UINT8 [N, height, width, 3]}.
        """
        pixels = simplejpeg.decode_jpeg(jpeg, colorspace="BGR")
        whole = pixel_boxes(boxes, *pixels.shape[:2])
        shapes = [spec.crop for spec in self.specs.values()]
        crops = cut_crops(pixels, whole, shapes, order="BGR")
        return dict(zip(self.specs, crops, strict=True))

    def run(self, output: str, crops: Bytes) -> Floats:
        """Run the network that makes one output.

        Args:
            output: GENDER or EMBEDDING.
            crops: UINT8 [N, height, width, 3], RGB.

        Returns:
            FP32 [N, 1] or [N, dimension].
        """
        (values,) = self._sessions[output].run(None, {CROPS: crops})
        return np.asarray(values, np.float32)

    def classify_gender(self, crops: Bytes) -> Floats:
        """Return the probability of female, FP32 [N, 1].

        Args:
            crops: UINT8 [N, height, width, 3], RGB, of the gender network's size.
        """
        return self.run(GENDER, crops)

    def describe_people(self, jpeg: bytes, boxes: Floats) -> tuple[Floats, Floats]:
        """Return probabilities FP32 [N, 1] and embeddings FP32 [N, dimension].

        Args:
            jpeg: The frame.
            boxes: FP32 [N, 4] in pixels.
        """
        crops = self.cut_people(jpeg, boxes)
        embeddings = self.run(EMBEDDING, crops[EMBEDDING])
        return self.run(GENDER, crops[GENDER]), embeddings
