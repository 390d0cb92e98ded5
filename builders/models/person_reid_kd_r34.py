"""Embedding of a person, 512 values: FastReID's distilled ResNet34 (kd-r34-r101_ibn).

The student has no IBN; its teacher has. The public configuration
(kd-sbs_r101ibn-sbs_r34.yml) tests at 256x128 and FastRT runs 384x128: use the size that
the checkpoint was trained with.
"""

from builders.networks.fastreid import fastreid_model, fastreid_source

MODEL = fastreid_model(
    "person_reid_kd_r34",
    depth=34,
    ibn=False,
    source=fastreid_source("kd-r34-r101_ibn", "projects/FastDistill"),
    assumptions="384x128 as in FastRT; the public configuration says 256x128",
)
