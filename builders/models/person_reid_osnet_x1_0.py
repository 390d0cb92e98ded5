"""Embedding of a person, 512 values: OSNet x1.0 of torchreid at 256x128.

Published on Market-1501: rank-1 94.2 %, mAP 82.6 %; on MSMT17: 74.9 % and 43.8 %.
"""

from builders.networks.osnet import osnet_model, osnet_source

MODEL = osnet_model(
    "person_reid_osnet_x1_0",
    width=1.0,
    ain=False,
    source=osnet_source("OSNet x1.0", "arXiv:1905.00953"),
)
