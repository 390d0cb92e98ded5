"""Person re-identification, FastReID's distilled ResNet34 (kd-r34-r101_ibn).

The student has no IBN; its teacher does. The public configuration tests at 256x128 and
seed 004 runs 384x128: use the size the checkpoint was trained with. 512 values.
"""

from builders.networks.fastreid import fastreid_model

MODEL = fastreid_model(
    "person_reid_kd_r34",
    depth=34,
    ibn=False,
    source="seed 004 (kd-r34-r101_ibn); fast-reid, kd-sbs_r101ibn-sbs_r34.yml",
    assumptions="384x128 as in seed 004; the public configuration says 256x128",
)
