"""FastReID's distilled ResNet18-IBN."""

from tests.references.blocks.fastreid import DistillBackbone, FastReID


def build_reference() -> FastReID:
    return FastReID(DistillBackbone((2, 2, 2, 2), ibn=True), 512)


REFERENCE = build_reference
