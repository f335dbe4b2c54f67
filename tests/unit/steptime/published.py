"""Published measurements that the tests compare with, and how to predict them. Data and sources: data/*.csv."""

from __future__ import annotations

import csv
from pathlib import Path

from supernode.chips import Chip, chip_from_mapping, find_chip
from supernode.steptime.collectives import levels_for
from supernode.steptime.model import ModelShape, Parallelism
from supernode.steptime.predict import StepTime, predict
from supernode.steptime.wiring import regular_wiring

A100 = find_chip("nvidia-a100-80g-sxm")
V100 = chip_from_mapping(
    {
        "name": "nvidia-v100-32g-sxm",
        "memoryGiB": 32,
        "memoryGBps": 900,
        "tflops": {"f16": 125, "f32": 15.7},
        "linkGBps": 150,
        "scaleOutGBps": 12.5,
    }
)


def rows(name: str) -> list[dict[str, str]]:
    """Rows of a data file; lines that begin with # are its source."""
    text = (Path(__file__).parent / "data" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def step(chip: Chip, model: ModelShape, cut: Parallelism, devices_per_node: int, scale_out: float) -> StepTime:
    """Prediction for a job that fills whole nodes behind one flat network."""
    assert chip.link_bandwidth is not None
    levels = levels_for(chip, [("network", scale_out, 5e-6), ("node", chip.link_bandwidth, 2e-6)])
    inside = min(cut.devices, devices_per_node)
    return predict(chip, model, cut, regular_wiring(levels, (cut.devices // inside, inside), cut))
