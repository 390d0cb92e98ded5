"""FastReID's person re-identification networks, as one recipe.

Seed 004's five configurations differ in depth, IBN and non-local blocks; a model file
names them. Checkpoints of every generation load: older key names are aliased, and
training-time parts (classifier, distillation connectors, pixel buffers) dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from builders.networks.heads import reid_head
from builders.networks.residual import (
    StemPool,
    basic_stage,
    bottleneck_stage,
    stem,
)
from builders.ops import Ops, V
from builders.spec import IMAGENET_MEAN, IMAGENET_STD, Batching, Image, Model, Output

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
STRIDES = (1, 2, 2, 1)
"""The last stage keeps its size in all of these configurations (LAST_STRIDE 1)."""

NON_LOCAL = (0, 2, 3, 0)
"""Non-local blocks a stage in FastReID's 50x."""

DROPPED = (
    "heads.weight",
    "heads.classifier.weight",
    "pixel_mean",
    "pixel_std",
    "connectors_*",
    "margin*",
)

ALIASES = {"heads.bnneck.": "heads.bottleneck.0."}
"""Before 2020-09-10, and in the model zoo's files."""

R50_IN_FLOAT = ("backbone.conv1", "backbone.layer1.*", "backbone.layer2.*")
"""The large maps, in INT8 plans of the R50 networks: with stand-in weights they bring
half of the embedding's error (cosine 0.948 to 0.975 without IBN, 0.926 to 0.981 with),
and fine-tuning does the rest.
"""


def fastreid_model(
    name: str,
    *,
    depth: int,
    ibn: bool,
    non_local: bool = False,
    size_hw: tuple[int, int] = (384, 128),
    stem_pool: StemPool = "ceil",
    source: str,
    assumptions: str = "",
    batching: Batching = Batching(),  # noqa: B008 - frozen
) -> Model:
    """A model of FastReID's family.

    `size_hw` (256, 128) is the other size in use: take the one the checkpoint was
    trained with. `stem_pool` "padded" is for checkpoints trained before 2020-08-14,
    which most of the model zoo's are: the two pools sample different windows, and 70 %
    of a random picture's outputs differ.
    """
    return Model(
        name=name,
        source=source,
        licence="architecture: Apache-2.0 (fast-reid)",
        assumptions=assumptions,
        network=_network(
            depth=depth, ibn=ibn, non_local=non_local, stem_pool=stem_pool
        ),
        images=(
            Image(
                *size_hw,
                mean=IMAGENET_MEAN,
                std=IMAGENET_STD,
                interpolation="cubic",
            ),
        ),
        outputs=(Output("embedding", 2048 if depth == 50 else 512),),
        int8_exclude=R50_IN_FLOAT if depth == 50 else (),
        batching=batching,
        dropped=DROPPED,
        aliases=ALIASES,
    )


def _network(
    *, depth: int, ibn: bool, non_local: bool, stem_pool: StemPool
) -> Callable[..., Mapping[str, V]]:
    def network(ops: Ops[V], crops: V) -> dict[str, V]:
        x = stem(ops, crops, "backbone", pool=stem_pool)
        for number, (blocks, stride) in enumerate(
            zip(BLOCKS[depth], STRIDES, strict=True), start=1
        ):
            has_ibn = ibn and number < 4  # FastReID gives the last stage none
            if depth == 50:
                x = bottleneck_stage(
                    ops,
                    x,
                    "backbone",
                    number=number,
                    blocks=blocks,
                    stride=stride,
                    ibn=has_ibn,
                    non_local=NON_LOCAL[number - 1] if non_local else 0,
                )
            else:
                x = basic_stage(
                    ops,
                    x,
                    "backbone",
                    number=number,
                    blocks=blocks,
                    stride=stride,
                    ibn=has_ibn,
                )
        return {"embedding": reid_head(ops, x)}

    return network
