"""FastReID's ResNet50 with non-local blocks."""

from tests.references.blocks.fastreid import FastReID, R50Backbone


def build_reference() -> FastReID:
    return FastReID(R50Backbone(ibn=False), 2048)


REFERENCE = build_reference
