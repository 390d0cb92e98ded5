"""The shape backend against published parameter counts, MACs and layouts."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from math import prod
from typing import Any

import pytest

from builders.networks.fastreid import fastreid_model
from builders.ops import BatchNorm, Conv, Ops, V, WiringError
from builders.ops.shape import ShapeOps
from builders.spec.catalogue import catalogue
from builders.spec.model import Model
from builders.spec.source import Source

MODELS = {n: d for n, d in catalogue().items() if isinstance(d, Model)}

SOURCE = Source("test", licence="none", url="https://example.com")

FIGURES = {
    # keys, parameters, MACs: GenderModel's print-out; FastReID without its classifier
    "person_gender": (113, 4_029_761, 1_460_387_968),
    "person_reid_kd_r18": (138, 11_177_537, 2_984_509_440),
    "person_reid_kd_r34": (222, 21_285_697, 5_475_926_016),
    "person_reid_sbs_r34": (222, 21_285_697, 5_475_926_016),
    # the same layers without non-local blocks and GeM's power
    "person_reid_bot_r50": (323, 23_512_128, 4_053_270_528),
    "person_reid_bot_r50_ibn": (349, 23_512_128, 4_053_270_528),
    # 2.2 M and 978.9 M, 0.2 M and 82.3 M in the paper; see also
    # test_osnet_equals_torchreids_own_count
    "person_reid_osnet_x1_0": (565, 2_169_508, 978_875_392),
    "person_reid_osnet_x0_25": (565, 201_864, 82_314_880),
    "person_reid_osnet_ain_x1_0": (550, 2_169_508, 978_875_392),
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
    # the 530 KB of gender-v1.onnx are 0.13 million values of FP32
    "face_gender": (12, 131_154, 24_543_264),
    # no figure is published: gender's, block 4 and a 512-value head
    "person_gender_reid": (149, 12_424_514, 1_871_429_760),
}
LAYOUTS = {
    "person_gender": "eac84d2f7d616b27",
    "person_reid_kd_r18": "1c09fac62a8f9805",
    "person_reid_kd_r34": "ea20bf41d7b2630f",
    "person_reid_sbs_r50": "fad238fee8b07df6",
    "person_reid_sbs_r50_ibn": "7e3769b5cfdc1da1",
    "kinship_concat": "90cd1c6e78d62e69",
    "kinship_compact": "1ab7466132083846",
    "person_gender_gennet_recon": "317ee20bd2ea7014",
}
"""Digests of published layouts (_layout_digest), from print-outs of the originals."""


def test_every_model_has_figures() -> None:
    assert set(FIGURES) == set(MODELS)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_the_published_ones(name: str) -> None:
    summary = MODELS[name].summary
    assert (
        len(summary.layout),
        summary.parameter_count,
        summary.total_macs,
    ) == FIGURES[name]


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
        source=SOURCE,
    )
    assert model.summary.total_macs == macs


def test_osnet_equals_torchreids_own_count() -> None:
    """The count that torchreid prints: params=2,193,616, flops=978,878,352.

    It counts a gate once for each of its four streams, and each bias as one operation.
    """
    summary = MODELS["person_reid_osnet_x1_0"].summary
    gates = {k: e for k, e in summary.layout.items() if ".gate." in k}
    gate_parameters = sum(prod(entry.shape) for entry in gates.values())
    gate_biases = sum(e.shape[0] for k, e in gates.items() if k.endswith(".bias"))
    assert summary.parameter_count + 3 * gate_parameters == 2_193_616
    assert summary.total_macs + 4 * gate_biases + 512 == 978_878_352


def test_macs_of_single_layers() -> None:
    macs = MODELS["person_gender"].summary.macs
    assert macs["backbone.conv1"] == 118_013_952
    assert macs["backbone.layer1.0.conv1"] == 115_605_504
    assert macs["backbone.layer2.0.downsample.0"] == 6_422_528
    assert macs["gender_classifier.linear_layers.linear.1"] == 128


def _layout_digest(layout: dict[str, tuple[int, ...]]) -> str:
    text = "\n".join(f"{key} {shape}" for key, shape in sorted(layout.items()))
    return sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_are_the_published_ones(name: str) -> None:
    layout = {k: entry.shape for k, entry in MODELS[name].summary.layout.items()}
    assert _layout_digest(layout) == LAYOUTS[name], (
        f"keys or shapes of {name} are no longer those of the published checkpoint, so "
        "it would not load; tests/builders/test_weights.py names the keys, by the "
        f"state dict of tests/references/{name}.py"
    )


def _mismatched_add(ops: Ops[V], x: V) -> V:
    y = ops.convolution(x, Conv("a", 8, kernel=3, stride=2, padding=1))
    return ops.add(x, y)


def _shared_name(ops: Ops[V], x: V) -> V:
    x = ops.convolution(x, Conv("a", 8, kernel=3, norm=BatchNorm("b")))
    return ops.convolution(x, Conv("a", 8, kernel=3))


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 0}, "a: channels 0 is less than 1"),
        ({"stride": 0}, "a: stride 0 is less than 1"),
        ({"padding": (1, -1)}, "a: padding .* is negative"),
        ({"groups": 3}, "cannot be split into 3 groups"),
    ],
)
def test_a_convolution_that_cannot_work_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(WiringError, match=message):
        replace(Conv("a", 8, kernel=3), **changes)
