"""Accuracy, measured as each field measures it.

layouts/         a data set on disk -> what its pictures are labelled with
predictions.py   pictures through a backend (torch, onnx, plan, server), resumable
gender.py retrieval.py rerank.py classification.py kinship.py
                 answers and labels -> an Assessment, by the field's protocol
report.py        an Assessment -> JSON, Markdown and plots; runs side by side
"""
