"""FastReID's bag-of-tricks ResNet50: mean pooling, no non-local blocks."""

from torch import nn

from tests.references.blocks.fastreid import FastReID, R50Backbone


def build_reference() -> FastReID:
    backbone = R50Backbone(ibn=False, non_local=False)
    return FastReID(backbone, 2048, pool=nn.AdaptiveAvgPool2d(1))


REFERENCE = build_reference
