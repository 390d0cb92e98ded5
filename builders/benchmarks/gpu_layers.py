"""Time of each layer of FP16 and INT8 plans at batch 64: what INT8 gains, and what not.

    python -m builders.benchmarks.gpu_layers OUTDIR person_reid_sbs_r50 se_resnet50

Weights are random and scales constant, which changes no time, so that neither torch nor
calibration is needed. OUTDIR gets a table of each model: layers by kind and element
type, and the most expensive ones. The variants of a model are

* `fp16`: as declared
* `int8`: as declared, with the layers of `int8_exclude` in FP16
* `int8 all`: nothing excluded, the most that INT8 could gain
* the same with `light`: large maps stay in the plan's precision (PlanOptions.light)
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from builders.benchmarks.layer_table import layer_tables
from builders.ops.placement import Int8, placement_from_model
from builders.progress import no_progress
from builders.spec.catalogue import models
from builders.spec.model import Model
from builders.tensorrt.library import Precision, load_library
from builders.tensorrt.plan import PlanOptions, plan_from_model
from builders.tensorrt.profiling import measure_layers

BATCH, REPEATS = 64, 50
SCALE = 0.05
VARIANTS: tuple[tuple[str, Precision, bool, bool], ...] = (
    ("fp16", "fp16", False, False),
    ("int8", "int8", False, False),
    ("fp16 light", "fp16", False, True),
    ("int8 light", "int8", False, True),
    ("int8 all light", "int8", True, True),
    ("int8 all", "int8", True, False),
)
"""Name, precision, whether nothing is excluded, and PlanOptions.light."""


def random_arrays(model: Model) -> dict[str, Any]:
    """Return random weights of a model by checkpoint name, FP32.

    Args:
        model: The declaration.
    """
    rng = np.random.default_rng(0)
    arrays = {}
    for key, entry in model.summary.layout.items():
        if entry.kind == "counter":
            continue
        # the power that a GPU draws, and so its clock, depends on the values
        if len(entry.shape) > 1:
            scale = np.sqrt(2 / np.prod(entry.shape[1:]))
            values = rng.standard_normal(entry.shape) * scale
        else:
            values = rng.uniform(0.5, 1.0, entry.shape)
        arrays[key] = values.astype(np.float32)
    return arrays


def measure_model(
    model: Model, variants: list[str], timing_cache: Path
) -> Iterator[dict[str, Any]]:
    """Yield the layers of each variant of a model.

    Args:
        model: The declaration.
        variants: Names of VARIANTS.
        timing_cache: File that keeps kernel timings between builds.
    """
    library = load_library("tensorrt")
    arrays = random_arrays(model)
    for name, precision, everything, light in VARIANTS:
        if name not in variants:
            continue
        began = time.monotonic()
        int8 = None
        if precision == "int8":
            exclude = () if everything else model.int8_exclude
            placement = placement_from_model(model, exclude)
            int8 = Int8(placement, dict.fromkeys(placement.keys, SCALE))
        options = PlanOptions(precision, timing_cache=timing_cache, light=light)
        row: dict[str, Any] = {"model": model.name, "variant": name}
        try:
            plan = plan_from_model(
                library, replace(model), arrays, options, no_progress, int8
            )
        except Exception as exc:  # noqa: BLE001 - the other variants are measured
            yield row | {"failure": str(exc)}
            continue
        row["build_s"] = time.monotonic() - began
        engine = library.load_engine(plan.data)
        row["ms"] = engine.median_ms(BATCH, 200)
        row["ms_at_1"] = engine.median_ms(1, 200)
        engine.close()
        row["types"] = plan.types
        row["layers"] = [
            asdict(layer)
            for layer in measure_layers(library, plan.data, BATCH, REPEATS)
        ]
        yield row


def main() -> int:
    """Measure the models that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="folder for results")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--variants", nargs="+", default=[v[0] for v in VARIANTS])
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for model in models(arguments.models):
        cache = arguments.output / "timing.cache"
        for row in measure_model(model, arguments.variants, cache):
            rows.append(row)
            path = arguments.output / "layers.json"
            path.write_text(json.dumps(rows), encoding="utf-8")
            text = layer_tables(rows)
            (arguments.output / "layers.md").write_text(text, encoding="utf-8")
            summary = row.get("failure") or (
                f"{row['ms']:.3f} ms at {BATCH}, {row['ms_at_1']:.3f} ms at 1, "
                f"{row['types']}, built in {row['build_s']:.0f} s"
            )
            sys.stdout.write(f"{row['model']} {row['variant']}: {summary}\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
