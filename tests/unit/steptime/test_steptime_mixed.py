"""Pipelines whose stages differ: how layers are shared out, and what a step takes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernode.chips import Chip, find_chip
from supernode.errors import ModelError
from supernode.steptime.collectives import levels_for
from supernode.steptime.cuts import cuts_of
from supernode.steptime.mixed import MixedStepTime, Shortage, Stage, balance, predict_mixed, share_out
from supernode.steptime.model import ModelShape, Parallelism
from supernode.steptime.predict import Parts, predict
from supernode.steptime.stage import shared_seconds
from supernode.steptime.storage import Storage
from supernode.steptime.wiring import Wiring, regular_wiring, wiring_of

DCU, NPU = find_chip("hygon-bw1000"), find_chip("huawei-ascend-910c")
MODEL = ModelShape(96, 12288, 96, 51200, 2048)
CUT = Parallelism(tensor=8, pipeline=8, data=4, global_batch_size=128, sequence_parallel=True, recompute="Selective")


def a_stage(chip: Chip, cut: Parallelism = CUT) -> Stage:
    """Four nodes of eight devices on one network."""
    levels = levels_for(chip, [("net", 50e9, 10e-6), ("node", 224e9, 2e-6)])
    alone = replace(cut, pipeline=1, interleave=1)
    return Stage(chip, wiring_of(levels, np.stack((np.zeros(4, dtype=int), np.arange(4))), alone, 8))


def whole(chip: Chip, cut: Parallelism) -> Wiring:
    levels = levels_for(chip, [("net", 50e9, 10e-6), ("node", 224e9, 2e-6)])
    return regular_wiring(levels, (cut.devices // 8, 8), cut)


@pytest.mark.parametrize("changes", [{}, {"interleave": 3}, {"zero_stage": 1}, {"recompute": "Full"}])
def test_stages_that_are_all_alike_give_what_predict_gives(changes: dict[str, object]) -> None:
    cut = replace(CUT, **changes)  # type: ignore[arg-type]
    wired = whole(DCU, cut)
    plain = predict(DCU, MODEL, cut, wired)
    mixed = predict_mixed([a_stage(DCU, cut)] * 8, MODEL, cut, wired.pipeline)
    assert isinstance(mixed, MixedStepTime)
    assert [stage.layers for stage in mixed.stages] == [12] * 8
    for name in Parts.__slots__:
        assert getattr(mixed.parts, name) == pytest.approx(getattr(plain.parts, name), rel=1e-9), name
    assert mixed.memory_bytes == pytest.approx(plain.memory_bytes, rel=1e-6)
    assert (mixed.calibrated, mixed.notes, mixed.fits) == (plain.calibrated, plain.notes, plain.fits)
    assert mixed.mfu == pytest.approx(plain.mfu)


def test_the_faster_chip_gets_more_layers_and_the_slowest_stage_counts() -> None:
    stages = [a_stage(DCU)] * 4 + [a_stage(NPU)] * 4
    step = predict_mixed(stages, MODEL, CUT, whole(DCU, CUT).pipeline)
    assert isinstance(step, MixedStepTime)
    layers = [stage.layers for stage in step.stages]
    assert sum(layers) == 96
    seconds = [stage.seconds for stage in step.stages]
    pace = [second / count for second, count in zip(seconds[:7], layers[:7], strict=True)]
    # By largest remainder: nobody is a whole layer away from the share of its speed (the output layer is in the last).
    speed = [1 / value for value in [*pace, pace[-1]]]
    output = seconds[7] - pace[6] * layers[7]
    total = 96 + output / pace[6]
    for index in range(8):
        exact = total * speed[index] / sum(speed) - (output / pace[6] if index == 7 else 0.0)
        assert abs(layers[index] - exact) < 1
    assert step.slowest == max(range(8), key=lambda index: seconds[index])
    steady = 32 * max(seconds)
    assert steady < step.seconds < steady * 1.5
    shared = (shared_seconds(MODEL, cuts_of(CUT), one.wiring, n)[0] for one, n in zip(stages, layers, strict=True))
    rows = max(shared)
    assert step.parts.compute + step.parts.tensor == pytest.approx(steady + rows)
    # By hand-made equal layers the slower chip holds everybody up.
    even = predict_mixed(stages, MODEL, CUT, whole(DCU, CUT).pipeline, layers=[[12]] * 8)
    assert isinstance(even, MixedStepTime)
    assert even.seconds > step.seconds * 1.2
    assert even.slowest < 4


def test_memory_bounds_a_stage_and_decides_whether_there_is_any_way() -> None:
    small = replace(NPU, memory_bytes=52 * 2**30)
    stages = [a_stage(DCU)] * 4 + [a_stage(small)] * 4
    free = balance([a_stage(DCU)] * 4 + [a_stage(NPU)] * 4, MODEL, CUT)
    bound = balance(stages, MODEL, CUT)
    assert isinstance(free, tuple)
    assert isinstance(bound, tuple)
    assert sum(map(sum, bound)) == 96
    assert sum(map(sum, bound[4:])) < sum(map(sum, free[4:]))
    step = predict_mixed(stages, MODEL, CUT, whole(DCU, CUT).pipeline)
    assert isinstance(step, MixedStepTime)
    assert step.fits
    assert all(stage.memory_bytes <= (stage.memory_limit or math.inf) for stage in step.stages)
    # One layer more on the bound stages would not fit.
    more = predict_mixed(
        stages, MODEL, CUT, whole(DCU, CUT).pipeline, layers=[*bound[:4], *((layer + 1,) for (layer,) in bound[4:])]
    )
    assert isinstance(more, MixedStepTime)
    assert not more.fits
    # Layers that others can't take go to those with room, still as equal in time as can be.
    assert max(map(sum, bound[:4])) - min(map(sum, bound[:4])) <= 1
    tiny = replace(NPU, memory_bytes=2 * 2**30)
    none = predict_mixed([a_stage(tiny)] * 8, MODEL, CUT, whole(DCU, CUT).pipeline)
    assert isinstance(none, Shortage)
    assert (none.stage, none.limit) == (0, 2 * 2**30)
    assert none.needed > none.limit
    short = balance([a_stage(replace(DCU, memory_bytes=14 * 2**30))] * 8, MODEL, CUT)
    assert isinstance(short, Shortage)
    assert 0 < short.held < 96


def test_chunks_of_a_stage_are_as_equal_as_can_be() -> None:
    cut = replace(CUT, interleave=3)
    shared = balance([a_stage(DCU, cut)] * 4 + [a_stage(NPU, cut)] * 4, replace(MODEL, layers=97), cut)
    assert isinstance(shared, tuple)
    assert sum(map(sum, shared)) == 97
    for chunks in shared:
        assert len(chunks) == 3
        assert min(chunks) >= 1
        assert max(chunks) - min(chunks) <= 1
        assert list(chunks) == sorted(chunks, reverse=True)


def test_cuts_that_leave_a_stage_empty_are_refused() -> None:
    for model, cut, field in (
        (replace(MODEL, layers=7), CUT, "parallelism.pipeline"),
        (replace(MODEL, layers=23), replace(CUT, interleave=3), "parallelism.interleave"),
        (replace(MODEL, attention_heads=12), replace(CUT, tensor=8), "parallelism.tensor"),
    ):
        with pytest.raises(ModelError) as caught:
            balance([a_stage(DCU, CUT)] * 8, model, cut)
        assert caught.value.field == field
    with pytest.raises(ModelError, match="3 stages for a pipeline of 8"):
        balance([a_stage(DCU)] * 3, MODEL, CUT)


def test_storage_is_waited_for() -> None:
    stages, borders = [a_stage(DCU)] * 8, whole(DCU, CUT).pipeline
    plain = predict_mixed(stages, MODEL, CUT, borders)
    stored = predict_mixed(stages, MODEL, CUT, borders, Storage(write=1e9, every_steps=10, checkpoint_bytes=5e9))
    assert isinstance(plain, MixedStepTime)
    assert isinstance(stored, MixedStepTime)
    assert stored.parts.storage == pytest.approx(0.5)
    assert stored.seconds == pytest.approx(plain.seconds + 0.5)


@given(st.data())
def test_shares(data: st.DataObject) -> None:
    """Whole shares within bounds that sum up; the exact ones are never a unit away where no bound holds."""
    count = data.draw(st.integers(1, 12))
    seconds = data.draw(st.lists(st.floats(0.01, 10), min_size=count, max_size=count))
    fixed = [0.0] * (count - 1) + [data.draw(st.floats(0, 20))]
    most = data.draw(st.lists(st.integers(1, 60), min_size=count, max_size=count))
    least = data.draw(st.integers(1, min(most)))
    total = data.draw(st.integers(least * count, sum(most)))
    shares = share_out(total, seconds, fixed, least, most)
    assert sum(shares) == total
    assert all(least <= share <= bound for share, bound in zip(shares, most, strict=True))
    assert shares == share_out(total, seconds, fixed, least, most)
    # Who has room for one more and would still be done before another one started its last: a unit is misplaced.
    done = [share * second + more for share, second, more in zip(shares, seconds, fixed, strict=True)]
    for giver in range(count):
        for taker in range(count):
            if shares[giver] > least and shares[taker] < most[taker] and giver != taker:
                assert done[taker] + seconds[taker] >= done[giver] - seconds[giver] - 1e-6


def test_equal_shares_go_to_the_first() -> None:
    assert share_out(10, [1.0, 1.0, 1.0, 1.0], [0.0] * 4, 1, [10] * 4) == [3, 3, 2, 2]
    assert share_out(40, [1.0, 1.0, 3.0, 3.0], [0.0] * 4, 1, [40] * 4) == [15, 15, 5, 5]
    assert share_out(40, [1.0, 1.0, 3.0, 3.0], [0.0] * 4, 1, [10, 40, 40, 40]) == [10, 18, 6, 6]
    assert share_out(8, [1.0, 1.0], [0.0, 100.0], 2, [8, 8]) == [6, 2]
