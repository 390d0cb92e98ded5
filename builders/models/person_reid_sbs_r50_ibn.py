"""Person re-identification, FastReID's SBS ResNet50-IBN with non-local blocks
(sbs_R50-ibn).

384x128, 2048 values. Published on Market-1501: rank-1 95.7, mAP 89.3.
"""

from builders.networks.fastreid import fastreid_model

MODEL = fastreid_model(
    "person_reid_sbs_r50_ibn",
    depth=50,
    ibn=True,
    non_local=True,
    source="seed 004 (sbs_R50-ibn); fast-reid, configs/*/sbs_R50-ibn.yml",
)
