"""How fast and how good the step-time model is: predictions a second, microseconds alone, errors."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.case import Case
from tests.unit.steptime import published

from supernode.chips import find_chip
from supernode.steptime.batch import regular_wirings
from supernode.steptime.collectives import levels_for
from supernode.steptime.cuts import stack_cuts
from supernode.steptime.model import ModelShape, Parallelism
from supernode.steptime.predict import predict, predict_batch
from supernode.steptime.search import search
from supernode.steptime.wiring import regular_wiring

DENSE = ModelShape(96, 12288, 96, 51200, 2048)
EXPERTS = ModelShape(
    32, 4096, 32, 32000, 4096, feed_forward_size=14336, kv_heads=8, gated=True, experts=8, experts_per_token=2
)
BATCH = 1000


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Best of five rounds: seconds a call."""
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        best = min(best, (time.perf_counter() - start) / repeats)
    return best


def mean(pairs: Iterable[tuple[float, float]]) -> float:
    """Mean absolute error in percent."""
    errors = [abs(predicted / measured - 1) * 100 for predicted, measured in pairs]
    return sum(errors) / len(errors)


def speed() -> Iterable[Case]:
    """Predictions in batches of 1,000, alone, and the naive loop beside them."""
    chip = find_chip("hygon-bw1000")
    figures = [("spine", 50e9, 1e-5), ("leaf", 50e9, 1e-5), ("supernode", 224e9, 2e-6), ("node", 224e9, 2e-6)]
    levels = levels_for(chip, figures)
    sizes = (2, 4, 8, 8)
    for name, model, expert in (("dense", DENSE, 1), ("experts", EXPERTS, 8)):
        cuts = [
            Parallelism(8, 8, 8, 1, expert, micro, 1536, chunks, sequence, recompute, zero)
            for chunks in (1, 2, 4)
            for micro in (1, 2, 4)
            for sequence in (False, True)
            for recompute in ("None", "Selective", "Full")
            for zero in (0, 1, 2, 3)
        ]
        cuts = (cuts * (BATCH // len(cuts) + 1))[:BATCH]
        table = stack_cuts(cuts)
        wiring = regular_wirings(levels, sizes, table)

        def batch(model: ModelShape = model, table: object = table, wiring: object = wiring) -> object:
            return predict_batch(chip, model, table, wiring)  # type: ignore[arg-type]

        yield Case(f"{name}, batches of {BATCH}", BATCH / seconds(batch, 20), "predictions/s", 100_000.0, "higher")

        def placed(model: ModelShape = model, table: object = table) -> object:
            return predict_batch(chip, model, table, regular_wirings(levels, sizes, table))  # type: ignore[arg-type]

        yield Case(f"{name}, with wirings", BATCH / seconds(placed, 20), "predictions/s", 100_000.0, "higher")
        one = cuts[100]
        links = regular_wiring(levels, sizes, one)
        alone = seconds(lambda model=model, one=one, links=links: predict.__wrapped__(chip, model, one, links), 200)
        yield Case(f"{name}, one alone", alone * 1e6, "us", 300.0, "lower")
        yield Case(f"{name}, one after the other (for comparison)", 1 / alone, "predictions/s", None, "higher")
    ten_k = search_seconds()
    yield Case("search: 175B on 1,024 devices", ten_k, "s", None, "lower")


def search_seconds() -> float:
    """Seconds of one search over all cuts."""
    chip = find_chip("hygon-bw1000")
    levels = levels_for(chip, [("network", 50e9, 1e-5), ("node", 224e9, 2e-6)])
    return seconds(lambda: search(chip, DENSE, 1024, 1536, (levels, (128, 8))), 1)


def accuracy() -> Iterable[Case]:
    """Mean absolute errors against published measurements."""
    steps = [(predicted, measured) for _, predicted, measured in published.korthikanti_steps()]
    yield Case("error, A100, Korthikanti 2022", mean(steps), "%", 3.0, "lower")
    v100 = [(p, m) for _, _, p, m in published.megatron("V100")]
    yield Case("error, V100, Megatron-LM 2020", mean(v100), "%", 15.0, "lower")
    runs: dict[str, list[tuple[float, float]]] = {}
    for row, measured, predicted in published.large_runs():
        runs.setdefault(f"{row['source']}, {row['use']}", []).append((predicted.seconds, measured))
    for name, pairs in runs.items():
        yield Case(f"error, {name}: {len(pairs)} rows", mean(pairs), "%", None, "lower")
    large, small, per_row = [], [], []
    for row, found, measured in published.all_reduces():
        nbytes = int(row["size_bytes"])
        if nbytes < 2**26 and nbytes != 2**20:
            continue
        (large if nbytes >= 2**26 else small).append((row, found, measured))
        name = f"{row['system']}, {row['chip']}, {row['nodes']} nodes, {row['gpus']} devices, switch {row['switch']}"
        why = published.odd(row)
        error = abs(found / measured - 1) * 100
        goal = None if why else 10.0 if nbytes >= 2**26 else 25.0
        per_row.append(Case(f"  {name}, {nbytes >> 20} MiB{why and ' (' + why + ')'}", error, "%", goal, "lower"))
    yield Case(
        f"error, all {len(large)} all-reduces from 64 MiB", mean((f, m) for _, f, m in large), "%", 10.0, "lower"
    )
    plain = [(f, m) for row, f, m in small if not published.odd(row)]
    yield Case(f"error, all-reduces of 1 MiB: {len(plain)} of {len(small)} rows", mean(plain), "%", 25.0, "lower")
    yield from per_row
    for nbytes in (2**30, 2**20):
        goal = 10.0 if nbytes == 2**30 else 25.0
        for kind, (nodes, cards), found, measured in published.bw1000_bus(nbytes):
            name = f"  bw1000 {kind}, {nodes} x {cards}, {nbytes >> 20} MiB"
            error = abs(found / measured - 1) * 100
            yield Case(name, error, "%", goal if kind == "all_reduce" else None, "lower")


def cases() -> Iterable[Case]:
    """Speed, then accuracy."""
    np.seterr(all="raise")
    yield from speed()
    yield from accuracy()
