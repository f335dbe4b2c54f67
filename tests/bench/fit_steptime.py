"""Fits the constants of a chip family again: `python -m tests.bench.fit_steptime` from the repository's root.

In: the published rows in tests/unit/steptime/data. Out: for each constant the value that fits best, beside the one in
`steptime/calibration.py`; nothing is written. What a person then puts into the table is rounded, and must stay inside
the bounds below, which are those of published micro-benchmarks: a value on its bound means that the model, not the
constant, is wrong.

    family          rows                                                     constants
    nvidia-ampere   Korthikanti et al. 2022: 8 steps, 10 layer times          gemm_peak, memory
    nvidia-volta    Megatron-LM 2020, V100: the rows of 1, 2 and 8 devices    gemm_peak
    nvidia-hopper   all-reduces of 64 MiB and more, and of 1 MiB              switch_reduce, network_*
    nvidia-hopper   the rows of large_runs.csv marked `fitted`                gemm_peak, memory, tensor_overlap
    huawei-ascend   the same                                                  gemm_peak
    hygon-gfx936    3 matrix products; all-reduces of 1 GiB                   gemm_peak; node_links
    (all)           530B with and without data parallelism                    CROWD
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import MappingProxyType
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.unit.steptime import published

from supernode.steptime import calibration
from supernode.steptime.family import Family
from supernode.steptime.predict import predict
from supernode.steptime.roofline import rates_of

Pairs = Callable[[], Iterable[tuple[float, float]]]


def error(family: Family, pairs: Pairs) -> float:
    """Mean absolute error of (predicted, measured) pairs with these constants."""
    table = {chip: one for one in calibration.FAMILIES for chip in one.chips}
    table.update(dict.fromkeys(family.chips, family))
    with mock.patch.object(calibration, "_BY_CHIP", MappingProxyType(table)):
        for cached in (rates_of, predict):
            cached.cache_clear()
        errors = [abs(predicted / measured - 1) for predicted, measured in pairs()]
    for cached in (rates_of, predict):
        cached.cache_clear()
    return sum(errors) / len(errors)


def fit(name: str, pairs: Pairs, grid: dict[str, tuple[float, float, float]]) -> None:
    """Print the best constants of a family on a grid of (least, most, step)."""
    family = calibration.family_named(name)
    axes = []
    for least, most, step in grid.values():
        axes.append([least + step * index for index in range(round((most - least) / step) + 1)])
    tried = [(error(replace(family, **dict(zip(grid, at, strict=True))), pairs), at) for at in product(*axes)]
    best, at = min(tried)
    print(f"{name}: {error(family, pairs):.2%} with the table, {best:.2%} at best with")
    for constant, value, axis in zip(grid, at, axes, strict=True):
        edge = "  (on its bound)" if value in (axis[0], axis[-1]) else ""
        print(f"  {constant} = {value:.3g}, table {getattr(family, constant):.3g}{edge}")


def ampere() -> Iterable[tuple[float, float]]:
    """Steps and layer times of Korthikanti et al."""
    for _, model, cut, measured in published.korthikanti():
        yield published.step(published.A100, model, cut, 8, 25e9).seconds, measured
    for _, predicted, measured in published.korthikanti_layers():
        yield predicted, measured


def volta() -> Iterable[tuple[float, float]]:
    """Three of the four rows of Megatron-LM 2020 on V100."""
    return [(found, measured) for case, _, found, measured in published.megatron("V100") if case != "4B"]


def bowen_products() -> Iterable[tuple[float, float]]:
    """TFLOPS of three matrix products."""
    return published.bw1000_products()


def bowen_links() -> Iterable[tuple[float, float]]:
    """Bus bandwidth of 1 GiB all-reduces inside a node."""
    rows = published.bw1000_bus(2**30)
    return [(found, measured) for kind, (nodes, _), found, measured in rows if kind == "all_reduce" and nodes == 1]


def hopper_links() -> Iterable[tuple[float, float]]:
    """All-reduces on H100 from 64 MiB and of 1 MiB, but for those that contradict their own system."""
    for row, found, measured in published.all_reduces():
        nbytes = int(row["size_bytes"])
        if row["chip"] == "nvidia-h100-80g-sxm" and (nbytes >= 2**26 or nbytes == 2**20) and not published.odd(row):
            yield found, measured


def steps(chip: str) -> Iterable[tuple[float, float]]:
    """Steps of large runs on a chip, those marked so."""
    runs = published.large_runs("fitted")
    return [(predicted.seconds, measured) for row, measured, predicted in runs if row["chip"] == chip]


def crowd() -> None:
    """Print the share of a port that explains how much longer 530B takes with 8-fold data parallelism."""
    model, cut = next((m, c) for name, m, c, _ in published.korthikanti() if "530B" in name and c.sequence_parallel)
    wide = replace(cut, data=8, global_batch_size=2240)
    alone = published.step(published.A100, model, wide, 8, 25e9).parts.data * calibration.CROWD
    print(f"CROWD: {alone / (39.15 - 37.83):.2f} of a port, table {calibration.CROWD:.2f}")


def main() -> None:
    """Fit all."""
    crowd()
    fit(
        "nvidia-hopper",
        hopper_links,
        {
            "network_links": (0.81, 0.95, 0.02),
            "switch_reduce": (0.56, 0.61, 0.01),
            "network_latency": (4e-6, 9e-6, 1e-6),
        },
    )
    fit(
        "nvidia-hopper",
        lambda: steps("nvidia-h100-80g-sxm"),
        {"gemm_peak": (0.60, 0.73, 0.02), "memory": (0.60, 0.90, 0.05), "tensor_overlap": (0.3, 0.8, 0.1)},
    )
    fit("huawei-ascend", lambda: steps("huawei-ascend-910b2"), {"gemm_peak": (0.66, 0.86, 0.02)})
    fit("nvidia-ampere", ampere, {"gemm_peak": (0.70, 0.90, 0.01), "memory": (0.75, 0.95, 0.025)})
    fit("nvidia-volta", volta, {"gemm_peak": (0.70, 0.95, 0.01)})
    fit("hygon-gfx936", bowen_products, {"gemm_peak": (0.50, 0.75, 0.01)})
    fit("hygon-gfx936", bowen_links, {"node_links": (0.45, 0.65, 0.005)})


if __name__ == "__main__":
    main()
