"""Embedding of a person, 512 values: FastReID's ResNet34 (sbs_r34_distill).

The same graph as person_reid_kd_r34, trained without a teacher. The public
configuration (sbs_r34.yml) tests at 256x128 and FastRT runs 384x128: use the size that
the checkpoint was trained with.
"""

from builders.networks.fastreid import fastreid_model, fastreid_source

MODEL = fastreid_model(
    "person_reid_sbs_r34",
    depth=34,
    ibn=False,
    source=fastreid_source("sbs_r34_distill", "projects/FastDistill"),
    assumptions="384x128 as in FastRT; the public configuration says 256x128",
)
