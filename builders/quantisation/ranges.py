"""Ranges of tensors: the largest magnitude that INT8 represents, by three methods.

Only maxima or histograms are kept, so 20,000 images need no more memory than a hundred.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from builders.progress import Progress
from builders.quantisation.table import Method

BINS = 2048
LEVELS = 128
PERCENTILE = 99.99

Values = Mapping[str, Sequence[npt.NDArray[np.float32]]]
"""Values of one batch by tensor; a tensor that is used twice has two arrays."""


class RangeCollector(Protocol):
    """Collects the values of tensors and chooses the range of each."""

    def collect(self, values: Values) -> None:
        """Add the values of one batch.

        Args:
            values: Arrays of any shape by tensor.
        """

    def choose_ranges(self, progress: Progress) -> dict[str, float]:
        """Return the largest magnitude to represent, by tensor.

        Args:
            progress: Called with the number of tensors, where choosing takes time.
        """


def create_range_collector(method: Method) -> RangeCollector:
    """Create the collector of a calibration method.

    Args:
        method: "max" takes the largest magnitude of all, "percentile" the 99.99th, and
            "entropy" the one with the smallest Kullback-Leibler divergence.

    Returns:
        An empty collector.
    """
    return _Maxima() if method == "max" else _Histograms(method)


class _Maxima:
    def __init__(self) -> None:
        self._largest: dict[str, float] = {}

    def collect(self, values: Values) -> None:
        for key, arrays in values.items():
            largest = max(float(np.abs(array).max()) for array in arrays)
            self._largest[key] = max(self._largest.get(key, 0.0), largest)

    def choose_ranges(self, progress: Progress) -> dict[str, float]:
        del progress
        return self._largest


class _Histograms:
    """ONNX Runtime's histograms, and the threshold that it chooses from them."""

    def __init__(self, method: Method) -> None:
        self._method = method
        self._collectors: dict[str, Any] = {}

    def collect(self, values: Values) -> None:
        from onnxruntime.quantization.calibrate import HistogramCollector

        for key, arrays in values.items():
            if key not in self._collectors:
                self._collectors[key] = HistogramCollector(
                    method=self._method,
                    symmetric=True,
                    num_bins=BINS,
                    num_quantized_bins=LEVELS,
                    percentile=PERCENTILE,
                    scenario="same",
                )
            # the collector accepts one shape only, and prints while it works
            flat = np.concatenate([array.ravel() for array in arrays])
            with redirect_stdout(StringIO()):
                self._collectors[key].collect({key: [flat]})

    def choose_ranges(self, progress: Progress) -> dict[str, float]:
        ranges = {}
        for number, (key, collector) in enumerate(self._collectors.items(), start=1):
            with redirect_stdout(StringIO()):
                low, high, *_ = collector.compute_collection_result()[key]
            ranges[key] = max(abs(float(low)), abs(float(high)))
            progress("choosing thresholds", number, len(self._collectors))
        return ranges
