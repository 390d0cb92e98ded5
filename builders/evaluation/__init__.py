"""Evaluation: the accuracy of a model on a data set, by the protocol of its field.

layouts/          published data sets on disk -> a Dataset (datasets.py)
runners.py        torch, ONNX Runtime, TensorRT or a server behind one call
predictions.py    a Dataset through a runner, resumable -> Predictions
gender.py retrieval.py rerank.py classification.py kinship.py
                  Predictions and labels -> an Assessment (assessment.py)
report.py         an Assessment -> JSON, Markdown and plots
comparison.py     several reports -> one table
evaluation.py     all of it, for one model, data set and runner
"""
