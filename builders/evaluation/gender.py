"""Gender: classification report, ROC, abstain band, and error by group.

The classification report (precision, recall and F1 of each class) is scikit-learn's.
Images without a label do not count: the published code of the pedestrian attribute sets
gives unknown attributes no weight either
(https://github.com/valencebond/Rethinking_of_PAR).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from builders.evaluation.assessment import Assessment
from builders.evaluation.datasets import UNKNOWN, EvaluationError, LabelledImages
from builders.images import Tile, draw_contact_sheet
from builders.tensors import Output
from personserve.internal.figures import new_figure, place_legend
from personserve.internal.sections import Listing, Plot, Section, Sheet, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[Any]
CoverageRow = dict[str, float | None]

BANDS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
"""Half-widths of the abstain band around the threshold, in units of probability."""

MISTAKES_ROWS, MISTAKES_COLUMNS = 3, 10
RED = (40, 40, 200)


def assess(
    dataset: LabelledImages,
    output: Output,
    probabilities: Array,
    readable: Array,
    *,
    abstain: float,
    group_by: Sequence[str],
) -> Assessment:
    """Compute the gender metrics of all labelled, readable images.

    Args:
        dataset: The labelled images.
        output: The network's output, for its labels and threshold.
        probabilities: Probability of the output's second label, FP32 [N].
        readable: Images that have an answer, BOOL [N].
        abstain: Half-width of the band around the threshold in which an image gets no
            answer. It is one row of the report; accuracy counts all images.
        group_by: Columns of the data set to break the error rate down by.

    Returns:
        The assessment; its headline is accuracy, macro F1 and ROC AUC (None if only one
        class occurs).

    Raises:
        EvaluationError: If no image has a label, or the data set lacks a column.
    """
    _require_columns(dataset, group_by)
    known = _select_labelled(dataset, readable)
    labels, scores = dataset.labels[known], probabilities[known].astype(np.float64)
    answers = (scores >= output.threshold).astype(np.int64)
    correct = labels == answers
    report = _Report(labels, answers, scores, dataset.names)
    bands = sorted({*BANDS, abstain})
    coverage = _coverage_rows(correct, scores, output.threshold, bands)
    groups = {
        name: error_by_group(np.array(dataset.groups[name])[known], correct)
        for name in group_by
    }
    band_row = next(row for row in coverage if row["band"] == abstain)
    return Assessment(
        headline=report.headline,
        numbers={
            **report.numbers,
            "images": len(labels),
            "unknown_labels": int(np.count_nonzero(dataset.labels == UNKNOWN)),
            "abstain": {**band_row, "threshold": output.threshold},
            "coverage": coverage,
            "groups": groups,
        },
        sections=[
            *report.sections(),
            _coverage_table(coverage, abstain, output.threshold),
            Plot(
                "Accuracy by coverage",
                _draw_coverage(correct, scores, output.threshold),
                "coverage",
            ),
            *(_group_table(name, rows) for name, rows in groups.items()),
            *_draw_mistakes(dataset, np.flatnonzero(known), labels, scores, output),
        ],
    )


def _require_columns(dataset: LabelledImages, group_by: Sequence[str]) -> None:
    unknown = [name for name in group_by if name not in dataset.groups]
    if unknown:
        raise EvaluationError(
            f"no column {', '.join(unknown)} to group by; there are: "
            f"{', '.join(dataset.groups) or 'none'}"
        )


def _select_labelled(dataset: LabelledImages, readable: Array) -> Array:
    known: Array = readable & (dataset.labels != UNKNOWN)
    if not known.any():
        raise EvaluationError("no image has a known label")
    return known


class _Report:
    """The threshold's metrics: classification report, confusion matrix and ROC."""

    def __init__(
        self, labels: Array, answers: Array, scores: Array, names: Sequence[str]
    ) -> None:
        from sklearn.metrics import (
            classification_report,
            confusion_matrix,
            roc_auc_score,
        )

        self._labels, self._scores, self._names = labels, scores, names
        how = {"labels": [0, 1], "target_names": names, "zero_division": 0.0}
        table = classification_report(labels, answers, digits=2, **how)
        values = classification_report(labels, answers, output_dict=True, **how)
        self._matrix = confusion_matrix(labels, answers, labels=[0, 1])
        self._has_both = len(np.unique(labels)) == 2
        auc = float(roc_auc_score(labels, scores)) if self._has_both else None
        self.headline = {
            "accuracy": float((labels == answers).mean()),
            "macro F1": float(values["macro avg"]["f1-score"]),
            "ROC AUC": auc,
        }
        self.numbers = {
            "report": values,
            "report_text": table,
            "confusion": self._matrix.tolist(),
            "roc_auc": auc,
        }
        self._table = table

    def sections(self) -> list[Section]:
        """Return the report, the confusion matrix, and the ROC curve of two classes."""
        sections: list[Section] = [
            Listing("Classification report", self._table.rstrip("\n")),
            Plot("Confusion matrix", self._draw_confusion(), "confusion"),
        ]
        if self._has_both:
            sections.append(Plot("ROC curve", self._draw_roc_curve(), "roc"))
        return sections

    def _draw_confusion(self) -> Figure:
        from sklearn.metrics import ConfusionMatrixDisplay

        plot = new_figure(5.0, 4.2)
        axes = plot.subplots()
        ConfusionMatrixDisplay(self._matrix, display_labels=self._names).plot(
            ax=axes, cmap="Blues", colorbar=False, values_format="d"
        )
        axes.set(xlabel="answer of the network", ylabel="label of the data set")
        return plot

    def _draw_roc_curve(self) -> Figure:
        from sklearn.metrics import RocCurveDisplay

        plot = new_figure()
        axes = plot.subplots()
        first, second = self._names
        RocCurveDisplay.from_predictions(
            self._labels, self._scores, name=second, ax=axes, plot_chance_level=True
        )
        axes.set(
            xlabel=f"share of {first} called {second}",
            ylabel=f"share of {second} called {second}",
        )
        place_legend(plot, [axes])
        return plot


