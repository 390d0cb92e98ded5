"""INT8 quantisation: scales of tensors, calibrated once and used by every backend.

- `table`: the scales of a model's tensors, their origin, and the file that keeps them.
- `images`: choice and reading of calibration images.
- `ranges`: the largest value of each tensor, by one of three methods.
- `calibration`: a table from images.
- `cache`: a table from a TensorRT calibration cache.
- `sensitivity`: the layers that cost the most accuracy.
- `simulation` and `finetuning`: weights and scales trained for INT8.

builders/ops/placement.py decides which tensors are quantised.
"""
