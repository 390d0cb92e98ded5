"""Which layers cost INT8 its accuracy: each one back to float, alone.

The error is the output's distance from FP32 on the held-out crops: the largest
difference of a probability, 1 - the smallest cosine of anything else. Layers are then
put back to float one after the other, the dearest first, until the model's tolerance
holds; that list is what `int8_exclude` is for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builders.check import Check, measures
from builders.ops.onnx import onnx_from_model
from builders.ops.placement import Int8, placement_of
from builders.parity import onnx_runner
from builders.quantisation.table import Int8Table
from builders.spec import Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 30


@dataclass(frozen=True)
class Sensitivity:
    """`everything` is the error with all layers in INT8, `without` that with one layer
    in float, `exclude` the shortest list found that keeps the tolerance, and `passed`
    whether it does.
    """

    everything: float
    without: dict[str, float]
    exclude: tuple[str, ...]
    error: float
    passed: bool


def sensitivity(
    model: Model,
    arrays: Any,
    table: Int8Table,
    check: Check,
    progress: Callable[[str, int, int], None],
) -> Sensitivity:
    """Measure every convolution that `model` has in INT8."""

    def error(*exclude: str) -> tuple[float, bool]:
        names = (*model.int8_exclude, *exclude)
        int8 = Int8(placement_of(model, names), table.steps)
        data = onnx_from_model(model, arrays, int8).SerializeToString()
        found = measures(model, check, onnx_runner(data), "cpu", "int8")
        return max(measure.error for measure in found), all(
            measure.passed for measure in found
        )

    everything, passed = error()
    layers = placement_of(model, model.int8_exclude).layers
    without = {}
    for number, layer in enumerate(layers, start=1):
        without[layer], _ = error(layer)
        progress("one layer back to float", number, len(layers))
    without = dict(sorted(without.items(), key=lambda item: item[1]))
    chosen: list[str] = []
    best = everything
    for number, layer in enumerate(without, start=1):
        if passed:
            break
        chosen.append(layer)
        best, passed = error(*chosen)
        progress("the dearest back to float", number, len(layers))
    exclude = (*model.int8_exclude, *chosen)
    return Sensitivity(everything, without, exclude, best, passed)


def plot(found: Sensitivity) -> Figure:
    """What each layer costs: the error that goes when it is float."""
    from builders.evaluation.assessment import figure

    rows = list(found.without.items())[:SHOWN][::-1]
    drawn = figure(7.0, 1.2 + 0.22 * len(rows))
    axes = drawn.subplots()
    axes.barh([n for n, _ in rows], [found.everything - error for _, error in rows])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"error saved by keeping it float (of {found.everything:.3g})")
    axes.tick_params(axis="y", labelsize=7)
    return drawn
