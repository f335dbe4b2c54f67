"""Reading objects: what a user writes becomes a frozen model; what is wrong becomes an InputError with the field."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.builders.manifests import MODEL, Json, a_group, a_job, a_pool

from supernode.api import group_from, job_from, model_from, pool_from
from supernode.errors import InputError


def test_a_small_job_gets_the_documented_defaults() -> None:
    job = job_from(a_job())
    assert job.key == "default/gpt"
    assert (job.spec.mix, job.spec.framework, job.spec.model) == ("None", "None", None)
    assert (job.spec.accelerators, job.spec.data, job.spec.min_count) == (4, 4, 2)
    policy = job.spec.run_policy
    assert (policy.suspend, policy.backoff_limit, policy.clean_pod_policy) == (False, 3, "Running")
    assert policy.ttl_seconds_after_finished is None
    assert job.spec.scheduling.disruption_mode == "All"


def test_the_whole_example_of_the_design_is_read() -> None:
    job = job_from(
        a_job(
            name="gpt-175b",
            workers=64,
            acceleratorsPerWorker=8,
            framework="PyTorch",
            model={**MODEL, "layers": 96, "hiddenSize": 12288, "attentionHeads": 96, "vocabularySize": 51200},
            parallelism={
                "tensor": 8, "pipeline": 8, "data": 8, "microBatchSize": 1, "globalBatchSize": 1536, "interleave": 3,
                "sequenceParallel": True, "recompute": "Selective",
            },
            scheduling={
                "policy": {"gang": {"minCount": 64}},
                "constraints": {
                    "topology": [{"level": "spine", "mode": "Required"}, {"level": "supernode", "mode": "Preferred"}],
                    "slices": [{"level": "supernode", "size": 8}],
                },
                "disruptionMode": "All",
                "priorityClassName": "training-high",
            },
            runPolicy={
                "suspend": False, "backoffLimit": 3, "ttlSecondsAfterFinished": 86400,
                "activeDeadlineSeconds": 604800, "cleanPodPolicy": "Running",
            },
            storage={"dataset": "parastor-a", "checkpoint": {"store": "parastor-a", "everySteps": 500, "sizeGB": 2400}},
        )
    )  # fmt: skip
    assert job.spec.parallelism.interleave == 3
    assert job.spec.scheduling.constraints.slices[0].size == 8
    assert job.spec.storage is not None
    assert job.spec.storage.checkpoint is not None
    assert job.spec.storage.checkpoint.size_gb == 2400
    pool = pool_from(
        a_pool(
            resourceNames=["hygon.com/hcu"],
            interconnect={"bandwidthGBps": 224, "latencyMicroseconds": 2},
            quotas=[{"namespace": "team-a", "guaranteed": 64, "limit": 128}],
        )
    )
    assert pool.spec.interconnect is not None
    assert pool.spec.interconnect.bandwidth_gbps == 224
    group = group_from(
        a_group(
            storage=[{"name": "parastor-a", "level": "spine", "domain": "spine-0", "readGBps": 40, "writeGBps": 20}]
        )
    )
    assert group.spec.storage[0].read_gbps == 40


def test_the_pod_template_passes_through_untouched() -> None:
    template = {
        "metadata": {"labels": {"a": "b"}},
        "spec": {
            "containers": [{"name": "w", "image": "i", "resources": {"limits": {"cpu": 1}}, "weird": [1, {"x": None}]}],
            "tolerations": [{"operator": "Exists"}],
        },
    }
    spec = a_job()
    spec["spec"]["template"] = template
    assert job_from(spec).spec.template.as_dict() == template


def test_null_and_whole_numbers_are_read_as_the_server_reads_them() -> None:
    job = job_from(a_job(workers=2.0, parallelism={"data": None, "tensor": None}, runPolicy={"backoffLimit": None}))
    assert (job.spec.workers, job.spec.parallelism.tensor, job.spec.run_policy.backoff_limit) == (2, 1, 3)
    assert type(job.spec.workers) is int


def test_models_are_frozen() -> None:
    with pytest.raises(ValidationError):
        job_from(a_job()).spec.workers = 3


JOBS: list[tuple[Json, str, str]] = [
    ({"workers": 0}, "spec.workers", "at least 1, found 0"),
    ({"workers": -2}, "spec.workers", "at least 1, found -2"),
    ({"workers": "2"}, "spec.workers", "whole number, found '2'"),
    ({"workers": True}, "spec.workers", "whole number"),
    ({"workers": ...}, "spec.workers", "is required"),
    ({"acceleratorsPerWorker": 65}, "spec.acceleratorsPerWorker", "at most 64"),
    ({"worker": 2}, "spec.worker", "did you mean workers?"),
    ({"parallelism": {"datas": 4}}, "spec.parallelism.datas", "did you mean data?"),
    ({"xyz": 1}, "spec.xyz", "the fields here are pools, mix, workers"),
    ({"pools": []}, "spec.pools", "at least 1"),
    ({"pools": ["a", "a"]}, "spec.pools", "named twice"),
    ({"workers": 2.5}, "spec.workers", "whole number, found 2.5"),
    ({"pools": ["Bad_Name"]}, "spec.pools[0]", "must match"),
    ({"framework": "Torch"}, "spec.framework", "must be one of 'PyTorch'"),
    ({"template": {"spec": {"containers": []}}}, "spec.template.spec.containers", "at least 1"),
    ({"template": ...}, "spec.template", "is required"),
    ({"template": {"spec": {"nodeName": "n"}}}, "spec.template.spec.nodeName", "leave nodeName out"),
    ({"template": {"spec": {"schedulerName": "x"}}}, "spec.template.spec.schedulerName", "leave schedulerName out"),
    (
        {"template": {"spec": {"initContainers": [{"name": "supernode-emulator"}]}}},
        "spec.template.spec.containers",
        "kept for the emulator",
    ),
    ({"template": {"spec": {"restartPolicy": "Sometimes"}}}, "spec.template.spec.restartPolicy", "must be one of"),
    ({"parallelism": {"data": 3}}, "spec.parallelism", "data 3 = 3, but workers 2 x acceleratorsPerWorker 2 = 4"),
    ({"parallelism": {"tensor": 3}}, "spec.parallelism", "= 3 does not divide workers 2 x acceleratorsPerWorker 2 = 4"),
    ({"parallelism": {"tensor": 0}}, "spec.parallelism.tensor", "at least 1, found 0"),
    (
        {"parallelism": {"globalBatchSize": 6}},
        "spec.parallelism.globalBatchSize",
        "6 is not a multiple of microBatchSize 1 x data 4",
    ),
    ({"parallelism": {"interleave": 2}}, "spec.parallelism.interleave", "at least 2 pipeline stages"),
    ({"parallelism": {"expert": 3}}, "spec.parallelism.expert", "must divide data x context"),
    ({"model": {**MODEL, "hiddenSize": 65}}, "spec.model.attentionHeads", "hiddenSize 65 is not a multiple"),
    ({"model": {**MODEL, "kvHeads": 3}}, "spec.model.kvHeads", "attentionHeads 8 can not be shared by kvHeads 3"),
    ({"model": {**MODEL, "expertsPerToken": 2}}, "spec.model.expertsPerToken", "visit 2 of 1 experts"),
    ({"model": {**MODEL, "dtype": "float32"}}, "spec.model.dtype", "must be one of"),
    (
        {"model": {**MODEL, "layers": 1}, "parallelism": {"pipeline": 2}},
        "spec.parallelism.pipeline",
        "layers 1 can not fill",
    ),
    (
        {"model": {**MODEL, "attentionHeads": 1}, "parallelism": {"tensor": 2}},
        "spec.parallelism.tensor",
        "split over tensor 2",
    ),
    ({"mix": "Stages"}, "spec.mix", "at least two pools"),
    (
        {"scheduling": {"policy": {"gang": {"minCount": 3}}}},
        "spec.scheduling.policy.gang.minCount",
        "3 is more than workers 2",
    ),
    (
        {"scheduling": {"constraints": {"slices": [{"level": "supernode", "size": 3}]}}},
        "spec.scheduling.constraints.slices",
        "workers 2 can not be cut into slices of 3",
    ),
    (
        {
            "workers": 12,
            "scheduling": {"constraints": {"slices": [{"level": "a", "size": 4}, {"level": "b", "size": 3}]}},
        },
        "spec.scheduling.constraints.slices",
        "multiple of the next",
    ),
    (
        {"scheduling": {"constraints": {"topology": [{"level": "a"}, {"level": "a"}]}}},
        "spec.scheduling.constraints.topology",
        "named twice",
    ),
    ({"runPolicy": {"backoffLimit": -1}}, "spec.runPolicy.backoffLimit", "at least 0"),
    (
        {"storage": {"checkpoint": {"store": "s", "everySteps": 1, "sizeGB": 0}}},
        "spec.storage.checkpoint.sizeGB",
        "more than 0",
    ),
]


@pytest.mark.parametrize(
    ("changes", "field", "message"), JOBS, ids=[f"{field}-{i}" for i, (_, field, _) in enumerate(JOBS)]
)
def test_a_wrong_job_names_the_field(changes: Json, field: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        job_from(a_job(**changes))
    assert caught.value.field == field
    assert message in caught.value.message
    assert caught.value.obj == "TrainingJob default/gpt"


@pytest.mark.parametrize(
    ("name", "workers"), [("3gpt", 2), ("a.b", 2), ("Gpt", 2), ("-a", 2), ("a" * 55, 2), ("a" * 51, 10_001), ("", 1)]
)
def test_a_name_must_leave_room_for_the_pods(name: str, workers: int) -> None:
    with pytest.raises(InputError) as caught:
        job_from(a_job(name=name, workers=workers))
    assert caught.value.field == "metadata.name"
    job_from(a_job(name="a" * 54, workers=10))


POOLS: list[tuple[Json, str, str]] = [
    ({"chip": ...}, "spec.chip", "exactly one"),
    ({"chipSpec": {"name": "x"}}, "spec.chip", "exactly one"),
    ({"devicesPerNode": ...}, "spec.devicesPerNode", "needs devicesPerNode"),
    ({"mode": "Hardware"}, "spec.devicesPerNode", "leave it out"),
    ({"devicesPerNode": 65}, "spec.devicesPerNode", "at most 64"),
    ({"nodeSelector": ...}, "spec.nodeSelector", "is required"),
    ({"resourceNames": ["not a name"]}, "spec.resourceNames[0]", "must match"),
    ({"resourceNames": ["a.b/c", "a.b/c"]}, "spec.resourceNames", "named twice"),
    ({"resourceNames": ["cpu"]}, "spec.resourceNames", "extended resources"),
    ({"resourceNames": ["kubernetes.io/x"]}, "spec.resourceNames", "extended resources"),
    ({"resourceNames": ["requests.a.b/c"]}, "spec.resourceNames", "extended resources"),
    ({"chip": ..., "chipSpec": {"name": "x", "resourceNames": ["cpu"]}}, "spec.chipSpec.resourceNames", "extended"),
    ({"interconnect": {"bandwidthGBps": 0}}, "spec.interconnect.bandwidthGBps", "more than 0"),
    ({"interconnect": {"bandwidthGBps": float("nan")}}, "spec.interconnect.bandwidthGBps", "finite"),
    (
        {"quotas": [{"namespace": "a", "guaranteed": 2, "limit": 1}]},
        "spec.quotas[0].limit",
        "limit 1 is below guaranteed 2",
    ),
    ({"quotas": [{"namespace": "a"}, {"namespace": "a"}]}, "spec.quotas", "one quota only"),
    ({"chip": ..., "chipSpec": {"name": "x", "tflops": {"float": 1}}}, "spec.chipSpec.tflops.float", "unknown field"),
]


@pytest.mark.parametrize(
    ("changes", "field", "message"), POOLS, ids=[f"{field}-{i}" for i, (_, field, _) in enumerate(POOLS)]
)
def test_a_wrong_pool_names_the_field(changes: Json, field: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        pool_from(a_pool(**changes))
    assert (caught.value.field, caught.value.obj) == (field, "AcceleratorPool dcu-bw1000")
    assert message in caught.value.message


def _level(**changes: Any) -> Json:
    return {"name": "spine", "nodeLabel": "l/spine", "bandwidthGBps": 1, "latencyMicroseconds": 1, **changes}


GROUPS: list[tuple[Json, str, str]] = [
    ({"levels": []}, "spec.levels", "at least 1"),
    ({"levels": [_level(), _level(nodeLabel="l/x")]}, "spec.levels", "same name"),
    ({"levels": [_level(), _level(name="leaf")]}, "spec.levels", "same nodeLabel"),
    ({"levels": [_level(name="node")]}, "spec.levels", "implied as the innermost"),
    ({"levels": [_level(bandwidthGBps=-1)]}, "spec.levels[0].bandwidthGBps", "more than 0"),
    ({"levels": [_level(latencyMicroseconds=-1)]}, "spec.levels[0].latencyMicroseconds", "at least 0"),
    ({"levels": [_level(name=f"l{i}", nodeLabel=f"l/{i}") for i in range(9)]}, "spec.levels", "at most 8"),
    (
        {"storage": [{"name": "s", "level": "leaf", "domain": "d", "readGBps": 1, "writeGBps": 1}]},
        "spec.storage",
        "one of the group's levels",
    ),
]


@pytest.mark.parametrize(
    ("changes", "field", "message"), GROUPS, ids=[f"{field}-{i}" for i, (_, field, _) in enumerate(GROUPS)]
)
def test_a_wrong_group_names_the_field(changes: Json, field: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        group_from(a_group(**changes))
    assert caught.value.field == field
    assert message in caught.value.message


def test_kinds_and_versions_are_checked() -> None:
    assert model_from(a_pool()).kind == "AcceleratorPool"
    assert model_from(a_group()).kind == "SuperNodeGroup"
    assert model_from(a_job()).kind == "TrainingJob"
    with pytest.raises(InputError, match="found 'Pod'"):
        model_from({"kind": "Pod"})
    with pytest.raises(InputError, match=r"found 'supernode\.dev/v2'"):
        job_from({**a_job(), "apiVersion": "supernode.dev/v2"})
    with pytest.raises(InputError, match="must be TrainingJob, found 'AcceleratorPool'"):
        job_from(a_pool())


def test_several_faults_are_counted() -> None:
    with pytest.raises(InputError, match="and 1 more"):
        job_from(a_job(workers=0, acceleratorsPerWorker=0))


def test_what_a_newer_operator_wrote_into_the_status_is_read() -> None:
    status = {"state": "Running", "fromTheFuture": 1, "workers": {"desired": 2}, "conditions": []}
    job = job_from({**a_job(), "status": status})
    assert job.status is not None
    assert (job.status.state, job.status.workers and job.status.workers.desired) == ("Running", 2)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["pools", "workers", "model", "parallelism", "scheduling", "runPolicy", "storage", "template", "mix"]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3))
def test_whatever_a_field_holds_the_answer_is_a_model_or_an_input_error(changes: Json) -> None:
    job = a_job()
    job["spec"].update(changes)
    try:
        job_from(job)
    except InputError as exc:
        assert exc.field.startswith(("spec", "metadata"))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(JSON)
def test_whatever_the_spec_is_the_answer_is_a_model_or_an_input_error(spec: Any) -> None:
    for read, obj in ((job_from, a_job()), (pool_from, a_pool()), (group_from, a_group())):
        obj["spec"] = spec
        with pytest.raises(InputError):
            read(obj)
