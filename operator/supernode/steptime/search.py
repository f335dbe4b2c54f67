"""The best ways to cut a model over N devices: every sensible parallelism, predicted in batches, and ranked.

Flows in: chip, model, devices, batch, the tree they fill. Flows out: `Found` values, best first. Not here: files, words
for people.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd
from typing import Final

import numpy as np

from supernode.chips import Chip
from supernode.errors import ModelError
from supernode.steptime.batch import regular_wirings
from supernode.steptime.collectives import LinkLevel
from supernode.steptime.cuts import Cuts, allowed, parallelism_at
from supernode.steptime.model import ModelShape, Parallelism
from supernode.steptime.predict import PARTS, Parts, predict_batch

_CHUNK: Final = 4096  # rows a batch
_MICRO: Final = (1, 2, 4, 8)
_INTERLEAVE: Final = (1, 2, 3, 4, 6, 8)
_ZERO: Final = (0, 1, 3)
_MOST_TENSOR: Final = 64
_MOST_CONTEXT: Final = 32
_LEAST_TOKENS: Final = 1024  # a context rank with fewer tokens of a sequence only waits


@dataclass(frozen=True, slots=True)
class Found:
    """A cut and what it would take.

    Attributes:
        parallelism: the cut.
        seconds: of a step.
        parts: that add up to it.
        memory_bytes: on the fullest device.
        fits: the memory is enough, or unknown.
        mfu: 0 to 1.
        tried: how many cuts were compared.
    """

    parallelism: Parallelism
    seconds: float
    parts: Parts
    memory_bytes: float
    fits: bool
    mfu: float
    tried: int


def search(
    chip: Chip, model: ModelShape, devices: int, batch: int, tree: tuple[tuple[LinkLevel, ...], tuple[int, ...]]
) -> tuple[Found, ...]:
    """All cuts of the model over the devices, the best first: those that fit, by step time, then the simplest.

    Args:
        chip: data sheet of every device.
        model: what is trained.
        devices: of the job.
        batch: samples per step.
        tree: link levels, and parts per level, outermost first (`batch.regular_wirings`).

    Returns:
        At most ten; if nothing fits, the ten that need least memory.

    Raises:
        ChipError: a figure of the chip is missing.
        ModelError: nothing divides: no cut is possible.
    """
    levels, sizes = tree
    rows = np.array(list(_candidates(model, devices, batch)), dtype=np.float64).reshape(-1, len(Cuts.__slots__))
    cuts = Cuts(*rows.T)
    cuts = cuts.take(allowed(model, cuts)) if rows.size else cuts
    count = np.size(cuts.tensor)
    if not count:
        raise ModelError(
            f"{batch} samples of a model of {model.layers} layers and {model.attention_heads} heads can't be cut over "
            f"{devices} devices; take a global batch and devices that divide",
            field="parallelism.globalBatchSize",
        )
    results = []
    for start in range(0, count, _CHUNK):
        part = cuts.take(np.arange(start, min(start + _CHUNK, count)))
        results.append(predict_batch(chip, model, part, regular_wirings(levels, sizes, part)))
    seconds = np.concatenate([result.seconds for result in results])
    parts = np.concatenate([result.parts for result in results], axis=1)
    memory = np.concatenate([result.memory_bytes for result in results])
    mfu = np.concatenate([result.mfu for result in results])
    fits = np.concatenate([result.fits for result in results])
    simple = [cuts.full, cuts.selective, cuts.zero_stage, cuts.interleave, cuts.context, cuts.pipeline, cuts.tensor]
    by_size = np.where(fits, 0.0, memory)
    order = np.lexsort([*simple, seconds, by_size])[:10]
    return tuple(
        Found(
            parallelism_at(cuts, row),
            float(seconds[row]),
            Parts(*(float(parts[index, row]) for index in range(len(PARTS)))),
            float(memory[row]),
            bool(fits[row]),
            float(mfu[row]),
            count,
        )
        for row in order.tolist()
    )


def _divisors(number: int, most: int) -> list[int]:
    return [size for size in range(1, min(number, most) + 1) if number % size == 0]


def _candidates(model: ModelShape, devices: int, batch: int) -> Iterator[tuple[float, ...]]:
    """Rows of `Cuts`, in the order of its fields."""
    for tensor in _divisors(gcd(devices, model.attention_heads), _MOST_TENSOR):
        for context in _divisors(gcd(devices // tensor, model.sequence_length), _MOST_CONTEXT):
            if context > 1 and model.sequence_length // context < _LEAST_TOKENS:
                continue
            rest = devices // tensor // context
            for pipeline in _divisors(rest, model.layers + 2):
                data = rest // pipeline
                for micro in _MICRO:
                    if batch % (data * micro):
                        continue
                    micro_batches = batch // (data * micro)
                    for interleave in _INTERLEAVE if pipeline > 1 and micro_batches % pipeline == 0 else (1,):
                        for expert in _divisors(gcd(model.experts, data * context), model.experts):
                            for zero in _ZERO if data * context > 1 else (0,):
                                shape = (tensor, pipeline, data, context, expert, micro, interleave, zero)
                                for full, selective in ((0, 0), (0, 1), (1, 0)):
                                    yield (*shape, int(tensor > 1), full, selective, micro_batches, batch)
