"""The MFU that a status tells follows what the worker has counted, not what the job has declared."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders.manifests import MODEL, a_job, a_pool
from tests.builders.placements import placed_on

from supernode.api.read import job_from, pool_from
from supernode.chips import find_chip
from supernode.cluster import translate
from supernode.cluster.cache import Store
from supernode.cluster.kinds import Json
from supernode.cluster.observe import Observer, Stores
from supernode.handlers.asking import RANKS_OF_ALL, Gang, Target, gang_of, in_turn, targets
from supernode.handlers.progress import Reports, tells_only, utilisation
from supernode.names import API_VERSION, LABEL_ATTEMPT, LABEL_JOB, LABEL_JOB_UID
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
    workers = [{"node": f"n{rank}", "pool": "dcu", "devices": [0]} for rank in range(2)]
    obj = {"metadata": {"uid": "u"}, "status": {"placement": {"attempt": 0, "pool": "dcu", **placed_on(workers)}}}
    report = {"step": 10, "stepSeconds": 0.5}
    if tokens is not None:
        report["tokens"] = 10 * tokens * shape.sequence_length
    reports = Reports()
    reports.put("u", 0, report)
    _, mfu = reports.latest(obj, job, observer)
    assert mfu is not None
    peak = 2 * find_chip("hygon-bw1000").peak_flops(shape.dtype)
    assert mfu == pytest.approx(flops_per_step(shape, tokens or 2) / (0.5 * peak), rel=5e-3)
    # A printer column shows all digits that there are.
    assert len(f"{mfu:.9g}".partition("e")[0].strip("0.").replace(".", "")) <= 3


@pytest.mark.parametrize(("batch", "samples"), [(None, 3), (12, 12)])
def test_a_shrunken_gang_is_measured_by_the_batch_that_it_trains(
    observer: Observer, batch: int | None, samples: int
) -> None:
    """Three of four workers are left: a replica each with a micro batch of one, or the whole of a fixed batch."""
    cut = {"microBatchSize": 1} | ({} if batch is None else {"globalBatchSize": batch})
    elastic = {"policy": {"gang": {"minCount": 2}}}
    job = job_from(
        a_job(
            "gpt", pools=["dcu"], workers=4, acceleratorsPerWorker=1, model=MODEL, parallelism=cut, scheduling=elastic
        )
    )
    shape = translate.model_shape(job.spec)
    assert isinstance(shape, ModelShape)
    placed = placed_on([{"node": f"n{rank}", "pool": "dcu", "devices": [0]} for rank in range(3)])
    peak = 3 * find_chip("hygon-bw1000").peak_flops(shape.dtype)
    found = utilisation(job, 0.5, observer, placed)
    assert found == pytest.approx(samples * flops_per_step(shape, 1) / (0.5 * peak))


def test_the_time_left_goes_by_the_wall_clock_of_this_attempt() -> None:
    reports = Reports()
    obj = {"metadata": {"uid": "u"}, "status": {"placement": {"attempt": 1, "assignment": []}}}
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
    turns = -(-count // most) + 1
    asked = [in_turn(range(count), turn, most) for turn in range(start, start + turns)]
    assert all(len(each) == min(count, most) and len(set(each)) == len(each) for each in asked)
    assert {rank for each in asked for rank in each} == set(range(count))


def pods_of(gang: Gang, address: str = "10.0.0.1") -> list[Json]:
    namespace, name = gang.job
    owner = {"apiVersion": API_VERSION, "kind": "TrainingJob", "name": name, "uid": gang.uid, "controller": True}
    return [
        {
            "metadata": {
                "name": f"{name}-worker-{rank}",
                "namespace": namespace,
                "uid": f"{gang.uid}-{rank}",
                "labels": {LABEL_JOB: name, LABEL_JOB_UID: gang.uid, LABEL_ATTEMPT: str(gang.attempt)},
                "ownerReferences": [owner],
            },
            "status": {"podIP": address},
        }
        for rank in range(gang.workers)
    ]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(0, 20))
def test_rank_0_is_always_asked_and_of_the_others_no_more_than_is_cheap(sizes: list[int], start: int) -> None:
    gangs = [Gang(("team", f"job{index}"), f"u{index}", 0, workers) for index, workers in enumerate(sizes)]
    store = Store()
    for gang in gangs:
        for pod in pods_of(gang):
            store.offer(pod)
    turns = -(-sum(sizes) // RANKS_OF_ALL) + max(sizes)
    seen: set[Target] = set()
    for turn in range(start, start + turns):
        asked = targets(gangs, store, turn)
        assert len(set(asked)) == len(asked) <= len(gangs) + RANKS_OF_ALL
        assert {target.uid for target in asked if target.rank == 0} == {gang.uid for gang in gangs}
        seen |= set(asked)
    assert {(target.uid, target.rank) for target in seen} == {
        (gang.uid, rank) for gang in gangs for rank in range(gang.workers)
    }


def test_strangers_and_pods_of_other_attempts_are_not_asked() -> None:
    gang, store = Gang(("team", "job"), "u", 1, 4), Store()
    good, early, strange, silent = pods_of(gang)
    early["metadata"]["labels"][LABEL_ATTEMPT] = "0"
    strange["metadata"]["labels"][LABEL_JOB_UID] = "other"
    silent["status"] = {}
    for pod in (good, early, strange, silent):
        store.offer(pod)
    assert [target.rank for target in targets([gang], store, 0)] == [0]


def test_only_jobs_that_run_on_emulated_devices_are_asked(observer: Observer) -> None:
    placement = {"attempt": 2, "pool": "dcu", "assignment": [{"pool": "dcu", "nodes": ["a", "b"], "devices": ["0"]}]}
    obj = {"metadata": {"uid": "u"}, "status": {"state": "Running", "placement": placement}}
    specs = {"dcu": replace(observer.view.specs["dcu"], emulated=True)}
    assert gang_of(("n", "j"), obj, specs) == Gang(("n", "j"), "u", 2, 2)
    assert gang_of(("n", "j"), {**obj, "status": {"state": "Starting", "placement": placement}}, specs) is None
    assert gang_of(("n", "j"), {**obj, "status": {"state": "Running"}}, specs) is None
    assert gang_of(("n", "j"), obj, {}) is None
    assert gang_of(("n", "j"), obj, {"dcu": replace(specs["dcu"], emulated=False)}) is None


def test_what_only_tells_of_progress_is_no_reason_to_look_again() -> None:
    def version(number: str, generation: int = 1, **status: object) -> Json:
        metadata = {"name": "j", "uid": "u", "resourceVersion": number, "generation": generation}
        return {"metadata": metadata, "status": {"state": "Running", **status}}

    old = version("1", progress={"step": 1})
    assert tells_only(old, version("2", progress={"step": 2}, mfu=0.4, goodput={"share": 1}))
    assert not tells_only(old, version("2", generation=2, progress={"step": 1}))
    assert not tells_only(old, version("2", state="Restarting"))
    saved = {"step": 1, "checkpointAt": "2026-01-01T00:00:00Z"}
    assert not tells_only(old, version("2", progress=saved)), "it ends the wait of a gang that is to stop"
    assert not tells_only(old, version("2", checkpoint={"step": 2}))
    gone = version("2")
    gone["metadata"]["deletionTimestamp"] = "2026-11-22T00:00:00Z"
    assert not tells_only(old, gone)
