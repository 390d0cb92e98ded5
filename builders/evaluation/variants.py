"""Comparison of a model's variants on crops: which one a checkpoint was trained with.

The wrong variant gives no error, but other answers. Without labels the comparison shows
how far apart the variants are. If file names or folders tell who is on a crop, it also
shows how well each variant separates people, which the right one does best.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from builders.images import read_crop
from builders.progress import Progress, no_progress
from builders.spec.model import Model
from builders.spec.variants import find_signs
from builders.weights import CheckpointContents, match_checkpoint

FloatArray = npt.NDArray[np.float32]

BATCH = 16

MARKET_NAME = re.compile(r"(-?\d+)_c\d")
"""Names of Market-1501 and its successors: person, then camera (0002_c1s1_000451)."""


@dataclass(frozen=True)
class VariantRow:
    """One variant beside the first one, for one output.

    Attributes:
        variant: Name of the variant.
        output: Name of the output.
        mean: Mean cosine similarity to the first variant's embeddings, or mean
            difference of probabilities.
        worst: Least cosine similarity, or largest difference.
        separation: Probability that two crops of one person are more similar than two
            of different people (ROC AUC); None without people or for a probability.
    """

    variant: str
    output: str
    mean: float
    worst: float
    separation: float | None


def candidate_variants(model: Model, names: Sequence[str]) -> list[str]:
    """Return the variants worth comparing: the declared one, and each other option.

    Args:
        model: The model.
        names: Names in the checkpoint; options that they suggest are also combined.
    """
    others = [option.name for choice in model.choices for option in choice.options[1:]]
    suggested = ",".join(sign.option for sign in find_signs(model, names))
    variants = ["", *others, suggested]
    return list(dict.fromkeys(model.in_variant(text).variant for text in variants))


def people_from_paths(paths: Sequence[Path]) -> list[str]:
    """Return the identity of each crop, or nothing if names do not tell.

    Names of Market-1501's form state the person. Otherwise folders are people, if there
    are several with two crops or more.

    Args:
        paths: Files of crops.
    """
    matches = [MARKET_NAME.match(path.name) for path in paths]
    people = [match[1] for match in matches if match]
    if len(people) < len(paths):
        people = [str(path.parent) for path in paths]
    repeated = [count for count in Counter(people).values() if count > 1]
    is_known = len(set(people)) > 1 and bool(repeated)
    return people if is_known else []


def compare_variants(
    model: Model,
    contents: CheckpointContents,
    file_name: str,
    paths: Sequence[Path],
    variants: Sequence[str],
    progress: Progress = no_progress,
) -> list[VariantRow]:
    """Run variants of a model on crops, and compare each with the first.

    Args:
        model: The model.
        contents: Its checkpoint.
        file_name: Name of the checkpoint, for errors.
        paths: Files of crops. A model of several images gets each crop with the next.
        variants: Names of variants.
        progress: Callback for the current work.

    Returns:
        A row for each variant and output, the first variant's included.

    Raises:
        CheckpointError: The checkpoint does not fit the model.
        UnreadableImageError: A crop cannot be read.
    """
    arrays = match_checkpoint(model, contents, file_name)
    people = people_from_paths(paths)
    rows: list[VariantRow] = []
    first: Mapping[str, FloatArray] | None = None
    for name in variants:
        variant = model.in_variant(name)
        outputs = _run(variant, arrays, paths, progress)
        first = first or outputs
        for output in model.outputs:
            values, base = outputs[output.name], first[output.name]
            rows.append(_compare(variant.variant, output.name, values, base, people))
    return rows


def _run(
    model: Model,
    arrays: Mapping[str, npt.NDArray[np.generic]],
    paths: Sequence[Path],
    progress: Progress,
) -> dict[str, FloatArray]:
    from builders.ops.torch import Reference

    run = Reference(model, arrays)
    parts = []
    for start, crops in _read_batches(model, paths):
        progress(f"running {model.variant}", start, len(paths))
        parts.append(run(**crops))
    names = [output.name for output in model.outputs]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _read_batches(
    model: Model, paths: Sequence[Path]
) -> Iterator[tuple[int, dict[str, npt.NDArray[np.uint8]]]]:
    for start in range(0, len(paths), BATCH):
        indices = range(start, min(start + BATCH, len(paths)))
        yield (
            start,
            {
                image.name: np.stack(
                    [
                        read_crop(paths[(i + shift) % len(paths)], image.crop_shape)
                        for i in indices
                    ]
                )
                for shift, image in enumerate(model.images)
            },
        )


def _compare(
    variant: str,
    output: str,
    values: FloatArray,
    base: FloatArray,
    people: Sequence[str],
) -> VariantRow:
    if values.shape[1] == 1:
        difference = np.abs(values - base)
        mean, worst = float(difference.mean()), float(difference.max())
        return VariantRow(variant, output, mean, worst, None)
    rows, base = _normalise(values), _normalise(base)
    cosine = (rows * base).sum(axis=1)
    separation = measure_separation(rows, people) if people else None
    return VariantRow(
        variant, output, float(cosine.mean()), float(cosine.min()), separation
    )


def _normalise(rows: FloatArray) -> FloatArray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    normalised: FloatArray = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
    return normalised


def measure_separation(embeddings: FloatArray, people: Sequence[str]) -> float:
    """Return the ROC AUC of same and different pairs by cosine similarity.

    Args:
        embeddings: Unit vectors [N, size].
        people: Who is on each crop; at least one person twice, and two people.
    """
    first, second = np.triu_indices(len(embeddings), k=1)
    names = np.array(people)
    is_same = names[first] == names[second]
    similarity = (embeddings @ embeddings.T)[first, second]
    different = np.sort(similarity[~is_same])
    same = similarity[is_same]
    below = np.searchsorted(different, same, "left")
    up_to = np.searchsorted(different, same, "right")
    return float((below + up_to).mean() / 2 / len(different))
