"""Preprocessing model: frame and boxes to crops for the gender and the ReID network.

The declaration of such a model, for any networks, is `frame_preprocessing`. The sources
are in this folder: `model.py` runs in Triton's Python backend, and cuts with the
client's own module, so that client and server produce the same pixels.
"""

from builders.models import person_gender, person_reid_kd_r18
from builders.repository.frame_ensembles import frame_preprocessing

MODEL = frame_preprocessing((person_gender.MODEL, person_reid_kd_r18.MODEL))
