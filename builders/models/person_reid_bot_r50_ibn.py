"""Embedding of a person, 2048 values: FastReID's bag-of-tricks R50-IBN baseline.

Configuration bagtricks_R50-ibn.yml at 256x128. Published on Market-1501: rank-1 94.9 %,
mAP 87.6 %.
"""

from builders.networks.fastreid import fastreid_model, fastreid_source

MODEL = fastreid_model(
    "person_reid_bot_r50_ibn",
    depth=50,
    ibn=True,
    size_hw=(256, 128),
    head_pool="average",
    source=fastreid_source("bagtricks_R50-ibn", "configs/Market1501"),
    on_request=True,
)
