"""Tables of the layers of plans: where the time goes, by kind and by layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MOST_EXPENSIVE = 30
NAME_CHARACTERS = 90
TYPES = {
    "Int8": "INT8",
    "FP16": "FP16",
    "Half": "FP16",
    "FP32": "FP32",
    "Float": "FP32",
}
"""Element types by how the inspector spells them."""


def layer_tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return Markdown: the sums of each variant, and its most expensive layers.

    Args:
        rows: What gpu_layers measured.
    """
    return "\n".join(line for row in rows for line in _tables_of(row)) + "\n"


def _tables_of(row: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {row['model']}, {row['variant']}"
    yield ""
    if "failure" in row:
        yield f"failed: {row['failure']}\n"
        return
    layers = row["layers"]
    total = sum(layer["ms"] for layer in layers)
    yield (
        f"{row['ms']:.3f} ms a batch of 64, {row['ms_at_1']:.3f} ms one; the layers "
        f"under the profiler take {total:.3f} ms; convolutions: {row['types']}"
    )
    yield "\n| kind | first input -> output | layers | ms | part |"
    yield "|---|---|---:|---:|---:|"
    sums: dict[tuple[str, str], list[float]] = defaultdict(list)
    for layer in layers:
        sums[layer["kind"], types_of(layer["formats"])].append(layer["ms"])
    for (kind, types), times in sorted(sums.items(), key=lambda item: -sum(item[1])):
        part = sum(times) / total
        yield f"| {kind} | {types} | {len(times)} | {sum(times):.3f} | {part:.1%} |"
    yield "\n| layer | kind | formats | ms |"
    yield "|---|---|---|---:|"
    for layer in sorted(layers, key=lambda each: -each["ms"])[:MOST_EXPENSIVE]:
        name = layer["name"][:NAME_CHARACTERS].replace("|", "/")
        formats = layer["formats"].replace("|", "/")
        yield f"| {name} | {layer['kind']} | {formats} | {layer['ms']:.3f} |"
    yield ""


def types_of(formats: str) -> str:
    """Return the element types of a layer's first input and first output.

    Args:
        formats: LayerTime.formats.
    """
    sides = formats.partition(" -> ")
    return " -> ".join(_type_of(side.split("], ")[0]) for side in (sides[0], sides[2]))


def _type_of(text: str) -> str:
    return next((name for word, name in TYPES.items() if word in text), "?")
