"""A pipeline whose stages differ: other chips, other links, other numbers of layers.

Flows in: per stage a chip and the links of its ranks, a model, its parallelism. Flows out: how many layers each stage
gets (`balance`), and a `MixedStepTime` (`predict_mixed`). Not here: which stage goes where.

Layers are shared out by largest remainder over each chip's effective speed: the predicted seconds of one layer on the
stage's own chip and links, collectives included; the output layer counts as the layers that take as long. A stage gets
at least one layer per chunk, and at most what its devices' memory holds.

A step takes as long as the slowest stage needs for all micro batches, plus one micro batch of every other stage while
the pipeline fills and drains, plus the sends over the slowest border between stages, plus the slowest stage's gradients
and update. The pieces are those of `predict` (`stage`), so stages that are all alike give what `predict` gives.

Ranks of a mix count through tensor, context, data and pipeline: a stage's ranks are neighbours, on one kind of chip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, NamedTuple

from supernode.chips import Chip
from supernode.errors import ModelError
from supernode.steptime.calibration import family_of
from supernode.steptime.collectives import Links
from supernode.steptime.cuts import cuts_of
from supernode.steptime.memory import Memory, in_flight, stage_weights
from supernode.steptime.memory import stage_memory as memory_of_stage
from supernode.steptime.model import ModelShape, Parallelism, check, flops_per_step
from supernode.steptime.predict import Parts, StepTime, notes_of
from supernode.steptime.stage import (
    Cost,
    data_seconds,
    early_share,
    end_costs,
    layer_cost,
    optimizer_seconds,
    send_seconds,
    shared_seconds,
)
from supernode.steptime.storage import Storage
from supernode.steptime.wiring import Wiring

_NO_STORAGE: Final = Storage()
_DIGITS: Final = 9  # of a share of layers: beyond, equal stages would differ by rounding


@dataclass(frozen=True, slots=True)
class Stage:
    """What one pipeline stage runs on: its chip, and the links of its own ranks (`wiring.pipeline` is not used)."""

    chip: Chip
    wiring: Wiring


@dataclass(frozen=True, slots=True)
class Shortage:
    """The layers can't be shared out: the stages' memory holds only `held` of them, or a stage not even its least.

    Attributes:
        held: layers that all stages hold together.
        stage: the first that can't hold one layer per chunk; -1 = each can.
        needed: bytes that one layer per chunk needs on that stage's devices.
        limit: bytes that its chip has.
    """

    held: int
    stage: int = -1
    needed: int = 0
    limit: int = 0


@dataclass(frozen=True, slots=True)
class StageTime:
    """One stage of a mix.

    Attributes:
        chip: name.
        chunks: layers of each of its chunks (one, if the schedule is not interleaved).
        seconds: that it works on one micro batch, forward and backward.
        memory_bytes: needed on each of its devices.
        memory_limit: bytes that its chip has; None = unknown.
    """

    chip: str
    chunks: tuple[int, ...]
    seconds: float
    memory_bytes: int
    memory_limit: int | None

    @property
    def layers(self) -> int:
        """All its layers."""
        return sum(self.chunks)


@dataclass(frozen=True, slots=True)
class MixedStepTime(StepTime):
    """A predicted step of a mix; memory is that of the stage that is nearest to its limit.

    Attributes:
        stages: first to last.
        slowest: index of the stage that the others wait for.
    """

    stages: tuple[StageTime, ...] = ()
    slowest: int = 0


class Pace(NamedTuple):
    """Seconds of one micro batch on a stage's chip and links: of one layer, of the embedding, of the output layer."""

    layer: Cost
    first: Cost
    last: Cost


