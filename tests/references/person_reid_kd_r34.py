"""FastReID's distilled ResNet34."""

from tests.references.blocks.fastreid import DistillBackbone, FastReID


def build_reference() -> FastReID:
    return FastReID(DistillBackbone((3, 4, 6, 3), ibn=False), 512)


REFERENCE = build_reference
