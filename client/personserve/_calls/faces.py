"""Calls that send faces: kinship."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from personserve._answers import (
    read_max_batch,
    read_probabilities,
    read_threshold,
    read_vectors,
)
from personserve._calls.batches import resize_crops, split_evenly
from personserve._calls.models import ModelCalls
from personserve._results import Kinship
from personserve._retry import Call
from personserve._types import ImageInputs
from personserve._wire.requests import ModelDescription
from personserve.images.crops import Pixels
from personserve.images.inputs import read_all_pixels

FACE_MODEL = "kinship_embedding"
PAIR_MODEL = "kinship_pair"


@dataclass
class FaceCalls:
    """Calls that send faces.

    Attributes:
        models: Calls about models.
    """

    models: ModelCalls

    def kinship_matrix(
        self, faces_a: ImageInputs, faces_b: ImageInputs
    ) -> Call[Kinship]:
        """Implement Client.kinship_matrix.

        Args:
            faces_a: See Client.kinship_matrix.
            faces_b: See Client.kinship_matrix.

        Returns:
            The call.
        """
        pixels_a = read_all_pixels(faces_a, "face")
        pixels_b = read_all_pixels(faces_b, "face")
        return (
            yield from self.models.repeat_if_changed(
                (FACE_MODEL, PAIR_MODEL), lambda: self._infer_pairs(pixels_a, pixels_b)
            )
        )

    def _infer_pairs(
        self, faces_a: Sequence[Pixels], faces_b: Sequence[Pixels]
    ) -> Call[Kinship]:
        trunk = yield from self.models.describe_cached(FACE_MODEL)
        pair = yield from self.models.describe_cached(PAIR_MODEL, trunk.endpoint)
        a = yield from self._embed_faces(trunk, faces_a)
        b = yield from self._embed_faces(trunk, faces_b)
        probabilities = np.empty(len(a) * len(b), np.float32)
        maximum = read_max_batch(pair)
        for start in range(0, len(probabilities), maximum):
            stop = min(start + maximum, len(probabilities))
            batch = np.arange(start, stop)
            inputs = {
                "embedding_a": a[batch // len(b)],
                "embedding_b": b[batch % len(b)],
            }
            call = self.models.infer_checked(pair, inputs, len(batch))
            pair, outputs = yield from call
            probabilities[batch] = read_probabilities(
                pair, outputs, "related_probability", len(batch)
            )
        return Kinship(
            probabilities.reshape(len(a), len(b)),
            (*trunk.stand_in_weights, *pair.stand_in_weights),
            read_threshold(pair, "related_probability"),
        )

    def _embed_faces(
        self, model: ModelDescription, faces: Sequence[Pixels]
    ) -> Call[npt.NDArray[np.float32]]:
        if not faces:
            return np.empty((0, 0), np.float32)
        embeddings = []
        for batch in split_evenly(faces, read_max_batch(model)):
            inputs = {"face": resize_crops(batch, model.crop_shape("face"))}
            call = self.models.infer_checked(model, inputs, len(batch))
            model, outputs = yield from call
            embeddings.append(read_vectors(model, outputs, "embedding", len(batch)))
        return np.concatenate(embeddings)
