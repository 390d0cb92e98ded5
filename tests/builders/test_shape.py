"""The shape backend against the published figures and layouts."""

from __future__ import annotations

import pytest

from builders.catalogue import catalogue
from builders.networks.fastreid import fastreid_model
from builders.ops import BatchNorm, Ops, V, WiringError
from builders.ops.shape import ShapeOps
from builders.repository import ROOT
from builders.spec import Model

FACTS = ROOT.parent / "shared" / "facts"
MODELS = {n: d for n, d in catalogue().items() if isinstance(d, Model)}

FIGURES = {
    # keys, parameters, MACs: seed 000's print-out; FastReID without its classifier
    "person_gender": (113, 4_029_761, 1_460_387_968),
    "person_reid_kd_r18": (138, 11_177_537, 2_984_509_440),
    "person_reid_kd_r34": (222, 21_285_697, 5_475_926_016),
    "person_reid_sbs_r34": (222, 21_285_697, 5_475_926_016),
    "person_reid_sbs_r50": (389, 23_540_816, 6_087_991_296),
    "person_reid_sbs_r50_ibn": (415, 23_540_816, 6_087_991_296),
    # tensorpack: 331 arrays, and a counter for each of 53 batch norms
    "se_resnet50": (384, 28_088_024, 4_091_699_200),
    "kinship_concat": (27, 320_309_506, 1_460_731_000),
    "kinship_compact": (36, 762_401, 106_634_112),
    # kinship_compact's parts; its trunk runs twice a pair
    "kinship_embedding": (32, 696_608, 53_284_224),
    "kinship_pair": (4, 65_793, 65_664),
    "person_gender_gennet_recon": (34, 553_121, 110_903_360),
    "person_gender_rmnet": (679, 565_367, 184_467_712),
    # no figure is published: gender's, block 4 and a 512-value head
    "person_gender_reid": (149, 12_424_514, 1_871_429_760),
}
LAYOUTS = {
    "person_gender": "gender_net_seed000.txt",
    "person_reid_kd_r18": "fastreid_kd_r18_ibn_distill.txt",
    "person_reid_kd_r34": "fastreid_r34_distill.txt",
    "person_reid_sbs_r50": "fastreid_sbs_R50.txt",
    "person_reid_sbs_r50_ibn": "fastreid_sbs_R50-ibn.txt",
    "kinship_concat": "siamese_public_seed002.txt",
    "kinship_compact": "proposal_siamese_compact.txt",
    "person_gender_gennet_recon": "proposal_gennet_recon.txt",
}


def test_every_model_has_figures() -> None:
    assert set(FIGURES) == set(MODELS)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_the_published_ones(name: str) -> None:
    survey = MODELS[name].survey
    assert (len(survey.layout), survey.parameters, survey.total_macs) == FIGURES[name]


@pytest.mark.parametrize(
    ("depth", "macs"), [(18, 1_989_672_960), (34, 3_650_617_344), (50, 4_058_087_424)]
)
def test_fastreid_at_256x128(depth: int, macs: int) -> None:
    model = fastreid_model(
        "x",
        depth=depth,
        ibn=depth == 18,
        non_local=depth == 50,
        size_hw=(256, 128),
        source="x",
    )
    assert model.survey.total_macs == macs


def test_macs_of_single_layers() -> None:
    macs = MODELS["person_gender"].survey.macs
    assert macs["backbone.conv1"] == 118_013_952
    assert macs["backbone.layer1.0.conv1"] == 115_605_504
    assert macs["backbone.layer2.0.downsample.0"] == 6_422_528
    assert macs["gender_classifier.linear_layers.linear.1"] == 128


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_are_the_published_ones(name: str) -> None:
    path = FACTS / LAYOUTS[name]
    if not path.is_file():
        pytest.skip(f"{path.name} is not beside the checkout (../shared/facts)")
    published = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            key, _, shape = line.partition(" ")
            numbers = shape.strip("()").split(",")
            published[key] = tuple(int(n) for n in numbers if n.strip())
    published.pop("heads.weight", None)  # dropped by declaration
    survey = MODELS[name].survey
    assert {key: entry.shape for key, entry in survey.layout.items()} == published


def _mismatched_add(ops: Ops[V], x: V) -> V:
    y = ops.convolution(x, "a", 8, kernel=3, stride=2, padding=1)
    return ops.add(x, y)


def _shared_name(ops: Ops[V], x: V) -> V:
    x = ops.convolution(x, "a", 8, kernel=3, norm=BatchNorm("b"))
    return ops.convolution(x, "a", 8, kernel=3)


def _linear_on_an_image(ops: Ops[V], x: V) -> V:
    return ops.linear(x, "a", 1)


def _window_too_large(ops: Ops[V], x: V) -> V:
    return ops.average_pool(x, kernel=9, stride=9)


@pytest.mark.parametrize(
    ("wiring", "message"),
    [
        (_mismatched_add, "shapes"),
        (_shared_name, "share a name"),
        (_linear_on_an_image, "flatten first"),
        (_window_too_large, "does not fit"),
    ],
)
def test_wirings_that_do_not_fit_say_why(wiring: object, message: str) -> None:
    assert callable(wiring)
    with pytest.raises(WiringError, match=message):
        wiring(ShapeOps(), (3, 8, 8))
