"""Precision report of a model: the cost and the accuracy of each precision.

- `measure`: builds, compares and times each precision of a target.
- `pytorch`: PyTorch as the baseline (FP32, and on a GPU FP16 as a CUDA graph).
- `timing`: time per batch and memory of a runner.
- `accuracy`: the headline figures of a data set.
- `report`: JSON, Markdown and plots.

The targets (`torch`, `cpu`, `tensorrt`) need not share a Python: report.json keeps what
earlier runs measured, and each further run adds its rows.
"""
