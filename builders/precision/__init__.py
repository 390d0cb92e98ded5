"""The precision report of a model: what each precision costs and gives, side by side.

Rows come from three runners: `torch` (FP32 eagerly, and on a GPU FP16 as a CUDA graph),
`cpu` and `tensorrt`. They need not share a Python: what was measured stays in
report.json, and every further run adds its rows.
"""
