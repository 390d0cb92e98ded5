"""FastReID's ResNet50-IBN with non-local blocks."""

from tests.references.blocks.fastreid import FastReID, R50Backbone


def build_reference() -> FastReID:
    return FastReID(R50Backbone(ibn=True), 2048)


REFERENCE = build_reference
