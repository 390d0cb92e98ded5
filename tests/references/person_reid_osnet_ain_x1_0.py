"""OSNet-AIN at width 1.0."""

from tests.references.blocks.osnet import OSNetAin

REFERENCE = OSNetAin
