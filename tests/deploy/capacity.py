"""The table of deploy/CAPACITY.md: cameras into servers, from measured figures."""

from __future__ import annotations

from math import ceil

FRAMES_PER_S, PEOPLE = 2, 4
"""Frames per second of a camera, and people in a frame, of the table."""

UTILISATION = 0.7
"""Share of the measured throughput that is planned for."""

FEWER_PEOPLE, FEWER_FRAMES = 10.9, 3.8
"""What tracks save on vtest.avi (loadtest/BENCHMARKS.md, "People over time")."""

FP32_PEOPLE_PER_S = 144.2
"""Served on 16 cores of a Xeon (builders/benchmarks/README.md, "Cores")."""

INT8_FACTOR = 1 / (1 / 238 + 1 / 132) * (1 / 71 + 1 / 35)
"""OpenVINO in INT8 over ONNX Runtime in FP32, both networks one after the other
(builders/benchmarks/README.md, "Precisions on the CPU")."""

GPU_FRAMES_PER_S, GPU_PEOPLE_PER_S = 1694.5, 22_650
"""Frame path of an H100 alone, 1080p (builders/benchmarks/README.md, "Frames on a
GPU"), and both networks of an H100 alone in FP16."""

FRAME_BYTES = 436 << 10
"""A 1080p JPEG of the same measurement."""


def servers(cameras: int, *, tracks: bool) -> tuple[int, int, int]:
    """Return the servers for a number of cameras: FP32 and INT8 on 16 cores, and H100.

    Args:
        cameras: Number of cameras.
        tracks: Whether clients follow people and ask once for several frames.
    """
    frames, people = load(cameras, tracks=tracks)
    fp32 = people / (UTILISATION * FP32_PEOPLE_PER_S)
    # the GPU's time for frames and for networks is added: not measured together
    busy_s = frames / GPU_FRAMES_PER_S + people / GPU_PEOPLE_PER_S
    return ceil(fp32), ceil(fp32 / INT8_FACTOR), ceil(busy_s / UTILISATION)


def load(cameras: int, *, tracks: bool) -> tuple[float, float]:
    """Return the frames and people per second that servers are asked about.

    Args:
        cameras: Number of cameras.
        tracks: Whether clients follow people.
    """
    frames = cameras * FRAMES_PER_S / (FEWER_FRAMES if tracks else 1)
    people = cameras * FRAMES_PER_S * PEOPLE / (FEWER_PEOPLE if tracks else 1)
    return frames, people


def render_table() -> str:
    """Return the table in Markdown."""
    head = (
        "| cameras | tracks | frames/s | people/s | network, Gbit/s | 16 cores, FP32 "
        "| 16 cores, INT8 | H100, FP16 |"
    )
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for cameras in (100, 1_000, 10_000, 100_000):
        for tracks in (False, True):
            frames, people = load(cameras, tracks=tracks)
            gigabits = frames * FRAME_BYTES * 8 / 1e9
            counts = " | ".join(f"{n:,}" for n in servers(cameras, tracks=tracks))
            lines.append(
                f"| {cameras:,} | {'yes' if tracks else 'no'} | {frames:,.0f} | "
                f"{people:,.0f} | {gigabits:,.1f} | {counts} |"
            )
    return "\n".join(lines) + "\n"
