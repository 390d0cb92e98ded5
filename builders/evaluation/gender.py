"""Gender: the classification report of seed 000, ROC, an abstain band, error by group.

Unknown labels are masked, as the attribute sets' own code gives them no weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from builders import markdown
from builders.evaluation.assessment import Assessment, Pixels, figure
from builders.evaluation.datasets import UNKNOWN, EvaluationError, Labelled
from builders.evaluation.pictures import Tile, sheet
from builders.spec import Output

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[Any]

BANDS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
"""Half widths of the abstain band around the threshold."""

MISTAKES_ROWS, MISTAKES_COLUMNS = 3, 10
RED = (40, 40, 200)


def assess(
    data: Labelled,
    output: Output,
    probabilities: Array,
    readable: Array,
    *,
    abstain: float,
    group_by: Sequence[str],
) -> Assessment:
    """`probabilities` FP32 [N] of `output`'s second label, for the pictures of `data`
    that were `readable` [N]. `abstain` is the half width of the band in which no
    answer is given, `group_by` names columns of `data`.
    """
    from sklearn.metrics import classification_report, confusion_matrix, roc_auc_score

    unknown = [name for name in group_by if name not in data.groups]
    if unknown:
        raise EvaluationError(
            f"no column {', '.join(unknown)} to group by; there are: "
            f"{', '.join(data.groups) or 'none'}"
        )
    known = readable & (data.labels != UNKNOWN)
    if not known.any():
        raise EvaluationError("no picture has a known label")
    labels, scores = data.labels[known], probabilities[known].astype(np.float64)
    answers = (scores >= output.threshold).astype(np.int64)
    how = {"labels": [0, 1], "target_names": data.names, "zero_division": 0.0}
    text = classification_report(labels, answers, digits=2, **how)
    numbers = classification_report(labels, answers, output_dict=True, **how)
    matrix = confusion_matrix(labels, answers, labels=[0, 1])
    both = len(np.unique(labels)) == 2
    auc = float(roc_auc_score(labels, scores)) if both else None
    coverage = _coverage(labels, answers, scores, output.threshold, (*BANDS, abstain))
    groups = {
        name: _by_group(np.array(data.groups[name])[known], labels == answers)
        for name in group_by
    }
    chosen = next(row for row in coverage if row["band"] == abstain)
    return Assessment(
        headline={
            "accuracy": float((labels == answers).mean()),
            "macro F1": float(numbers["macro avg"]["f1-score"]),
            "ROC AUC": auc,
        },
        numbers={
            "report": numbers,
            "report_text": text,
            "confusion": matrix.tolist(),
            "roc_auc": auc,
            "pictures": len(labels),
            "unknown_labels": int(np.count_nonzero(data.labels == UNKNOWN)),
            "abstain": {**chosen, "threshold": output.threshold},
            "coverage": coverage,
            "groups": groups,
        },
        text={
            "Classification report": f"```\n{text}```\n\nThe surest mistakes, in "
            f"mistakes.jpg: the label, and P({data.names[1]}).",
            "Abstaining": _abstain_text(coverage, abstain, output.threshold),
            **{f"Error by {name}": _group_text(rows) for name, rows in groups.items()},
        },
        plots={
            "confusion": _confusion_plot(matrix, data.names),
            **({"roc": _roc_plot(labels, scores, data.names[1])} if both else {}),
            "coverage": _coverage_plot(labels, answers, scores, output.threshold),
        },
        pictures=_mistakes(data, np.flatnonzero(known), labels, scores, output),
    )


def _coverage(
    labels: Array,
    answers: Array,
    scores: Array,
    threshold: float,
    bands: Sequence[float],
) -> list[dict[str, float | None]]:
    rows: list[dict[str, float | None]] = []
    for band in sorted(set(bands)):
        sure = np.abs(scores - threshold) >= band
        right = labels[sure] == answers[sure]
        rows.append(
            {
                "band": band,
                "coverage": float(sure.mean()),
                "accuracy": float(right.mean()) if sure.any() else None,
            }
        )
    return rows


def _by_group(values: Array, right: Array) -> list[dict[str, Any]]:
    """Error of each value, with Wilson's 95 % interval: small groups say little."""
    from scipy.stats import binomtest

    rows = []
    for value in sorted(set(values.tolist()) - {""}):
        inside = right[values == value]
        wrong = int(np.count_nonzero(~inside))
        interval = binomtest(wrong, len(inside)).proportion_ci(method="wilson")
        rows.append(
            {
                "value": value,
                "pictures": len(inside),
                "error": wrong / len(inside),
                "low": float(interval.low),
                "high": float(interval.high),
            }
        )
    return rows


def _group_text(rows: list[dict[str, Any]]) -> str:
    return markdown.table(
        ["value", "pictures", "error", "95 % interval"],
        [
            [
                row["value"],
                str(row["pictures"]),
                f"{row['error']:.1%}",
                f"{row['low']:.1%} to {row['high']:.1%}",
            ]
            for row in rows
        ],
    )


def _abstain_text(
    rows: list[dict[str, float | None]], chosen: float, threshold: float
) -> str:
    table = markdown.table(
        ["no answer within", "coverage", "accuracy of answers"],
        [
            [
                f"{threshold:g} ± {row['band']:g}"
                + (" (chosen)" if row["band"] == chosen else ""),
                f"{row['coverage']:.1%}",
                "-" if row["accuracy"] is None else f"{row['accuracy']:.1%}",
            ]
            for row in rows
        ],
    )
    return (
        f"Pictures whose probability lies near the threshold get no answer.\n\n{table}"
    )


def _confusion_plot(matrix: Array, names: Sequence[str]) -> Figure:
    from sklearn.metrics import ConfusionMatrixDisplay

    plot = figure()
    ConfusionMatrixDisplay(matrix, display_labels=names).plot(
        ax=plot.subplots(), cmap="Blues", colorbar=False, values_format="d"
    )
    return plot


def _roc_plot(labels: Array, scores: Array, name: str) -> Figure:
    from sklearn.metrics import RocCurveDisplay

    plot = figure()
    RocCurveDisplay.from_predictions(
        labels, scores, name=name, ax=plot.subplots(), plot_chance_level=True
    )
    return plot


def _coverage_plot(
    labels: Array, answers: Array, scores: Array, threshold: float
) -> Figure:
    order = np.argsort(-np.abs(scores - threshold), kind="stable")
    right = np.cumsum((labels == answers)[order])
    counts = np.arange(1, len(order) + 1)
    plot = figure()
    axes = plot.subplots()
    axes.plot(counts / len(order), right / counts)
    axes.set(xlabel="coverage (share of pictures answered)", ylabel="accuracy")
    axes.set_xlim(0, 1)
    axes.grid(alpha=0.3)
    return plot


def _mistakes(
    data: Labelled, rows: Array, labels: Array, scores: Array, output: Output
) -> Mapping[str, Pixels]:
    """The wrong answers that were surest, most certain first."""
    wrong = np.flatnonzero((scores >= output.threshold) != labels)
    surest = wrong[np.argsort(-np.abs(scores[wrong] - output.threshold), kind="stable")]
    tiles = [
        Tile(
            data.root / data.files[rows[index]],
            f"{data.names[labels[index]]}, P {scores[index]:.2f}",
            RED,
        )
        for index in surest[: MISTAKES_ROWS * MISTAKES_COLUMNS]
    ]
    grid = [
        tiles[i : i + MISTAKES_COLUMNS] for i in range(0, len(tiles), MISTAKES_COLUMNS)
    ]
    return {"mistakes": sheet(grid)} if grid else {}
