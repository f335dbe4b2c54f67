"""Quotas in effective compute: never exceeded, whoever comes and goes; a model that is left out gains nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders.manifests import MODEL, a_job, a_pool

from supernode.api.read import job_from, pool_from
from supernode.chips import find_chip
from supernode.cluster import translate
from supernode.cluster.cache import Store
from supernode.cluster.observe import Observer, Stores
from supernode.errors import InputError
from supernode.handlers.jobstatus import Wait
from supernode.handlers.quotas import ComputeQuotas, in_turn, promised
from supernode.handlers.reading import Readings
from supernode.handlers.waiting import Candidate
from supernode.scheduling.demand import GangDemand

PEAK = find_chip("hygon-bw1000").peak_flops("bf16") / 1e12


def a_context(limit: float | None) -> Any:
    """One pool in which namespace team-a has a limit."""
    observer = Observer(Stores(Store(), Store(), Store(), Store(), Store()))
    quotas = [] if limit is None else [{"namespace": "team-a", "limitTFLOPS": limit}]
    pool = pool_from(a_pool("dcu", chip="hygon-bw1000", quotas=quotas))
    observer.view.pools["dcu"], observer.view.specs["dcu"] = pool, translate.pool_spec(pool)
    return SimpleNamespace(observer=observer, stores=observer._stores)


def a_candidate(name: str, devices: int, namespace: str = "team-a", created: float = 0.0, **spec: Any) -> Candidate:
    demand = GangDemand(f"{namespace}/{name}", ("dcu",), workers=1, devices=devices, created=created)
    job = job_from(a_job(name, pools=["dcu"], workers=1, acceleratorsPerWorker=devices, **spec))
    return Candidate((namespace, name), f"uid-{name}", 1, 0, demand, job, None, {})  # type: ignore[arg-type]


def a_placement(devices: int, seconds: float | None = None) -> dict[str, Any]:
    workers = [{"rank": 0, "node": "n", "pool": "dcu", "devices": list(range(devices))}]
    return {"pool": "dcu", "workers": workers, **({} if seconds is None else {"predictedStepSeconds": seconds})}


def test_a_gang_counts_with_what_its_place_promises_and_without_a_model_with_the_peak() -> None:
    context = a_context(None)
    assert promised(context, None, a_placement(4)) == {"dcu": pytest.approx(4 * PEAK)}
    job = job_from(a_job("gpt", pools=["dcu"], workers=1, acceleratorsPerWorker=4, model=MODEL))
    fast, slow = (promised(context, job, a_placement(4, seconds))["dcu"] for seconds in (1.0, 2.0))
    assert fast == pytest.approx(2 * slow)
    assert promised(context, job, a_placement(4))["dcu"] == pytest.approx(4 * PEAK), "a step that nobody can predict"


@given(
    st.floats(1, 20),
    st.lists(st.tuples(st.integers(1, 8), st.booleans(), st.sampled_from(["team-a", "team-b"])), max_size=30),
)
def test_the_limit_is_never_exceeded_and_others_do_not_mind(
    devices: float, wishes: list[tuple[int, bool, str]]
) -> None:
    quotas = ComputeQuotas(a_context(devices * PEAK), None)  # type: ignore[arg-type]
    held = {("dcu", "team-a"): 0.0}
    running: list[int] = []
    for index, (size, one_ends, namespace) in enumerate(wishes):
        if one_ends and running:
            held["dcu", "team-a"] -= running.pop(0) * PEAK
        candidate = a_candidate(f"job-{index}", size, namespace)
        refused = quotas.refusal(candidate, candidate.demand, a_placement(size), held)
        fits = namespace != "team-a" or (sum(running) + size) * PEAK <= devices * PEAK * (1 + 1e-9)
        if namespace == "team-a" and refused is None:
            running.append(size)
        assert sum(running) <= devices * (1 + 1e-9)
        assert fits or refused is not None
        if refused is not None:
            assert refused.code == ("ExceedsMaxQuota" if size * PEAK > devices * PEAK else "WaitingForQuota")
            # From then on it is not even asked for a place there, until there is room.
            assert isinstance(quotas.narrowed(candidate, candidate.demand, held), Wait)
            assert quotas.take_refused()
            if size <= devices:
                assert quotas.narrowed(candidate, candidate.demand, {}) is candidate.demand


def test_who_waits_is_told_whose_turn_it_is() -> None:
    young, old = a_candidate("young", 2, created=9.0), a_candidate("old", 2, created=1.0)
    wait = Wait("WaitingForQuota", "it waits")
    said = {candidate.key[1]: told.sentence for candidate, told in in_turn([(young, wait), (old, wait)])}
    assert said["old"].endswith("it is the next, place 1 of 2 in the queue")
    assert "it is the turn of team-a/old, place 2 of 2" in said["young"]


@pytest.mark.parametrize("limit", [0, -1, float("inf")])
def test_a_limit_is_a_positive_number(limit: float) -> None:
    with pytest.raises(InputError, match="limitTFLOPS"):
        pool_from(a_pool("dcu", quotas=[{"namespace": "team-a", "limitTFLOPS": limit}]))


def test_nothing_is_remembered_of_jobs_that_are_gone() -> None:
    context = a_context(1.0)
    quotas = ComputeQuotas(context, Readings(context))
    # Of one with a model only its place tells how much it counts.
    candidate = a_candidate("big", 8, model=MODEL)
    assert quotas.narrowed(candidate, candidate.demand, {}) is candidate.demand
    assert quotas.refusal(candidate, candidate.demand, a_placement(8, 0.001), {}) is not None
    assert isinstance(quotas.narrowed(candidate, candidate.demand, {}), Wait)
    quotas.prune(set())
    assert quotas.narrowed(candidate, candidate.demand, {}) is candidate.demand
