"""Embedding of a person, 512 values: FastReID's distilled ResNet18-IBN student.

No public configuration has its name, kd-r18-r101_ibn. Depth, IBN and size follow
FastRT, FastReID's TensorRT project.
"""

from builders.networks.fastreid import fastreid_model, fastreid_source

MODEL = fastreid_model(
    "person_reid_kd_r18",
    depth=18,
    ibn=True,
    source=fastreid_source("kd-r18-r101_ibn", "projects/FastRT"),
    assumptions="384x128 as in FastRT; no public configuration states the size",
)
