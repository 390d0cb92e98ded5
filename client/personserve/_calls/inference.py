"""Inferences of any model, with the caller's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np

from personserve._answers import max_reply_bytes
from personserve._calls.models import ModelCalls
from personserve._errors import InvalidInputError
from personserve._results import InferResult
from personserve._retry import Call
from personserve._types import Array, GpuArray
from personserve._wire.requests import DeviceArray, Infer, ModelDescription


@dataclass
class InferenceCalls:
    """Inferences of any model.

    Attributes:
        models: Calls about models.
    """

    models: ModelCalls

    def infer(
        self, model: str, inputs: Mapping[str, Array | GpuArray]
    ) -> Call[InferResult]:
        """Implement Client.infer.

        Args:
            model: See Client.infer.
            inputs: See Client.infer.

        Returns:
            The call.
        """
        outputs: InferResult = yield from self.models.repeat_if_changed(
            (model,), lambda: self._infer_raw(model, inputs)
        )
        return outputs

    def _infer_raw(
        self, name: str, inputs: Mapping[str, Array | GpuArray]
    ) -> Call[InferResult]:
        model = yield from self.models.describe_cached(name)
        tensors = _check_inputs(model, inputs)
        outputs = yield Infer(
            name,
            tensors,
            uuid4().hex,
            repeatable=not model.stateful,
            max_reply_bytes=max_reply_bytes(model, _batch_of(model, tensors)),
            endpoint=model.endpoint,
        )
        if outputs.endpoint != model.endpoint:
            model = yield from self.models.describe_cached(name, outputs.endpoint)
        return InferResult(
            outputs, name, model.stand_in_weights, model.parameters.get("weights", "")
        )


def _check_inputs(
    model: ModelDescription, inputs: Mapping[str, Array | GpuArray]
) -> dict[str, Array | DeviceArray]:
    known = {tensor.name for tensor in model.inputs}
    needed = {tensor.name for tensor in model.inputs if not tensor.optional}
    if not needed <= set(inputs) <= known:
        optional = known - needed
        also = f" and optionally {sorted(optional)}" if optional else ""
        raise InvalidInputError(
            f"expected inputs {sorted(needed)}{also}, got {sorted(inputs)}",
            model=model.name,
        )
    return {name: _check_input(model, name, inputs[name]) for name in inputs}


def _batch_of(
    model: ModelDescription, tensors: Mapping[str, Array | DeviceArray]
) -> int | None:
    """Return the batch of a request to a model that batches, None for another."""
    if not model.max_batch_size:
        return None
    return max((each.shape[0] for each in tensors.values() if each.shape), default=1)


def _check_input(model: ModelDescription, name: str, value: Any) -> Array | DeviceArray:
    if isinstance(value, np.ndarray):
        return value
    try:
        device_array = DeviceArray.from_object(value)
    except (ValueError, TypeError, AttributeError) as exc:  # torch's, on the CPU
        raise InvalidInputError(f"{name}: {exc}", model=model.name) from exc
    if device_array is None:
        raise InvalidInputError(
            f"{name}: expected a NumPy array, got {type(value).__name__}",
            model=model.name,
        )
    return device_array
