"""Small re-identification networks as ONNX files, in their exporters' conventions.

Each takes normalised pixels, as torch.onnx.export writes a trained network, and returns
embeddings that are not normalised.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

SIZE_HW = (32, 16)
LENGTH = 6

Floats = npt.NDArray[np.floating[Any]]


class TinyReid(nn.Module):
    """Convolution, pooling to a grid and a linear layer."""

    def __init__(self, *, channels_last: bool = False) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.fc = nn.Linear(8 * 2, LENGTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2) if self.channels_last else x
        x = torch.relu(self.conv(x))
        # the upper and the lower half, whatever the size
        half = x.shape[2] // 2
        parts = [x[:, :, :half].mean((2, 3)), x[:, :, half:].mean((2, 3))]
        return 10 * self.fc(torch.cat(parts, dim=1))


def export_reid(
    path: Path,
    *,
    names: tuple[str, str],
    varies: bool = False,
    channels_last: bool = False,
    half: bool = False,
) -> None:
    """Export a TinyReid with random weights.

    Args:
        path: File to write.
        names: Names of input and output.
        varies: Whether height and width vary, as ultralytics' `dynamic=True` does.
        channels_last: Whether the input is [N, H, W, 3].
        half: Whether weights and input are FP16.
    """
    torch.manual_seed(3)
    module = TinyReid(channels_last=channels_last).eval()
    sample = (
        torch.zeros(1, *SIZE_HW, 3) if channels_last else torch.zeros(1, 3, *SIZE_HW)
    )
    if half:
        module, sample = module.half(), sample.half()
    axes = {0: "batch"} | ({2: "height", 3: "width"} if varies else {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (sample,),
            str(path),
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_axes={names[0]: axes, names[1]: {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )


def run_original(
    path: Path,
    crops: npt.NDArray[np.uint8],
    normalise: Callable[[Floats], Floats],
    *,
    channels_last: bool = False,
    half: bool = False,
) -> Floats:
    """Return ONNX Runtime's answers of the file itself, for a user's normalisation.

    Args:
        path: The file.
        crops: UINT8 [N, H, W, 3] RGB.
        normalise: Normalises pixels 0..1 of the file's channels, [N, H, W, 3].
        channels_last: Whether the input is [N, H, W, 3].
        half: Whether the input is FP16.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    x = normalise(crops.astype(np.float64) / 255)
    x = x if channels_last else x.transpose(0, 3, 1, 2)
    x = x.astype(np.float16 if half else np.float32)
    (answers,) = session.run(None, {session.get_inputs()[0].name: x})
    result: Floats = answers
    return result


def torchreid_pixels(x: Floats) -> Floats:
    """Normalise as torchreid does: ImageNet's mean and standard deviation."""
    return (x - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])


def ultralytics_pixels(x: Floats) -> Floats:
    """Normalise as ultralytics does: 0..1."""
    return x
