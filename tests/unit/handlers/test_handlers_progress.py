"""The MFU that a status tells follows what the worker has counted, not what the job has declared."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders.manifests import MODEL, a_job, a_pool

from supernode.api.read import job_from, pool_from
from supernode.chips import find_chip
from supernode.cluster import translate
from supernode.cluster.cache import Store
from supernode.cluster.observe import Observer, Stores
from supernode.handlers.progress import Reports, in_turn
from supernode.steptime.model import ModelShape, flops_per_step


@pytest.fixture
def observer() -> Observer:
    observer = Observer(Stores(Store(), Store(), Store(), Store(), Store()))
    pool = pool_from(a_pool("dcu", chip="hygon-bw1000"))
    observer.view.specs["dcu"] = translate.pool_spec(pool)
    return observer


@pytest.mark.parametrize("tokens", [None, 0, 1, 4, 7])
def test_tokens_that_were_counted_come_before_the_declared_batch(observer: Observer, tokens: int | None) -> None:
    """The worker reports `tokens` sequences per step; the job declares 2 (None, 0: nothing is counted)."""
    cut = {"globalBatchSize": 2}
    job = job_from(a_job("gpt", pools=["dcu"], workers=2, acceleratorsPerWorker=1, model=MODEL, parallelism=cut))
    shape = translate.model_shape(job.spec)
    assert isinstance(shape, ModelShape)
    workers = [{"rank": rank, "node": f"n{rank}", "pool": "dcu", "devices": [0]} for rank in range(2)]
    obj = {"metadata": {"uid": "u"}, "status": {"placement": {"attempt": 0, "pool": "dcu", "workers": workers}}}
    report = {"step": 10, "stepSeconds": 0.5}
    if tokens is not None:
        report["tokens"] = 10 * tokens * shape.sequence_length
    reports = Reports()
    reports.put("u", 0, report)
    _, mfu = reports.latest(obj, job, observer)
    assert mfu is not None
    peak = 2 * find_chip("hygon-bw1000").peak_flops(shape.dtype)
    assert mfu == pytest.approx(flops_per_step(shape, tokens or 2) / (0.5 * peak), rel=1e-5)


def test_the_time_left_goes_by_the_wall_clock_of_this_attempt() -> None:
    reports = Reports()
    obj = {"metadata": {"uid": "u"}, "status": {"placement": {"attempt": 1, "workers": []}}}
    empty = Observer(Stores(Store(), Store(), Store(), Store(), Store()))
    reports.put("u", 0, {"step": 90, "steps": 100}, 0.0)
    reports.put("u", 1, {"step": 50, "steps": 100}, 100.0)
    assert "remainingSeconds" not in (reports.latest(obj, None, empty)[0] or {}), "one report tells no pace"
    reports.put("u", 1, {"step": 60, "steps": 100}, 130.0)
    assert (reports.latest(obj, None, empty)[0] or {})["remainingSeconds"] == 120
    reports.put("u", 1, {"step": 61}, 133.0)
    assert "remainingSeconds" not in (reports.latest(obj, None, empty)[0] or {}), "nobody knows how many steps"


@given(st.integers(0, 50), st.integers(1, 10), st.integers(0, 30))
def test_every_rank_has_its_turn(count: int, most: int, start: int) -> None:
    targets = [(("n", "j"), "u", 0, rank, "a") for rank in range(count)]
    turns = -(-count // most) + 1
    asked = [in_turn(targets, turn, most) for turn in range(start, start + turns)]
    assert all(len(each) == min(count, most) and len(set(each)) == len(each) for each in asked)
    assert {target for each in asked for target in each} == set(targets)
