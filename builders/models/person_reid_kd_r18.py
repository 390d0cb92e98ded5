"""Person re-identification, FastReID's distilled ResNet18-IBN (kd-r18-r101_ibn).

No public configuration carries this name: depth, IBN and size follow seed 004 and the
FastRT documents. 512 values.
"""

from builders.networks.fastreid import fastreid_model

MODEL = fastreid_model(
    "person_reid_kd_r18",
    depth=18,
    ibn=True,
    source="seed 004 (kd-r18-r101_ibn); JDAI-CV/fast-reid, projects/FastDistill",
    assumptions="384x128 as in seed 004; no public configuration states the size",
)
