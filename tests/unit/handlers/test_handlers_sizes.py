"""Which sizes a gang may have: those that can really be asked for, each and no other."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders.manifests import MODEL, a_job, merged

from supernode.api.job import TrainingJobSpec
from supernode.api.read import job_from
from supernode.cluster import translate
from supernode.errors import InputError
from supernode.handlers.sizes import sized, sizes_of


def a_spec(workers: int, fewest: int, **more: object) -> TrainingJobSpec:
    changes = {"workers": workers, "scheduling": {"policy": {"gang": {"minCount": fewest}}}, **more}
    return job_from({**a_job(), "spec": merged(a_job()["spec"], changes)}).spec


def test_a_gang_that_needs_all_has_one_size() -> None:
    assert sizes_of(a_spec(4, 4)) == (4,)
    assert sizes_of(a_spec(4, 2, acceleratorsPerWorker=2, parallelism={"data": 8})) == (4,)


def test_whole_replicas_and_slices_come_and_go() -> None:
    assert sizes_of(a_spec(8, 3)) == (8, 7, 6, 5, 4, 3)
    slices = {"policy": {"gang": {"minCount": 2}}, "constraints": {"slices": [{"level": "node", "size": 4}]}}
    assert sizes_of(a_spec(8, 2, scheduling=slices)) == (8, 4)
    # Two workers of two hold one replica of four; the batch is cut over 4, 2 or 1 of them, not over 3.
    cut = {"tensor": 4, "globalBatchSize": 4}
    assert sizes_of(a_spec(8, 1, acceleratorsPerWorker=2, parallelism=cut)) == (8, 4, 2)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([None, 4, 8, 12]),
    st.booleans(),
)
def test_every_size_can_be_asked_for_and_no_other(
    workers: int, fewest: int, devices: int, tensor: int, batch: int | None, model: bool
) -> None:
    cut = {"tensor": tensor} if batch is None else {"tensor": tensor, "globalBatchSize": batch}
    given_model = {"model": {**MODEL, "attentionHeads": 8, "hiddenSize": 64}} if model else {}
    try:
        more = {"acceleratorsPerWorker": devices, "parallelism": cut, **given_model}
        obj = a_job()
        policy = {"policy": {"gang": {"minCount": min(fewest, workers)}}}
        changes = {"workers": workers, "scheduling": policy, **more}
        job = job_from({**obj, "spec": merged(obj["spec"], changes)})
    except InputError:
        return
    demand = translate.demand(job, obj["spec"]["template"], {})
    found = sizes_of(job.spec)
    assert found[0] == workers
    for size in range(min(fewest, workers), workers + 1):
        try:
            sized(demand, size)
            possible = True
        except InputError:
            possible = False
        assert (size in found) == possible
