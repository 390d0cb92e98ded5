"""Ensemble: one frame and N boxes of faces to P(female) and a kinship embedding."""

from builders.models import face_gender, kinship_embedding
from builders.repository.frame_ensembles import frame_ensemble

NETWORKS = (face_gender.MODEL, kinship_embedding.MODEL)
ROLES = {"kinship_embedding.embedding": "kinship_embedding"}
MODEL = frame_ensemble("face_attributes_kinship", NETWORKS, roles=ROLES)
