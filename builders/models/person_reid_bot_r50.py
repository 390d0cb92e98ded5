"""Embedding of a person, 2048 values: FastReID's bag-of-tricks ResNet50 baseline.

Configuration bagtricks_R50.yml at 256x128. Published on Market-1501: rank-1 94.4 %,
mAP 86.1 %.
"""

from builders.networks.fastreid import fastreid_model, fastreid_source

MODEL = fastreid_model(
    "person_reid_bot_r50",
    depth=50,
    ibn=False,
    size_hw=(256, 128),
    head_pool="average",
    source=fastreid_source("bagtricks_R50", "configs/Market1501"),
    on_request=True,
)
