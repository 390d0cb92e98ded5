"""Ready crops to P(female) and a ReID embedding: no Python on the way."""

from builders.spec import Ensemble, Model
from ensembles.person_attributes import MODEL as PERSON_ATTRIBUTES

MODEL = Ensemble(
    name="person_attributes_crops",
    batched=True,
    steps=tuple(s for s in PERSON_ATTRIBUTES.steps if isinstance(s.model, Model)),
    outputs=PERSON_ATTRIBUTES.outputs,
)
