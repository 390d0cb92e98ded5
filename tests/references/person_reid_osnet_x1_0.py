"""OSNet at width 1.0."""

from tests.references.blocks.osnet import OSNet


def build_reference() -> OSNet:
    return OSNet((64, 256, 384, 512))


REFERENCE = build_reference
