"""OSNet at width 0.25."""

from tests.references.blocks.osnet import OSNet


def build_reference() -> OSNet:
    return OSNet((16, 64, 96, 128))


REFERENCE = build_reference
