"""Embedding of a person, 512 values: OSNet-AIN x1.0 of torchreid at 256x128.

Instance norm makes it general: trained on MSMT17 and tested on Market-1501 it reaches
rank-1 70.1 % and mAP 43.3 %, where OSNet x1.0 reaches 66.6 % and 37.5 %.
"""

from builders.networks.osnet import osnet_model, osnet_source

MODEL = osnet_model(
    "person_reid_osnet_ain_x1_0",
    width=1.0,
    ain=True,
    source=osnet_source("OSNet-AIN x1.0", "arXiv:1910.06827"),
)
