"""A gang over several pools on its way into the cluster: status, claims, pods and their variables, and back."""

from __future__ import annotations

import json

import pytest
from tests.builders.placements import workers_in

from supernode.api.read import job_from, pool_from
from supernode.cluster import manifests, translate
from supernode.cluster.kinds import Json
from supernode.cluster.wiring import wiring
from supernode.errors import InputError
from supernode.scheduling.place import place
from supernode.scheduling.placement import Placement, StageShare
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.state import NodeInfo, State

JOB: Json = {
    "apiVersion": "supernode.dev/v1alpha1",
    "kind": "TrainingJob",
    "metadata": {"name": "gpt", "namespace": "team-a", "uid": "u-1"},
    "spec": {
        "pools": ["dcu", "npu"],
        "mix": "Stages",
        "workers": 4,
        "acceleratorsPerWorker": 2,
        "model": {
            "layers": 16,
            "hiddenSize": 1024,
            "attentionHeads": 16,
            "vocabularySize": 1000,
            "sequenceLength": 256,
        },
        "parallelism": {"tensor": 2, "pipeline": 4, "globalBatchSize": 8},
        "storage": {"dataset": "lake", "checkpoint": {"store": "lake", "everySteps": 10, "sizeGB": 5}},
        "template": {"spec": {"containers": [{"name": "t", "image": "x", "resources": {"requests": {"cpu": "2"}}}]}},
    },
}


def a_pool(name: str, chip: str, **spec: object) -> Json:
    selector = {"matchLabels": {"chip": name}}
    return {
        "apiVersion": "supernode.dev/v1alpha1",
        "kind": "AcceleratorPool",
        "metadata": {"name": name},
        "spec": {"chip": chip, "nodeSelector": selector, **spec},
    }


POOLS = {
    "dcu": pool_from(a_pool("dcu", "hygon-bw1000", mode="Emulated", devicesPerNode=2)),
    "npu": pool_from(a_pool("npu", "huawei-ascend-910c", mode="Hardware")),
}
SPECS = {name: translate.pool_spec(pool) for name, pool in POOLS.items()}


def a_cluster() -> State:
    """Two nodes of each pool: four stages of one worker need all of them."""
    state = State()
    for spec in SPECS.values():
        state.set_pool(spec)
    room = {"cpu": 64_000, "memory": 2**38, "pods": 110}
    for index in range(2):
        state.apply_node(NodeInfo(f"dcu-{index}", room, True, "dcu"))
        state.apply_node(NodeInfo(f"npu-{index}", {**room, "huawei.com/Ascend910": 2}, True, "npu"))
    return state


def placed(snapshot: Snapshot) -> Placement:
    demand = translate.demand(job_from(JOB), JOB["spec"]["template"], SPECS)
    result = place(snapshot, demand)
    assert isinstance(result, Placement)
    assert set(result.pools) == {"dcu", "npu"}
    return result


def test_status_and_back() -> None:
    result = placed(a_cluster().snapshot())
    status = translate.placement_status(result, 3)
    assert status["pool"] == result.pool
    assert [worker["pool"] for worker in workers_in(status)] == [stage["pool"] for stage in status["stages"]]
    assert sum(stage["layers"] for stage in status["stages"]) == 16
    again = translate.placement_of("team-a/gpt", json.loads(json.dumps(status)))
    assert (again.workers, again.stages, again.pool) == (result.workers, result.stages, result.pool)
    assert again.node_pools == result.node_pools
    chunked = {**status, "stages": [{"pool": "dcu", "layers": 5, "chunks": [3, 2]}]}
    assert translate.placement_of("team-a/gpt", chunked).stages == (StageShare("dcu", (3, 2)),)
    with pytest.raises(InputError, match=r"TrainingJob team-a/gpt: status\.placement"):
        translate.placement_of("team-a/gpt", {**status, "stages": [{"pool": "dcu"}]})


def test_each_pod_is_of_its_own_pool() -> None:
    snapshot = a_cluster().snapshot()
    result = placed(snapshot)
    plan = translate.gang_plan(
        job_from(JOB),
        JOB["spec"]["template"],
        result,
        attempt=0,
        pools=POOLS,
        specs=SPECS,
        topology=wiring(result, snapshot),
        emulator_image="emulator:1",
    )
    seen: set[str] = set()
    for worker in plan.workers:
        pod = manifests.pod(plan, worker)
        (container,) = pod["spec"]["containers"]
        env = {entry["name"]: entry.get("value") for entry in container["env"]}
        words = json.loads(env["SUPERNODE_PARALLELISM"])
        assert words["rankOrder"] == ["tensor", "context", "data", "pipeline"]
        assert words["stages"][worker.rank]["pool"] == worker.pool
        requests = container["resources"]["requests"]
        if worker.pool == "dcu":
            assert requests["hygon.com/hcu"] == "2"
            assert [init["name"] for init in pod["spec"]["initContainers"]] == ["supernode-emulator"]
        else:
            assert requests["huawei.com/Ascend910"] == "2"
            assert "initContainers" not in pod["spec"]
        seen.add(worker.pool)
    assert seen == {"dcu", "npu"}
    assert plan.topology["levels"][-1]["bandwidthGBps"] == min(spec.bandwidth for spec in SPECS.values()) / 1e9


def test_usual_jobs_have_no_stages() -> None:
    assert "stages" not in translate.parallelism_json(job_from(JOB).spec)
    assert "rankOrder" not in translate.parallelism_json(job_from(JOB).spec)


def test_a_claim_takes_each_pools_own_resource() -> None:
    state = a_cluster()
    result = placed(state.snapshot())
    demand = translate.demand(job_from(JOB), JOB["spec"]["template"], SPECS)
    assert demand.storage is not None
    assert (demand.storage.names, demand.storage.checkpoint_bytes) == (("lake",), 5e9)
    state.claim(demand.key, result, demand.request, demand.storage.names)
    after = state.snapshot()
    assert after.device_free.tolist() == [0, 0, 0, 0]
    for name, resource in (("dcu-0", "hygon.com/hcu"), ("npu-1", "huawei.com/Ascend910")):
        assert after.free[after.node_names.index(name), after.resources.index(resource)] == 0
    assert after.holders[demand.key].stores == ("lake",)
    assert after.holders[demand.key].pools == result.pools
