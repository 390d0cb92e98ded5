"""Embedding of a person, 2048 values: FastReID's SBS ResNet50 with non-local blocks.

Configuration sbs_R50.yml at 384x128. Published on Market-1501: rank-1 95.4 %,
mAP 88.2 %.
"""

from builders.networks.fastreid import fastreid_model, fastreid_source

MODEL = fastreid_model(
    "person_reid_sbs_r50",
    depth=50,
    ibn=False,
    non_local=True,
    source=fastreid_source("sbs_R50", "configs/Market1501"),
)
