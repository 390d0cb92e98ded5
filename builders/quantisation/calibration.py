"""Calibration: the INT8 table of a model from real crops.

The float network runs over the images with every tensor that the placement names as an
additional output; `ranges` turns the values into scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from builders.ops.folding import INT8_MAX, Kernel
from builders.ops.onnx import OnnxOps, onnx_from_ops
from builders.ops.placement import Int8, Pair, Placement, placement_from_model
from builders.progress import Progress, no_progress
from builders.quantisation.images import (
    MIN_IMAGES,
    CalibrationImages,
    Crops,
    read_crops,
)
from builders.quantisation.ranges import create_range_collector
from builders.quantisation.table import (
    Int8Table,
    Method,
    QuantisationError,
    require_int8_layers,
)
from builders.spec.model import Model
from builders.verify.reference import ReferenceAnswers
from builders.weights import Origin


def calibrate(
    model: Model,
    arrays: Mapping[str, npt.NDArray[np.generic]],
    weights: str,
    images: CalibrationImages,
    method: Method,
    progress: Progress = no_progress,
) -> Int8Table:
    """Compute the INT8 table of a model.

    Args:
        model: The declaration.
        arrays: Weights by checkpoint name.
        weights: Their origin, as text.
        images: Images to calibrate with; those that are held out are not used.
        method: How values become a range.
        progress: Called with the number of images, then of tensors.

    Returns:
        The table.

    Raises:
        QuantisationError: If the model has no convolution for INT8, too few images can
            be decoded, or a tensor is zero for all of them.
    """
    require_int8_layers(model)
    observer = _Observer(model, arrays, placement_from_model(model))
    collector = create_range_collector(method)
    done = 0
    for inputs in read_crops(model, images.files):
        collector.collect(observer.run(inputs))
        done += len(next(iter(inputs.values())))
        progress("measuring ranges", done, len(images.files))
    if done < MIN_IMAGES:
        raise QuantisationError(f"only {done} of the files can be decoded")
    ranges = collector.choose_ranges(progress)
    empty = [key for key, largest in ranges.items() if not largest > 0]
    if empty:
        raise QuantisationError(
            f"{empty[0]} is zero for every image: its layer is dead, or the images are "
            "not what the model is for"
        )
    return Int8Table(
        model=model.name,
        weights=weights,
        method=method,
        images=done,
        images_sha256=images.sha256,
        made_by=f"onnxruntime {version('onnxruntime')}",
        date=datetime.now(timezone.utc).date().isoformat(),
        scales={key: largest / INT8_MAX for key, largest in ranges.items()},
    )


def compute_held_out_reference(
    model: Model,
    arrays: Mapping[str, npt.NDArray[np.generic]],
    origin: Origin,
    images: CalibrationImages,
) -> ReferenceAnswers:
    """Run the torch reference in FP32 on the images that calibration holds out.

    Args:
        model: The declaration.
        arrays: Weights by checkpoint name.
        origin: Origin of the weights.
        images: Images; only those that are held out are used.

    Returns:
        The crops and the answers for them.

    Raises:
        QuantisationError: If none of the images can be decoded.
    """
    from builders.ops.torch import Reference

    parts = list(read_crops(model, images.held_out))
    if not parts:
        raise QuantisationError(
            f"none of {len(images.held_out)} held-out images can be decoded"
        )
    inputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return ReferenceAnswers(inputs, Reference(model, arrays)(**inputs), str(origin))


class _ObservingOps(OnnxOps):
    """The float network; records the tensors that the pairs would be placed on."""

    def __init__(self, weights: Any, placement: Placement) -> None:
        self.keys: dict[str, str] = {}
        super().__init__(weights, Int8(placement, {}))

    def insert_pair(self, x: str, pair: Pair) -> str:
        self.keys[x] = pair.key
        return x

    def add_int8_kernel(self, name: str, kernel: Kernel, pair: Pair) -> list[str]:
        del pair
        return self.add_float_kernel(name, kernel)


class _Observer:
    """The float network in ONNX Runtime, with its quantised tensors as outputs."""

    def __init__(
        self,
        model: Model,
        arrays: Mapping[str, npt.NDArray[np.generic]],
        placement: Placement,
    ) -> None:
        import onnx
        import onnxruntime

        ops = _ObservingOps(arrays, placement)
        proto = onnx_from_ops(model, ops)
        kind = onnx.TensorProto.FLOAT
        proto.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, kind, None) for name in ops.keys
        )
        self._keys = ops.keys
        self._session = onnxruntime.InferenceSession(
            proto.SerializeToString(), providers=["CPUExecutionProvider"]
        )

    def run(self, inputs: Crops) -> dict[str, list[npt.NDArray[np.float32]]]:
        """Return the values of one batch by scale."""
        names = list(self._keys)
        by_key: dict[str, list[npt.NDArray[np.float32]]] = {}
        for name, values in zip(names, self._session.run(names, inputs), strict=True):
            by_key.setdefault(self._keys[name], []).append(values)
        return by_key
