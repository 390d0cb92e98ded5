"""Embedding of a person, 512 values: OSNet x0.25 of torchreid at 256x128.

Published on Market-1501: rank-1 91.2 %, mAP 75.0 %; on MSMT17: 61.4 % and 29.5 %.
"""

from builders.networks.osnet import osnet_model, osnet_source

MODEL = osnet_model(
    "person_reid_osnet_x0_25",
    width=0.25,
    ain=False,
    source=osnet_source("OSNet x0.25", "arXiv:1905.00953"),
)
