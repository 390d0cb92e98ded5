"""Person re-identification, FastReID's ResNet34 (sbs_r34_distill).

The same graph as person_reid_kd_r34, trained without a teacher. The public
configuration tests at 256x128 and seed 004 runs 384x128. 512 values.
"""

from builders.networks.fastreid import fastreid_model

MODEL = fastreid_model(
    "person_reid_sbs_r34",
    depth=34,
    ibn=False,
    source="seed 004 (sbs_r34_distill); fast-reid, projects/FastDistill sbs_r34.yml",
    assumptions="384x128 as in seed 004; the public configuration says 256x128",
)
