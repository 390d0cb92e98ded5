"""Comparison of a runner's outputs with reference answers, judged by tolerance.

Every target, runtime and precision is judged here, on the same crops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from builders.spec.model import Network, Tolerance
from builders.tensors import Output
from builders.verify.inputs import FloatArray, Runner, flatten_rows
from builders.verify.reference import ReferenceAnswers, VerificationError


@dataclass(frozen=True)
class Comparison:
    """Distance of one output from the reference, over all crops.

    Attributes:
        output: Name of the output.
        max_abs: Largest absolute difference.
        relative: Largest difference over the range of the reference's values.
        cosine: Smallest cosine similarity of two corresponding rows.
        agreement: Share of crops with the same label; 1 for outputs without labels.
        passed: Whether the output is within the model's tolerance.
        is_probability: Whether the output is one probability, not an embedding.
    """

    output: str
    max_abs: float
    relative: float
    cosine: float
    agreement: float
    passed: bool
    is_probability: bool = False

    @property
    def error(self) -> float:
        """One number to rank by: a probability's largest difference, or 1 - cosine."""
        return self.max_abs if self.is_probability else 1 - self.cosine

    def __str__(self) -> str:
        return (
            f"{self.output}: max abs {self.max_abs:.2e}, relative {self.relative:.2e}, "
            f"cosine {self.cosine:.6f}, labels {self.agreement:.1%}"
        )


def compare_outputs(
    model: Network,
    reference: ReferenceAnswers,
    run: Runner,
    target: str,
    precision: str,
) -> list[Comparison]:
    """Run a model on the reference's inputs and compare every output.

    Args:
        model: Model that is run; its tolerance decides what passes.
        reference: Inputs and expected answers.
        run: Runner of the model.
        target: Target that the model was built for: cpu, tensorrt or rtx.
        precision: Precision that the model was built in, for example "fp16".

    Returns:
        One comparison per output, in the order of the declaration.
    """
    outputs = _run_in_batches(model, reference, run)
    comparisons = []
    for output in model.outputs:
        answer, expected = outputs[output.name], reference.answers[output.name]
        distance = _measure_distance(output, answer, expected)
        if target == "cpu" and precision == "fp32":
            close = np.isclose(
                answer, expected, model.tolerance.rtol, model.tolerance.atol
            )
            passed = bool(close.all())
        else:
            passed = _is_within(distance, model.tolerance, precision)
        passed = passed and bool(np.isfinite(answer).all())
        comparisons.append(replace(distance, passed=passed))
    return comparisons


def require_tolerance(
    comparisons: Sequence[Comparison], what: str, tolerance: str, advice: str = ""
) -> str:
    """Require that every output is within tolerance.

    Args:
        comparisons: Comparisons of one model.
        what: The compared file, for example "person_gender in INT8".
        tolerance: The tolerance that was applied, for the message.
        advice: How to come within tolerance, for the message.

    Returns:
        The comparisons as one line of text.

    Raises:
        VerificationError: An output is outside its tolerance.
    """
    text = "; ".join(str(comparison) for comparison in comparisons)
    if not all(comparison.passed for comparison in comparisons):
        raise VerificationError(
            f"{what} differs from the torch reference and is outside its tolerance "
            f"({tolerance}): {text}" + (f". {advice}" if advice else "")
        )
    return text


def tolerance_text(tolerance: Tolerance, precision: str) -> str:
    """Return the tolerance of a precision on the CPU, for messages.

    Args:
        tolerance: The model's tolerance.
        precision: For example "int8".
    """
    if precision == "fp32":
        return f"rtol {tolerance.rtol:g}, atol {tolerance.atol:g}"
    int8 = precision == "int8"
    largest = tolerance.int8_abs if int8 else tolerance.reduced_abs
    cosine = tolerance.int8_cosine if int8 else tolerance.reduced_cosine
    return f"probabilities within {largest:g}, cosine at least {cosine:g}"


def _run_in_batches(
    model: Network, reference: ReferenceAnswers, run: Runner
) -> dict[str, FloatArray]:
    size, inputs = model.batching.max_batch_size, reference.inputs
    count = len(next(iter(inputs.values())))
    parts = [
        flatten_rows(
            run(**{name: array[i : i + size] for name, array in inputs.items()})
        )
        for i in range(0, count, size)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _measure_distance(
    output: Output, answer: FloatArray, expected: FloatArray
) -> Comparison:
    max_abs = float(np.abs(answer.astype(np.float64) - expected).max())
    spread = float(np.ptp(expected))
    agreement = 1.0
    if output.labels:
        labels = (answer >= output.threshold) == (expected >= output.threshold)
        agreement = float(labels.mean())
    return Comparison(
        output=output.name,
        max_abs=max_abs,
        relative=max_abs / spread if spread else float("inf"),
        cosine=_smallest_cosine(answer, expected),
        agreement=agreement,
        passed=False,
        is_probability=output.size == 1,
    )


def _smallest_cosine(answer: FloatArray, expected: FloatArray) -> float:
    """Return the smallest cosine similarity of two corresponding rows.

    Zero has no direction. A single probability of zero, which a trained network gives
    when it is sure, counts as 1; an embedding of zeros is wrong and counts as 0.
    """
    a, b = answer.astype(np.float64), expected.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.full(len(a), 1.0 if a.shape[1] == 1 else 0.0)
    np.divide((a * b).sum(axis=1), lengths, out=cosines, where=lengths > 0)
    return float(cosines.min())


def _is_within(distance: Comparison, tolerance: Tolerance, precision: str) -> bool:
    """Judge by the largest difference or the smallest cosine, as Tolerance says."""
    if precision == "fp32":
        return distance.relative <= tolerance.relative
    int8 = precision == "int8"
    if distance.is_probability:
        largest = tolerance.int8_abs if int8 else tolerance.reduced_abs
        return distance.max_abs <= largest
    return distance.cosine >= (
        tolerance.int8_cosine if int8 else tolerance.reduced_cosine
    )
