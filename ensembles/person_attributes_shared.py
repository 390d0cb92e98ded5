"""Ensemble: one frame and N boxes to both answers of one shared trunk."""

from builders.models import person_gender_reid
from builders.repository.frame_ensembles import frame_ensemble

NETWORKS = (person_gender_reid.MODEL,)
MODEL = frame_ensemble("person_attributes_shared", NETWORKS)
