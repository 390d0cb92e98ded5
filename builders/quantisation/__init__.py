"""INT8: ranges measured once, written down, and used by every backend.

    table.py        the steps of a model's tensors, where they come from, on disk
    calibration.py  ranges of real crops, by ONNX Runtime's calibrators
    sensitivity.py  which layers cost accuracy
    finetuning.py   weights and steps trained to be quantised

Where INT8 goes is builders/ops/placement.py; what it is on each side are the backends.
"""
