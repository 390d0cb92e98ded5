"""The precision report, on the smallest network."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from builders.ops.torch import Reference
from builders.precision import timing
from builders.precision.measure import PrecisionRow, SweepPoint, measure_precisions
from builders.precision.report import summarise_reports, write_report
from builders.quantisation.table import HELD_OUT_FILE
from builders.repository.layout import Repository
from builders.repository.runtimes.cpu_session import has_bf16
from builders.repository.verified import read_verified
from builders.spec.catalogue import models
from builders.verify.inputs import seeded_inputs
from builders.verify.reference import ReferenceAnswers
from builders.weights import StandIn, stand_in_weights
from tests.int8_tables import scales_of, table_of

(RECON,) = models(["person_gender_gennet_recon"])


def test_every_precision_is_measured_and_a_second_run_adds_to_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "SECONDS_PER_BATCH", 0.0)
    monkeypatch.setattr(timing, "MIN_RUNS", 2)
    repository = Repository(tmp_path / "repository")
    arrays, inputs = stand_in_weights(RECON).arrays, seeded_inputs(RECON)
    table_of(RECON, scales_of(RECON, arrays, inputs)).save(repository)
    ReferenceAnswers(inputs, Reference(RECON, arrays)(**inputs), str(StandIn())).save(
        repository.artefact_path(RECON.name, HELD_OUT_FILE)
    )
    verified = tmp_path / "verified"
    rows = [
        row
        for target in ("torch", "cpu")
        for row in measure_precisions(
            RECON, StandIn(), repository, target, publish_to=verified
        )
    ]
    assert [(row.runner, row.precision) for row in rows] == [
        ("PyTorch", "fp32"),
        ("ONNX Runtime", "fp32"),
        ("OpenVINO", "fp32"),
        ("OpenVINO", "bf16"),
        ("ONNX Runtime", "int8"),
        ("OpenVINO", "int8"),
    ]
    if not has_bf16():
        (lacking,) = (row for row in rows if row.precision == "bf16")
        assert "does not compute in BF16" in lacking.parity
        rows.remove(lacking)
    assert all(list(row.ms) == [1, 2, 4, 8, 16, 32, 64] for row in rows)
    assert all(row.passed for row in rows)
    sizes = {row.precision: row.file_bytes or 0 for row in rows}
    assert sizes["int8"] < sizes["fp32"] / 2
    assert set(read_verified(RECON.name, verified)) >= {
        *("cpu fp32", "cpu fp32 openvino", "cpu int8", "cpu int8 openvino"),
    }

    folder = tmp_path / "reports" / RECON.name
    points = [SweepPoint(32, 0.04), SweepPoint(128, 0.02)]
    path, report = write_report(folder, RECON, rows, points)
    assert report.to_markdown().count("| int8 |") == 2 * 8
    assert report.warning.startswith("Stand-in weights")
    assert all(list(row.spread_ms) == list(row.ms) for row in rows)
    low, high = rows[0].spread_ms[64]
    assert f"{low:.3f} to {high:.3f}" in report.to_markdown()
    more = [PrecisionRow("TensorRT", "fp16", {1: 0.2, 64: 1.5}, parity="close")]
    write_report(folder, RECON, more, [])
    record = json.loads((folder / "report.json").read_text())
    assert len(record["rows"]) == len(rows) + 1
    assert len(record["sweep"]) == 2, "kept from the run before"
    assert "TensorRT" in path.read_text()
    assert summarise_reports(folder.parent).splitlines()[4].endswith(" | 1.500 |")
    for stem in ("throughput", "sweep"):
        assert np.std(cv2.imread(str(folder / f"{stem}.png"))) > 5


def test_a_precision_that_cannot_be_built_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "SECONDS_PER_BATCH", 0.0)
    monkeypatch.setattr(timing, "LARGEST_BATCH", 1)
    repository = Repository(tmp_path / "repository")
    *_, int8 = measure_precisions(RECON, StandIn(), repository, "cpu")
    assert "no INT8 table yet" in int8.parity
    assert not int8.passed
    assert int8.ms == {}
