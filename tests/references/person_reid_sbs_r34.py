"""FastReID's ResNet34: the same graph as its distilled one."""

from tests.references import person_reid_kd_r34

REFERENCE = person_reid_kd_r34.REFERENCE
