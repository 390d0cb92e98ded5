"""Ensemble: ready crops to P(female) and an embedding each, without Python."""

from builders.repository.frame_ensembles import crops_ensemble
from ensembles.person_attributes import NETWORKS

MODEL = crops_ensemble("person_attributes_crops", NETWORKS, on_request=False)
