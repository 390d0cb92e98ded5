"""Ensemble: one frame and N boxes of faces to P(female), by a trained network."""

from builders.models import face_gender
from builders.repository.frame_ensembles import frame_ensemble

MODEL = frame_ensemble("face_attributes", (face_gender.MODEL,))
