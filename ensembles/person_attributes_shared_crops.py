"""Ensemble: ready crops to both answers of one shared trunk."""

from builders.repository.frame_ensembles import crops_ensemble
from ensembles.person_attributes_shared import NETWORKS

MODEL = crops_ensemble("person_attributes_shared_crops", NETWORKS)
