"""Ensemble: one frame and N boxes to P(female) and an embedding for each person."""

from builders.models import person_gender, person_reid_kd_r18
from builders.repository.frame_ensembles import frame_ensemble

NETWORKS = (person_gender.MODEL, person_reid_kd_r18.MODEL)
MODEL = frame_ensemble("person_attributes", NETWORKS, on_request=False)
