"""Embedding of a person, 2048 values: FastReID's SBS R50-IBN with non-local blocks.

Configuration sbs_R50-ibn.yml at 384x128. Published on Market-1501: rank-1 95.7 %,
mAP 89.3 %.
"""

from builders.networks.fastreid import fastreid_model, fastreid_source

MODEL = fastreid_model(
    "person_reid_sbs_r50_ibn",
    depth=50,
    ibn=True,
    non_local=True,
    source=fastreid_source("sbs_R50-ibn", "configs/Market1501"),
)
