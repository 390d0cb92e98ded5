"""The person re-identification networks of FastReID.

The five networks that FastReID runs on TensorRT (projects/FastRT) differ in depth, IBN
and non-local blocks; its bag-of-tricks baselines (Luo et al., 2019, arXiv:1903.07071)
pool by the mean and have no non-local blocks. Each has a file in builders/models.
Checkpoints of all FastReID releases load: older key names are aliased, and
training-time entries (classifier, distillation connectors, pixel buffers) are dropped.

The names in a file do not show everything that its network needs, so each model has
variants (`--variant`):

* `ceil` or `padded`, the stem's max pool. Commit 9c667d1 (2020-08-14) replaced padding
  1 by rounding up. Release v0.1.1 (2020-07-29), which all files of the model zoo are
  of, has the padded pool. The neck was renamed from `heads.bnneck.*` to
  `heads.bottleneck.0.*` in commit 4d573b8 (2020-09-10). So a file with the old names is
  older than that, and almost certainly padded: only code of the 27 days between the two
  commits has old names and the other pool. A build asks for the choice. A file with the
  new names is from code with the other pool, which is the declared one. The exception
  is a file of the model zoo whose keys were renamed by hand, as the maintainers advise
  in issues 486 and 617; nothing in it shows that, so compare the variants if in doubt.
* `384x128` or `256x128`, the crop. The network takes both. SBS configurations train and
  test at 384x128, BoT and FastDistill's at 256x128. A file with distillation's
  connectors is FastDistill's, so a build asks for the size where another is declared.
* `cubic` or `cubic_antialias`, the resizing. Published accuracies were measured with
  FastReID's test loader, which resizes with Pillow's bicubic filter. FastReID's demo
  and FastRT use OpenCV's INTER_CUBIC, which is faster and is declared here;
  builders/models/README.md states the cost and the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from builders.networks.heads import HeadPool, reid_head
from builders.networks.residual import (
    StemPool,
    basic_stage,
    bottleneck_stage,
    stem,
)
from builders.ops import Ops, V
from builders.spec.model import Batching, Model
from builders.spec.source import Source
from builders.spec.variants import (
    Choice,
    Option,
    Sign,
    interpolation_choice,
    size_choice,
)
from builders.tensors import IMAGENET_MEAN, IMAGENET_STD, Image, Output

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Blocks of each stage, by depth."""

STRIDES = (1, 2, 2, 1)
"""Stride of each stage; LAST_STRIDE is 1 in all these configurations."""

NON_LOCAL = (0, 2, 3, 0)
"""Non-local blocks of each stage in FastReID's ResNet50."""

DROPPED = (
    "heads.weight",
    "heads.classifier.weight",
    "pixel_mean",
    "pixel_std",
    "connectors.*",
    "connectors_*",
    "margin*",
)
"""Checkpoint entries that only training needs. Connectors are called `connectors.0.*`
in release v1.0.0, and `connectors_s.*` or `connectors_0.*` since."""

ALIASES = {"heads.bnneck.": "heads.bottleneck.0."}
"""Key names before 2020-09-10, which the published model zoo's files have."""

Network = Callable[..., Mapping[str, Any]]
"""A function of a backend and crops that wires a network."""

SIZES_HW = ((384, 128), (256, 128))

STEM_POOLS: Mapping[StemPool, str] = {
    "ceil": "trained with FastReID's code since 2020-08-14",
    "padded": "trained before 2020-08-14: release v0.1.1 and the whole model zoo",
}
"""Kinds of the stem's max pool, and the files that each is for."""

OLD_NECK = Sign(
    ("heads.bnneck.*",),
    "padded",
    "FastReID's code had this name before 2020-09-10, as the model zoo's files do, "
    "which are of release v0.1.1 (2020-07-29)",
)

CONNECTORS = Sign(
    ("connectors.*", "connectors_*"),
    "256x128",
    "FastReID's distillation has connectors, and its published configurations "
    "(projects/FastDistill) train and test at 256x128",
)

R50_IN_FLOAT = ("backbone.conv1", "backbone.layer1.*", "backbone.layer2.*")
"""Convolutions of the R50 networks that stay float in INT8: those on the largest maps.

With stand-in weights they cause half of the embedding's error (cosine 0.948 to 0.975
without IBN, 0.926 to 0.981 with); fine-tuning removes the rest.
"""


def fastreid_source(configuration: str, folder: str) -> Source:
    """Return the citation of a FastReID configuration.

    Args:
        configuration: Name of the configuration, such as "sbs_R50".
        folder: Folder in the fast-reid repository that describes it.
    """
    return Source(
        f"FastReID {configuration}",
        licence="Apache-2.0 (fast-reid)",
        url=f"https://github.com/JDAI-CV/fast-reid/tree/master/{folder}",
        paper="arXiv:2006.02631",
    )


def fastreid_model(
    name: str,
    *,
    depth: int,
    ibn: bool,
    source: Source,
    non_local: bool = False,
    size_hw: tuple[int, int] = (384, 128),
    stem_pool: StemPool = "ceil",
    head_pool: HeadPool = "gem",
    assumptions: str = "",
    batching: Batching = Batching(),  # noqa: B008 - frozen
    on_request: bool = False,
) -> Model:
    """Declare a model of FastReID's family.

    Args:
        name: Name of the model.
        depth: 18, 34 or 50.
        ibn: Whether the first three stages have IBN-Net's split norm.
        source: Citation of the configuration.
        non_local: Whether stages 2 and 3 have non-local blocks (depth 50 only).
        size_hw: Declared height and width of the crop, (384, 128) or (256, 128); the
            other one is a variant.
        stem_pool: Declared kind of the stem's max pool; the other one is a variant. The
            two kinds sample different windows: on random images 70 % of the outputs
            differ.
        head_pool: Kind of the head's pooling.
        assumptions: What the source leaves open and this project decided.
        batching: Batch sizes, queue delays and instance counts.
        on_request: Whether the model is built only when it is named.
    """
    network = partial(
        _network, depth=depth, ibn=ibn, non_local=non_local, head_pool=head_pool
    )
    return Model(
        name=name,
        source=source,
        assumptions=assumptions,
        network=network(stem_pool=stem_pool),
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
        on_request=on_request,
        choices=(
            _stem_choice(stem_pool, network),
            size_choice(
                size_hw,
                *(size for size in SIZES_HW if size != size_hw),
                use="trained with crops of this size",
            ),
            interpolation_choice(
                "cubic",
                "cubic_antialias",
                use="as FastReID's published accuracies were measured",
            ),
        ),
        signs=tuple(
            sign
            for sign, declared in (
                (OLD_NECK, stem_pool == "padded"),
                (CONNECTORS, size_hw == (256, 128)),
            )
            if not declared
        ),
    )


def _stem_choice(declared: StemPool, network: Callable[..., Network]) -> Choice:
    """Return the choice of the stem's pool; `network` makes a network of a pool."""

    def change(pool: StemPool) -> Callable[[Model], Model] | None:
        if pool == declared:
            return None
        return lambda model: replace(model, network=network(stem_pool=pool))

    options = (Option(pool, use, change(pool)) for pool, use in STEM_POOLS.items())
    return Choice("stem_pool", tuple(sorted(options, key=lambda o: o.name != declared)))


def _network(
    *,
    depth: int,
    ibn: bool,
    non_local: bool,
    stem_pool: StemPool,
    head_pool: HeadPool,
) -> Network:
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
        return {"embedding": reid_head(ops, x, head_pool)}

    return network