def balance(
    stages: Sequence[Stage], model: ModelShape, parallelism: Parallelism
) -> tuple[tuple[int, ...], ...] | Shortage:
    """Layers per stage and chunk, or why the stages can't hold them.

    Raises:
        ChipError: a figure of a chip is missing.
        ModelError: the model can't be cut like that, or not into as many stages; names the field.
    """
    _check(stages, model, parallelism)
    chunks = parallelism.interleave
    chips = {id(stage.chip): stage.chip for stage in stages}
    bounds = {key: _most_per_chunk(chip, model, parallelism) for key, chip in chips.items()}
    most = [bounds[id(stage.chip)][index] for index, stage in enumerate(stages)]
    if 0 in most:
        index = most.index(0)
        needed = round(stage_memory(stages[index].chip, model, parallelism, index, chunks).total)
        held = min(sum(most) * chunks, model.layers)
        return Shortage(held, index, needed, stages[index].chip.memory_bytes or 0)
    if sum(most) * chunks < model.layers:
        return Shortage(sum(most) * chunks)
    paces = _paces(stages, model, parallelism)
    seconds = [float(one.layer.seconds) for one in paces]
    fixed = [0.0] * len(seconds)
    fixed[0] = float(paces[0].first.seconds)
    fixed[-1] = float(paces[-1].last.seconds)
    shared = share_out(model.layers, seconds, fixed, chunks, [count * chunks for count in most])
    # A stage's chunks are as equal as can be, the first ones larger.
    return tuple(tuple((layers + chunks - 1 - chunk) // chunks for chunk in range(chunks)) for layers in shared)


def share_out(
    total: int, seconds: Sequence[float], fixed: Sequence[float], least: int, most: Sequence[int]
) -> list[int]:
    """Whole shares, at least `least` and at most `most` each, so that all take as nearly as can be as long.

    The exact shares q solve q x seconds + fixed = the same time for all that are not at a bound. Each gets the whole
    part of its own, and what is left goes to the largest remainders; of equal ones, to the first.

    Args:
        total: to share out; between the sum of all `least` and of all `most`.
        seconds: per unit.
        fixed: seconds beside the units.
        least: lower bound of each, at least 1.
        most: upper bounds.
    """
    count = len(seconds)
    exact: list[float] = [0.0] * count
    bound: dict[int, int] = {}
    while len(bound) < count:
        free = [i for i in range(count) if i not in bound]
        rate = sum(1 / seconds[i] for i in free)
        time = (total - sum(bound.values()) + sum(fixed[i] / seconds[i] for i in free)) / rate
        for i in free:
            exact[i] = round((time - fixed[i]) / seconds[i], _DIGITS)
        low = [i for i in free if exact[i] < least]
        high = [i for i in free if exact[i] > most[i]]
        if not low and not high:
            break
        # Whichever bound moves more decides: only it is sure to stay one.
        if sum(least - exact[i] for i in low) >= sum(exact[i] - most[i] for i in high):
            bound.update(dict.fromkeys(low, least))
        else:
            bound.update((i, most[i]) for i in high)
    for i, value in bound.items():
        exact[i] = value
    shares = [max(least, min(most[i], math.floor(exact[i]))) for i in range(count)]
    order = sorted(range(count), key=lambda i: (shares[i] - exact[i], i))
    left = total - sum(shares)
    while left > 0:
        for i in order:
            if left and shares[i] < most[i]:
                shares[i] += 1
                left -= 1
    return shares


def predict_mixed(
    stages: Sequence[Stage],
    model: ModelShape,
    parallelism: Parallelism,
    borders: Links,
    storage: Storage = _NO_STORAGE,
    layers: Sequence[Sequence[int]] | None = None,
) -> MixedStepTime | Shortage:
    """The step time of a job whose pipeline stages run on these chips and links.

    Args:
        stages: one per pipeline stage, first to last.
        model: what is trained.
        parallelism: how it is cut.
        borders: the slowest pair of neighbouring ranks of two neighbouring stages.
        storage: what the job reads and writes.
        layers: per stage, layers of each chunk; None = by `balance`.

    Returns:
        The prediction; a `Shortage` where the stages' memory can't hold the layers.

    Raises:
        ChipError: a figure of a chip is missing.
        ModelError: the model can't be cut like that; names the field.
    """
    shared = balance(stages, model, parallelism) if layers is None else tuple(tuple(chunks) for chunks in layers)
    if isinstance(shared, Shortage):
        return shared
    _check(stages, model, parallelism)
    return _mixed(tuple(stages), model, parallelism, borders, storage, shared)


@lru_cache(maxsize=4096)
def pace(chip: Chip, model: ModelShape, parallelism: Parallelism, wiring: Wiring) -> Pace:
    """How fast a stage on this chip and these links is.

    Raises:
        ChipError: a figure of the chip is missing.
    """
    cuts = cuts_of(parallelism)
    return Pace(layer_cost(chip, model, cuts, wiring), *end_costs(chip, model, cuts, wiring))


@lru_cache(maxsize=4096)
def stage_memory(chip: Chip, model: ModelShape, parallelism: Parallelism, stage: int, layers: int) -> Memory:
    """Bytes needed on each device of a stage (0 = the first) with so many layers.

    Later stages hold fewer micro batches at once, and only the first and the last hold the token table.
    """
    cuts = cuts_of(parallelism)
    weights = stage_weights(model, cuts, layers, edge=stage in (0, parallelism.pipeline - 1))
    memory = memory_of_stage(chip, model, cuts, weights, layers * in_flight(cuts, stage))
    return Memory(*(float(part) for part in memory))


def _check(stages: Sequence[Stage], model: ModelShape, parallelism: Parallelism) -> None:
    if len(stages) != parallelism.pipeline or parallelism.pipeline < 2:
        raise ModelError(
            f"{len(stages)} stages for a pipeline of {parallelism.pipeline}; a mix needs at least 2, one each",
            field="parallelism.pipeline",
        )
    check_stages(model, parallelism)


def check_stages(model: ModelShape, parallelism: Parallelism) -> None:
    """Refuse a cut that leaves a stage or a chunk without a layer, or that the model does not allow.

    Raises:
        ModelError: names the field.
    """
    check(model, parallelism)
    if model.layers < parallelism.pipeline * parallelism.interleave:
        raise ModelError(
            f"{model.layers} layers can't give each of {parallelism.pipeline} stages x {parallelism.interleave} chunks "
            "one",
            field="parallelism.interleave" if parallelism.interleave > 1 else "parallelism.pipeline",
        )


def _paces(stages: Sequence[Stage], model: ModelShape, parallelism: Parallelism) -> list[Pace]:
    """`pace` of each stage; equal stages are often the same object."""
    known: dict[int, Pace] = {}
    for stage in stages:
        if id(stage) not in known:
            known[id(stage)] = pace(stage.chip, model, parallelism, stage.wiring)
    return [known[id(stage)] for stage in stages]


@lru_cache(maxsize=1024)
def _most_per_chunk(chip: Chip, model: ModelShape, parallelism: Parallelism) -> tuple[int, ...]:
    """Most layers per chunk that the memory of each stage's devices would hold on this chip; 0 = not even one."""
    return tuple(_most_on(chip, model, parallelism, stage) for stage in range(parallelism.pipeline))


def _most_on(chip: Chip, model: ModelShape, parallelism: Parallelism, stage: int) -> int:
    if chip.memory_bytes is None:
        return model.layers
    chunks = parallelism.interleave
    one, two = (stage_memory(chip, model, parallelism, stage, n * chunks).total for n in (1, 2))
    if one > chip.memory_bytes:
        return 0
    most = min(model.layers, 1 + int((chip.memory_bytes - one) / max(two - one, 1)))
    while most > 1 and stage_memory(chip, model, parallelism, stage, most * chunks).total > chip.memory_bytes:
        most -= 1
    return most


def _mixed(
    stages: tuple[Stage, ...],
    model: ModelShape,
    cut: Parallelism,
    borders: Links,
    storage: Storage,
    layers: tuple[tuple[int, ...], ...],
) -> MixedStepTime:
    cuts, chunks, micro = cuts_of(cut), cut.interleave, cut.micro_batches
    counts = [sum(per_chunk) for per_chunk in layers]
    end = len(stages) - 1
    paces = _paces(stages, model, cut)
    ends = [paces[0].first, *(Cost(0.0) for _ in paces[1:-1]), paces[-1].last]
    inside = [float(one.layer.seconds) * count for one, count in zip(paces, counts, strict=True)]
    whole = [layers_of_it + float(one.seconds) for layers_of_it, one in zip(inside, ends, strict=True)]
    slowest = max(range(len(stages)), key=lambda index: (whole[index], -index))
    shares = [
        shared_seconds(model, cuts, replace(s.wiring, pipeline=borders), n) for s, n in zip(stages, counts, strict=True)
    ]
    others = sum(float(one.seconds) for i, one in enumerate(ends) if i != slowest)
    waits = 2 * (micro * chunks + end) * float(send_seconds(model, cuts, replace(stages[0].wiring, pipeline=borders)))
    spent = paces[slowest].layer.times(counts[slowest]).plus(ends[slowest])
    kinds = {(id(stage), counts[i], (i == 0) - (i == end)): i for i, stage in enumerate(stages)}
    data, optimizer = max(
        _update(
            stages[i], model, cut, counts[i], edge=i in (0, end), spent=paces[i].layer.times(counts[i]).plus(ends[i])
        )
        for i in kinds.values()
    )[1:]
    parts = Parts(
        compute=micro * spent.compute,
        tensor=micro * spent.tensor + max(float(rows) for rows, _ in shares),
        context=micro * spent.context,
        # A micro batch passes the other stages once.
        pipeline=(sum(inside) - inside[slowest]) / chunks + others + waits + float(shares[0][1]),
        data=data,
        expert=micro * spent.expert,
        optimizer=optimizer,
    )
    seconds = float(sum(getattr(parts, name) for name in Parts.__slots__))
    wait = float(storage.wait(model, cut.batch, seconds))
    seconds += wait
    needs = [stage_memory(s.chip, model, cut, index, counts[index]) for index, s in enumerate(stages)]
    found = tuple(
        StageTime(stage.chip.name, layers[i], whole[i], round(needs[i].total), stage.chip.memory_bytes)
        for i, stage in enumerate(stages)
    )
    fullest = max(range(len(found)), key=lambda i: found[i].memory_bytes / (found[i].memory_limit or math.inf))
    families = {stage.chip.name: family_of(stage.chip.name) for stage in stages}
    peak = sum(stage.chip.peak_flops(model.dtype) for stage in stages) * (cut.devices // len(stages))
    notes = [
        note if len(families) == 1 else f"{name}: {note}" for name, one in families.items() for note in notes_of(one)
    ]
    return MixedStepTime(
        seconds=seconds,
        parts=replace(parts, storage=wait),
        memory_bytes=found[fullest].memory_bytes,
        memory=needs[fullest],
        memory_limit=found[fullest].memory_limit,
        fits=all(one.memory_limit is None or one.memory_bytes <= one.memory_limit for one in found),
        mfu=flops_per_step(model, cut.batch) / (seconds * peak),
        calibrated=all(one.calibrated for one in families.values()),
        notes=tuple(notes),
        stages=found,
        slowest=slowest,
    )


def _update(
    stage: Stage, model: ModelShape, cut: Parallelism, layers: int, *, edge: bool, spent: Cost
) -> tuple[float, float, float]:
    """Seconds after the last micro batch: all, of these the gradients that nothing hides, and the update of weights.

    `spent`: of one micro batch.
    """
    cuts = cuts_of(cut)
    weights = stage_weights(model, cuts, layers, edge=edge)
    data = float(data_seconds(model, cuts, stage.wiring, weights, layers))
    # As in `predict`: behind the last micro batch, and with chunks also behind those of other chunks.
    window = (spent.compute - spent.hidden) * min(cut.micro_batches, 1 + cut.pipeline * (1 - 1 / cut.interleave))
    data -= min(data * family_of(stage.chip.name).overlap * float(early_share(cuts, weights)), window)
    optimizer = float(optimizer_seconds(stage.chip, model, cuts, weights))
    return data + optimizer, data, optimizer