def _coverage_rows(
    correct: Array, scores: Array, threshold: float, bands: Sequence[float]
) -> list[CoverageRow]:
    rows: list[CoverageRow] = []
    for band in bands:
        answered = np.abs(scores - threshold) >= band
        rows.append(
            {
                "band": band,
                "coverage": float(answered.mean()),
                "accuracy": float(correct[answered].mean()) if answered.any() else None,
            }
        )
    return rows


def error_by_group(values: Array, correct: Array) -> list[dict[str, Any]]:
    """Compute the error rate of each group, with its 95 % Wilson interval.

    The interval tells how little a small group says. It is Wilson's score interval
    (E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical
    Inference", JASA 1927), which stays within 0 and 1 and holds for few images.

    Args:
        values: Group of each image, text [N]; images of the group "" do not count.
        correct: Whether each answer is correct, BOOL [N].

    Returns:
        One row per group, ordered by name: `value`, the number of `images`, the `error`
        rate, and the interval's `low` and `high` ends.
    """
    from scipy.stats import binomtest

    rows = []
    for value in sorted(set(values.tolist()) - {""}):
        in_group = correct[values == value]
        errors = int(np.count_nonzero(~in_group))
        interval = binomtest(errors, len(in_group)).proportion_ci(method="wilson")
        rows.append(
            {
                "value": value,
                "images": len(in_group),
                "error": errors / len(in_group),
                "low": float(interval.low),
                "high": float(interval.high),
            }
        )
    return rows


def _group_table(name: str, rows: list[dict[str, Any]]) -> Table:
    return Table(
        f"Error by {name}",
        ["value", "images", "error", "95 % interval"],
        [
            [
                row["value"],
                str(row["images"]),
                f"{row['error']:.1%}",
                f"{row['low']:.1%} to {row['high']:.1%}",
            ]
            for row in rows
        ],
    )


def _coverage_table(rows: list[CoverageRow], abstain: float, threshold: float) -> Table:
    return Table(
        "Abstaining",
        ["no answer within", "coverage", "accuracy of answers"],
        [
            [
                f"{threshold:g} ± {row['band']:g}"
                + (" (--abstain)" if row["band"] == abstain else ""),
                f"{row['coverage']:.1%}",
                "-" if row["accuracy"] is None else f"{row['accuracy']:.1%}",
            ]
            for row in rows
        ],
        "Images whose probability is close to the threshold get no answer. Coverage is "
        "the share of images that get one.",
    )


def _draw_coverage(correct: Array, scores: Array, threshold: float) -> Figure:
    order = np.argsort(-np.abs(scores - threshold), kind="stable")
    correct_so_far = np.cumsum(correct[order])
    counts = np.arange(1, len(order) + 1)
    plot = new_figure()
    axes = plot.subplots()
    axes.plot(counts / len(order), correct_so_far / counts)
    axes.set(
        xlabel="coverage (share of images with an answer)",
        ylabel="accuracy of those answers",
    )
    axes.set_xlim(0, 1)
    axes.grid(alpha=0.3)
    return plot


def _draw_mistakes(
    dataset: LabelledImages, rows: Array, labels: Array, scores: Array, output: Output
) -> list[Sheet]:
    """Draw the wrong answers furthest from the threshold, the furthest first."""
    wrong = np.flatnonzero((scores >= output.threshold) != labels)
    margins = np.abs(scores[wrong] - output.threshold)
    worst = wrong[np.argsort(-margins, kind="stable")]
    tiles = [
        Tile(
            dataset.root / dataset.files[rows[index]],
            f"{dataset.names[labels[index]]}, P {scores[index]:.2f}",
            RED,
        )
        for index in worst[: MISTAKES_ROWS * MISTAKES_COLUMNS]
    ]
    grid = [
        tiles[i : i + MISTAKES_COLUMNS] for i in range(0, len(tiles), MISTAKES_COLUMNS)
    ]
    title = f"Mistakes furthest from the threshold: label, P({dataset.names[1]})"
    return [Sheet(title, draw_contact_sheet(grid), "mistakes")] if grid else []
