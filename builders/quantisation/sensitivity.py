"""Sensitivity analysis: the layers that cost INT8 the most accuracy.

Each layer alone is put back to float, and the output's distance from FP32 on the
held-out crops is measured: the largest difference of a probability, or 1 - the smallest
cosine of an embedding. Then layers are put back one after the other, the most sensitive
first, until the model's tolerance holds. That list is the model's `int8_exclude`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builders.ops.onnx import onnx_from_model
from builders.ops.placement import Int8, placement_from_model
from builders.progress import Progress, no_progress
from builders.quantisation.table import Int8Table
from builders.repository.built_files import shorten_weights
from builders.spec.model import Model
from builders.verify.comparison import compare_outputs
from builders.verify.inputs import onnx_runner
from builders.verify.reference import ReferenceAnswers
from builders.weights import stand_in_warning
from personserve.internal.figures import can_draw, new_figure
from personserve.internal.report import Report
from personserve.internal.sections import Paragraph, Plot, Section, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_BARS = 30


@dataclass(frozen=True)
class Sensitivity:
    """Errors with all layers in INT8, with one in float, and with a list in float.

    Attributes:
        everything: Error with all layers in INT8.
        without: Error with one layer in float, by that layer; the smallest first.
        exclude: Names of layers in float: those that the declaration excludes already,
            and the shortest list that was tried and keeps the tolerance.
        error: Error with `exclude` in float.
        passed: Whether that is within the model's tolerance.
    """

    everything: float
    without: dict[str, float]
    exclude: tuple[str, ...]
    error: float
    passed: bool

    @property
    def verdict(self) -> str:
        """One line for reports and the terminal."""
        excluded = f"with int8_exclude={self.exclude!r}: {self.error:.4g}; "
        return (
            f"all in INT8: error {self.everything:.4g}; "
            + (excluded if self.without else "")
            + ("within tolerance" if self.passed else "OUTSIDE tolerance")
        )


def measure_sensitivity(
    model: Model,
    arrays: Mapping[str, Any],
    table: Int8Table,
    reference: ReferenceAnswers,
    progress: Progress = no_progress,
) -> Sensitivity:
    """Measure the sensitivity of every convolution that a model has in INT8.

    Args:
        model: The declaration.
        arrays: Weights by checkpoint name.
        table: Scales of the model's tensors.
        reference: Held-out crops and the answers of FP32.
        progress: Called with the number of layers.

    Returns:
        The errors.
    """

    def measure_error(*exclude: str) -> tuple[float, bool]:
        placement = placement_from_model(model, (*model.int8_exclude, *exclude))
        int8 = Int8(placement, table.scales)
        data = onnx_from_model(model, arrays, int8).SerializeToString()
        run = onnx_runner(data)
        comparisons = compare_outputs(model, reference, run, "cpu", "int8")
        return max(c.error for c in comparisons), all(c.passed for c in comparisons)

    everything, passed = measure_error()
    layers = placement_from_model(model, model.int8_exclude).layers
    without = {}
    for number, layer in enumerate(layers, start=1):
        without[layer], _ = measure_error(layer)
        progress("one layer back to float", number, len(layers))
    without = dict(sorted(without.items(), key=lambda item: item[1]))
    excluded: list[str] = []
    error = everything
    for number, layer in enumerate(without, start=1):
        if passed:
            break
        excluded.append(layer)
        error, passed = measure_error(*excluded)
        progress("the most sensitive layers back to float", number, len(layers))
    exclude = (*model.int8_exclude, *excluded)
    return Sensitivity(everything, without, exclude, error, passed)


def write_report(
    folder: Path, model: Model, sensitivity: Sensitivity, weights: str
) -> tuple[Path, Report]:
    """Write sensitivity.html, .md, .json and, where matplotlib is installed, .png.

    Args:
        folder: Folder of the report.
        model: The declaration.
        sensitivity: The errors.
        weights: Origin of the weights, as text.

    Returns:
        The path of the HTML page, and the report.
    """
    rows = [
        [layer, f"{error:.4g}", f"{sensitivity.everything - error:+.2g}"]
        for layer, error in sensitivity.without.items()
    ]
    sections: list[Section] = [
        Paragraph("Result", sensitivity.verdict),
        Table("Error with one layer in float", ["float layer", "error", "saves"], rows),
    ]
    if can_draw():
        figure = plot_sensitivity(sensitivity)
        sections.append(Plot("Error that each layer saves", figure, "sensitivity"))
    report = Report(
        f"INT8 of {model.name}",
        {"weights": weights},
        asdict(sensitivity),
        sections,
        warning=stand_in_warning(weights),
        mark=f"{model.name}, weights: {shorten_weights(weights)}",
    )
    return report.write(folder, "sensitivity"), report


def plot_sensitivity(sensitivity: Sensitivity) -> Figure:
    """Draw the error that each layer saves when it is float.

    Args:
        sensitivity: The errors.

    Returns:
        A bar chart of the MAX_BARS most sensitive layers.
    """
    bars = list(sensitivity.without.items())[:MAX_BARS][::-1]
    figure = new_figure(7.0, 1.2 + 0.22 * len(bars))
    axes = figure.subplots()
    saved = [sensitivity.everything - error for _, error in bars]
    axes.barh([layer for layer, _ in bars], saved)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(
        f"error saved by keeping it float (of {sensitivity.everything:.3g})"
    )
    axes.tick_params(axis="y", labelsize=7)
    return figure
