"""Ensemble: one frame and N boxes to P(female) and FastReID's R50-ibn embedding."""

from builders.models import person_gender, person_reid_sbs_r50_ibn
from builders.repository.frame_ensembles import frame_ensemble

NETWORKS = (person_gender.MODEL, person_reid_sbs_r50_ibn.MODEL)
MODEL = frame_ensemble("person_attributes_r50_ibn", NETWORKS)
