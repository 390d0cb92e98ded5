"""Ensemble: one frame and N boxes to RMNet's P(female) and OSNet's embedding."""

from builders.models import person_gender_rmnet, person_reid_osnet_x1_0
from builders.repository.frame_ensembles import frame_ensemble

NETWORKS = (person_gender_rmnet.MODEL, person_reid_osnet_x1_0.MODEL)
MODEL = frame_ensemble("person_attributes_osnet", NETWORKS)
