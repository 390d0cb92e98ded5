"""Person re-identification, FastReID's SBS ResNet50 with non-local blocks (sbs_R50).

384x128, 2048 values. Published on Market-1501: rank-1 95.4, mAP 88.2.
"""

from builders.networks.fastreid import fastreid_model

MODEL = fastreid_model(
    "person_reid_sbs_r50",
    depth=50,
    ibn=False,
    non_local=True,
    source="seed 004 (sbs_R50); fast-reid, configs/*/sbs_R50.yml",
)
