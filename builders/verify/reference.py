"""Reference answers: outputs of the torch reference for noise and real crops.

Reference answers can be saved, so that a machine with a GPU but without torch
(NVIDIA's container) compares with the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from builders.errors import BuildersError
from builders.spec.model import Model, OnnxModel
from builders.tensors import Image
from builders.verify.inputs import FloatArray, flatten_rows, seeded_inputs
from builders.weights import Origin
from personserve.internal.files import atomic_write

Inputs = Mapping[str, npt.NDArray[Any]]

PHOTOGRAPHS = ("astronaut", "camera", "rocket", "coffee", "chelsea")
"""Photographs of skimage.data that real crops are cut from."""

REAL_WINDOWS = ((0.0, 0.0, 0.5, 1.0), (0.25, 0.0, 0.75, 1.0), (0.5, 0.1, 1.0, 0.9))
"""Windows (x0, y0, x1, y1) that are cut from each photograph, as fractions of it."""


class VerificationError(BuildersError, ValueError):
    """A built file cannot be compared, or is outside the model's tolerance."""


@dataclass(frozen=True)
class ReferenceAnswers:
    """Inputs, and the outputs of the torch reference for them.

    Attributes:
        inputs: Arrays by input name, with the batch dimension first.
        answers: FP32 arrays [N, size] by output name.
        origin: Text form of the weights' origin.
    """

    inputs: Inputs
    answers: Mapping[str, FloatArray]
    origin: str

    def save(self, path: Path) -> None:
        """Write inputs, answers and origin to one NumPy archive.

        Args:
            path: File to write (.npz).
        """
        arrays: dict[str, Any] = {f"inputs/{k}": v for k, v in self.inputs.items()}
        arrays |= {f"answers/{k}": v for k, v in self.answers.items()}
        with atomic_write(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, origin=np.array(self.origin), **arrays)

    @classmethod
    def load(cls, path: Path) -> ReferenceAnswers:
        """Read an archive that `save` wrote; pickled objects are refused.

        Args:
            path: File to read (.npz).

        Raises:
            VerificationError: The file cannot be read or is no saved reference.
        """
        arrays: dict[str, dict[str, Any]] = {"inputs": {}, "answers": {}}
        try:
            with np.load(path, allow_pickle=False) as archive:
                for key in archive.files:
                    kind, _, name = key.partition("/")
                    if name:
                        arrays[kind][name] = archive[key]
                return cls(**arrays, origin=str(archive["origin"]))
        except (OSError, ValueError, KeyError) as exc:
            raise VerificationError(
                f"{path}: not a saved reference ({exc}); write one with "
                "python -m builders reference MODEL --output FILE"
            ) from exc


def compute_reference(
    model: Model, arrays: Mapping[str, Any], origin: Origin
) -> ReferenceAnswers:
    """Run the torch reference on seeded noise and on real crops.

    Args:
        model: Model to run.
        arrays: Its weights by checkpoint name. The reference copies them; the copy is
            freed on return, before any other runtime loads the model.
        origin: Where the weights come from.
    """
    from builders.ops.torch import Reference

    inputs = seeded_inputs(model)
    for image in model.images:
        inputs[image.name] = np.concatenate([inputs[image.name], real_crops(image)])
    return ReferenceAnswers(inputs, Reference(model, arrays)(**inputs), str(origin))


def compute_onnx_reference(
    model: OnnxModel, data: bytes, origin: Origin
) -> ReferenceAnswers:
    """Run an imported ONNX file in ONNX Runtime, without optimising its graph.

    Pixels that the file takes normalised are normalised here, by NumPy, so that the
    normalisation in front of the served file is compared too.

    Args:
        model: Declaration of the file.
        data: Content of the file as it was imported.
        origin: Where the file comes from.
    """
    import onnxruntime

    inputs = seeded_inputs(model)
    if model.takes_crops_only:
        for image in model.images:
            inputs[image.name] = np.concatenate([inputs[image.name], real_crops(image)])
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )
    session = onnxruntime.InferenceSession(
        data, options, providers=["CPUExecutionProvider"]
    )
    names = [tensor.name for tensor in model.output_tensors]
    tensors = dict(inputs)
    file_inputs = {tensor.name: tensor for tensor in session.get_inputs()}
    for image in model.wrapped_images:
        tensor = file_inputs[image.name]
        kind = np.float16 if tensor.type == "tensor(float16)" else np.float32
        x = normalise_pixels(inputs[image.name], image).astype(kind)
        tensors[image.name] = x.transpose(0, 3, 1, 2) if tensor.shape[1] == 3 else x
    answers = dict(zip(names, session.run(names, tensors), strict=True))
    return ReferenceAnswers(inputs, flatten_rows(answers), str(origin))


def normalise_pixels(crops: npt.NDArray[Any], image: Image) -> FloatArray:
    """Normalise RGB crops as an image input states it.

    Args:
        crops: UINT8 [N, H, W, 3] RGB.
        image: The input.

    Returns:
        FP32 [N, H, W, 3] in the channel order of `image`.
    """
    x = crops[..., ::-1] if image.order == "BGR" else crops
    mean, std = (np.array(values, np.float32) for values in (image.mean, image.std))
    return (x.astype(np.float32) - mean) / std


def real_crops(image: Image) -> npt.NDArray[np.uint8]:
    """Cut crops from scikit-image's photographs.

    Args:
        image: Input that the crops are for.

    Returns:
        UINT8 [N, H, W, 3] in RGB order, in the size of `image`.
    """
    import cv2
    import skimage.data

    from personserve.images.crops import cut_crops, pixel_boxes

    crops = []
    for name in PHOTOGRAPHS:
        photograph = getattr(skimage.data, name)()
        if photograph.ndim == 2:
            photograph = cv2.cvtColor(photograph, cv2.COLOR_GRAY2RGB)
        height, width = photograph.shape[:2]
        windows = np.array(REAL_WINDOWS) * (width, height, width, height)
        boxes = pixel_boxes(windows, height, width)
        crops += cut_crops(photograph, boxes, [image.crop_shape], order="RGB")
    return np.concatenate(crops)
