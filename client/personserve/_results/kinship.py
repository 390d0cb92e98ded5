"""The result of comparing faces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from personserve._results.html import describe_untrained, render_table, render_warning

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False, repr=False)
class Kinship:
    """Probabilities that people are related.

    Attributes:
        probabilities: FP32 [N, M], the probability that face n of the first set and
            face m of the second set are related.
        stand_in_weights: As in People.
        threshold: The server's threshold, from which on a pair counts as related;
            None if the server has none.
    """

    probabilities: FloatArray
    stand_in_weights: tuple[str, ...] = ()
    threshold: float | None = None

    @property
    def probability(self) -> float:
        """The probability of the only pair; ValueError if there are several."""
        return float(self.probabilities.item())

    @property
    def related(self) -> npt.NDArray[np.bool_] | None:
        """Whether each pair counts as related, BOOL [N, M]; None without threshold."""
        if self.threshold is None:
            return None
        return np.asarray(self.probabilities >= self.threshold)

    def __repr__(self) -> str:
        untrained = describe_untrained(self.stand_in_weights)
        return f"<Kinship {self._describe()}{untrained}>"

    def _repr_html_(self) -> str:
        header = ["", *(f"face {column}" for column in range(self._shape[1]))]
        rows = [
            [f"face {row}", *(f"{value:.3f}" for value in values)]
            for row, values in enumerate(np.atleast_2d(self.probabilities).tolist())
        ]
        return render_warning(self.stand_in_weights) + render_table(
            header, rows, f"Kinship: {self._describe()}"
        )

    @property
    def _shape(self) -> tuple[int, ...]:
        return np.atleast_2d(self.probabilities).shape

    def _describe(self) -> str:
        threshold, related = self.threshold, self.related
        verdict = "no threshold"
        if threshold is not None and related is not None:
            verdict = f"threshold {threshold:g}"
            if self.probabilities.size == 1:
                label = "related" if related.item() else "unrelated"
                verdict = f"{label} ({verdict})"
            else:
                verdict = f"{int(related.sum())} related ({verdict})"
        if self.probabilities.size == 1:
            return f"probability {self.probability:.3f}, {verdict}"
        span = ""
        if self.probabilities.size:
            low, high = self.probabilities.min(), self.probabilities.max()
            span = f", probabilities {low:.3f} to {high:.3f}"
        return f"{list(self.probabilities.shape)}{span}, {verdict}"
