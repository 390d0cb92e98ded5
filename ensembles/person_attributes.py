"""One frame and its N boxes to P(female) and a ReID embedding for each person."""

from builders.spec import Ensemble, Step
from ensembles.person_preprocess import GENDER, REID
from ensembles.person_preprocess import MODEL as PREPROCESS

MODEL = Ensemble(
    name="person_attributes",
    batched=False,
    steps=(
        Step(
            PREPROCESS,
            inputs={"frame": "frame", "boxes": "boxes"},
            outputs={"gender_crops": "gender_crops", "reid_crops": "reid_crops"},
        ),
        Step(
            GENDER,
            inputs={"crops": "gender_crops"},
            outputs={"female_probability": "female_probability"},
        ),
        Step(
            REID,
            inputs={"crops": "reid_crops"},
            outputs={"embedding": "embedding"},
        ),
    ),
    outputs=("female_probability", "embedding"),
)
