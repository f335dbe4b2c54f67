"""The observer: whatever the order of changes, its view is that of one who sees everything for the first time."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders.placements import placed_on

from supernode.cluster import translate
from supernode.cluster.cache import Store
from supernode.cluster.observe import Observer, Stores
from supernode.cluster.wiring import wiring
from supernode.errors import InputError
from supernode.scheduling.cycle import plan_cycle
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.placement import Placement

Json = dict[str, Any]


def stores() -> Stores:
    return Stores(Store(), Store(), Store(), Store(), Store())


def a_node(index: int, *, ready: bool = True, devices: int = 4, **labels: str) -> Json:
    resources = {"cpu": "8", "memory": "16Gi", "pods": "20", "hygon.com/hcu": str(devices)}
    return {
        "metadata": {"name": f"n{index}", "uid": f"node-{index}", "labels": {"pool": "a", **labels}},
        "spec": {},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def a_pool(name: str = "a", created: str = "2026-01-01T00:00:00Z", **selector: str) -> Json:
    return {
        "apiVersion": "supernode.dev/v1alpha1",
        "kind": "AcceleratorPool",
        "metadata": {"name": name, "uid": f"pool-{name}", "creationTimestamp": created},
        "spec": {
            "chip": "hygon-bw1000",
            "mode": "Emulated",
            "devicesPerNode": 4,
            "nodeSelector": {"matchLabels": selector or {"pool": "a"}},
        },
    }


def a_job(name: str, workers: list[tuple[str, list[int]]], state: str = "Running", attempt: int = 0) -> Json:
    status: Json = {"state": state, "attempt": attempt}
    if workers:
        status["placement"] = {
            "attempt": attempt,
            "pool": "a",
            **placed_on([{"node": node, "pool": "a", "devices": devices} for node, devices in workers]),
        }
    return {
        "apiVersion": "supernode.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name, "namespace": "t", "uid": f"job-{name}"},
        "spec": {"template": {"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}}},
        "status": status,
    }


def a_pod(job: str, rank: int, node: str, devices: list[int], phase: str = "Running", attempt: int = 0) -> Json:
    return {
        "metadata": {
            "name": f"{job}-worker-{rank}",
            "namespace": "t",
            "uid": f"pod-{job}-{rank}-{attempt}",
            "labels": {
                "supernode.dev/job": job,
                "supernode.dev/job-uid": f"job-{job}",
                "supernode.dev/rank": str(rank),
                "supernode.dev/attempt": str(attempt),
            },
            "annotations": {"supernode.dev/devices": ",".join(map(str, devices))},
            "ownerReferences": [
                {
                    "apiVersion": "supernode.dev/v1alpha1",
                    "kind": "TrainingJob",
                    "name": job,
                    "uid": f"job-{job}",
                    "controller": True,
                }
            ],
        },
        "spec": {
            "nodeName": node,
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "hygon.com/hcu": str(len(devices))}}}],
        },
        "status": {"phase": phase},
    }


def free(observer: Observer) -> dict[str, set[int]]:
    snapshot = observer.snapshot()
    return {
        name: {bit for bit in range(8) if int(mask) >> bit & 1}
        for name, mask in zip(snapshot.node_names, snapshot.device_free, strict=True)
    }


def fed(*, nodes: int = 2, jobs: list[Json] | None = None, pods: list[Json] | None = None) -> tuple[Observer, Stores]:
    everything = stores()
    observer = Observer(everything)
    everything.pools.offer(a_pool())
    for index in range(nodes):
        everything.nodes.offer(a_node(index))
    for job in jobs or []:
        everything.jobs.offer(job)
    for pod in pods or []:
        everything.pods.offer(pod)
    return observer, everything


def test_a_claim_holds_before_its_pods_are_there() -> None:
    observer, _ = fed(jobs=[a_job("j", [("n0", [0, 1]), ("n1", [2, 3])], "Starting")])
    assert free(observer) == {"n0": {2, 3}, "n1": {0, 1}}


def test_a_finished_job_holds_until_its_last_pod_has_ended() -> None:
    job = a_job("j", [("n0", [0]), ("n1", [0])], "Failed")
    observer, everything = fed(jobs=[job], pods=[a_pod("j", 0, "n0", [0], "Failed"), a_pod("j", 1, "n1", [0])])
    assert free(observer) == {"n0": {1, 2, 3}, "n1": {1, 2, 3}}
    everything.pods.offer(a_pod("j", 1, "n1", [0], "Failed"))
    assert free(observer) == {"n0": {0, 1, 2, 3}, "n1": {0, 1, 2, 3}}


def test_an_orphan_holds_exactly_its_own_devices() -> None:
    observer, everything = fed(pods=[a_pod("gone", 0, "n0", [1, 2])])
    assert free(observer)["n0"] == {0, 3}
    everything.pods.forget(a_pod("gone", 0, "n0", [1, 2]))
    assert free(observer)["n0"] == {0, 1, 2, 3}


def test_other_schedulers_pods_take_room() -> None:
    other = a_pod("x", 0, "n0", [])
    other["metadata"].update(labels={}, annotations={}, name="web", uid="web")
    other["spec"]["containers"][0]["resources"]["requests"] = {"cpu": "7"}
    observer, everything = fed(pods=[other])
    snapshot = observer.snapshot()
    assert snapshot.free[0, 0] == 1000
    everything.pods.offer({**copy.deepcopy(other), "status": {"phase": "Succeeded"}})
    assert observer.snapshot().free[0, 0] == 8000


def test_two_hands_on_one_device_are_not_hidden_and_stop_nothing() -> None:
    jobs = [a_job("j", [("n0", [0])]), a_job("k", [("n0", [0])])]
    observer, everything = fed(jobs=jobs)
    assert free(observer)["n0"] == {1, 2, 3}
    everything.jobs.forget(jobs[0])
    everything.jobs.offer({**a_job("k", [("n0", [0])], "Starting")})
    assert free(observer)["n0"] == {1, 2, 3}


def test_the_oldest_pool_keeps_a_node_that_two_select() -> None:
    observer, everything = fed()
    everything.pools.offer(a_pool("z-older", "2025-01-01T00:00:00Z", shared="yes"))
    everything.nodes.offer(a_node(7, shared="yes"))
    observer.snapshot()
    assert observer.view.pool_of_node["n7"] == "z-older"
    assert observer.view.taken == {"a": {"n7": "z-older"}}


def test_a_pool_that_is_wrong_is_a_problem_and_the_others_go_on() -> None:
    observer, everything = fed()
    broken = a_pool("b")
    broken["spec"]["chip"] = "no-such-chip"
    everything.pools.offer(broken)
    snapshot = observer.snapshot()
    assert [pool.name for pool in snapshot.pools] == ["a"]
    assert observer.view.pool_problems["b"].field == "spec.chip"


def test_a_new_pool_is_told_once_even_if_a_snapshot_came_first() -> None:
    observer, everything = fed()
    observer.take_rewired()
    everything.pools.offer(a_pool("b", b="b"))
    observer.snapshot()
    assert observer.take_rewired()
    assert not observer.take_rewired()
    going = a_pool("b", b="b")
    going["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z"
    everything.pools.offer(going)
    observer.snapshot()
    assert observer.take_rewired()
    assert observer.view.pools["b"].metadata.deletion_timestamp


def test_devices_that_are_not_offered_yet_take_nobody() -> None:
    observer, everything = fed(nodes=1)
    node = a_node(0)
    del node["status"]["allocatable"]["hygon.com/hcu"]
    node["status"] = copy.deepcopy(node["status"])
    everything.nodes.offer(node)
    assert not observer.snapshot().usable[0]


def test_a_held_place_can_be_dropped_again() -> None:
    observer, _ = fed()
    snapshot = observer.snapshot()
    (decision,) = plan_cycle(snapshot, [GangDemand("t/new", ("a",), 2, 4)])
    assert isinstance(decision.result, Placement)
    observer.hold(("t", "new"), "job-new", decision.result, {"cpu": 1000}, {"attempt": 0})
    assert free(observer) == {"n0": set(), "n1": set()}
    with pytest.raises(InputError):
        observer.hold(("t", "other"), "job-other", decision.result, {}, {"attempt": 0})
    observer.drop(("t", "new"))
    assert free(observer) == {"n0": {0, 1, 2, 3}, "n1": {0, 1, 2, 3}}


def test_a_placement_survives_its_status() -> None:
    observer, _ = fed()
    (decision,) = plan_cycle(observer.snapshot(), [GangDemand("t/new", ("a",), 4, 2)])
    assert isinstance(decision.result, Placement)
    status = translate.placement_status(decision.result, 3)
    again = translate.placement_of("t/new", status)
    assert again.workers == decision.result.workers
    assert (again.pool, again.level, again.domain) == ("a", decision.result.level, decision.result.domain)
    for broken in (
        {"assignment": [{"nodes": ["n0"]}]},
        placed_on([{"node": "n0", "devices": [0]}, {"node": "n0", "devices": [1, 2]}]),
        placed_on([{"node": "n0", "devices": [64]}]),
        {"assignment": [{"nodes": ["n0"], "devices": ["3-1"]}]},
        {"assignment": ["n0"]},
    ):
        with pytest.raises(InputError, match=r"status\.placement"):
            translate.placement_of("t/new", broken)


def test_the_wiring_that_the_sidecars_read() -> None:
    observer, everything = fed()
    (decision,) = plan_cycle(observer.snapshot(), [GangDemand("t/new", ("a",), 4, 2)])
    assert isinstance(decision.result, Placement)
    snapshot = observer.snapshot()
    plain = wiring(decision.result, snapshot)
    assert [level["name"] for level in plain["levels"]] == ["network", "node"]
    assert plain["domains"] == [[0, 0, 0, 0], [0, 0, 1, 1]]
    for index in range(2):
        everything.nodes.offer(a_node(index, spine="s", sn=f"x{index}"))
    everything.groups.offer(
        {
            "apiVersion": "supernode.dev/v1alpha1",
            "kind": "SuperNodeGroup",
            "metadata": {"name": "g", "uid": "g"},
            "spec": {
                "nodeSelector": {"matchLabels": {"pool": "a"}},
                "levels": [
                    {"name": "spine", "nodeLabel": "spine", "bandwidthGBps": 50.0, "latencyMicroseconds": 10.0},
                    {"name": "supernode", "nodeLabel": "sn", "bandwidthGBps": 224.0, "latencyMicroseconds": 2.0},
                ],
            },
        }
    )
    snapshot = observer.snapshot()
    wired = wiring(decision.result, snapshot)
    assert [level["name"] for level in wired["levels"]] == ["spine", "supernode", "node"]
    assert wired["levels"][1] == {"name": "supernode", "bandwidthGBps": 224.0, "latencyMicroseconds": 2.0}
    assert wired["domains"] == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    everything.nodes.offer(a_node(1, spine="s"))
    group = observer.view.groups["g"]
    assert translate.unlabelled(group, everything.nodes.objects()) == {"n1": "sn"}


# --- random histories -------------------------------------------------------------------------------------------------
NODES = 3


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, Any]:
    what = draw(
        st.sampled_from(["node", "node-gone", "job", "job", "job-gone", "pod", "pod", "pod-gone", "pool", "pool-gone"])
    )
    index = draw(st.integers(0, 2))
    if what == "node":
        return what, a_node(index, ready=draw(st.booleans()))
    if what == "job":
        places = st.lists(
            st.tuples(st.sampled_from(["n0", "n1", "n2"]), st.just([index])), max_size=2, unique_by=lambda p: p[0]
        )
        state = draw(st.sampled_from(["Starting", "Running", "Failed", "Pending"]))
        return what, a_job(f"j{index}", draw(places), state, draw(st.integers(0, 1)))
    if what == "pod":
        node = draw(st.sampled_from(["n0", "n1", "n2"]))
        phase = draw(st.sampled_from(["Pending", "Running", "Succeeded"]))
        return what, a_pod(f"j{index}", draw(st.integers(0, 1)), node, [index], phase, draw(st.integers(0, 1)))
    return what, index


def apply(everything: Stores, what: str, value: Any) -> None:
    match what:
        case "node":
            everything.nodes.offer(copy.deepcopy(value))
        case "job":
            everything.jobs.offer(copy.deepcopy(value))
        case "pod":
            everything.pods.offer(copy.deepcopy(value))
        case "pool":
            everything.pools.offer(a_pool())
        case "node-gone" | "job-gone" | "pod-gone" | "pool-gone":
            store = getattr(everything, what.removesuffix("-gone") + "s")
            found = sorted(store.objects())
            if found:
                obj = copy.deepcopy(store.get(found[value % len(found)]))
                store.forget(obj)
                # It may come back under the same uid in this game: forget the tombstone too.
                store._deleted.clear()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(changes(), st.booleans()), max_size=30))
def test_the_view_does_not_depend_on_the_way_there(history: list[tuple[tuple[str, Any], bool]]) -> None:
    observer, everything = fed(nodes=NODES)
    for (what, value), look in history:
        apply(everything, what, value)
        if look:
            observer.snapshot()
    again = stores()
    fresh = Observer(again)
    for name in ("pools", "groups", "nodes", "jobs", "pods"):
        for obj in getattr(everything, name).objects().values():
            getattr(again, name).offer(copy.deepcopy(obj))
    seen, expected = observer.snapshot(), fresh.snapshot()
    assert seen.node_names == expected.node_names
    assert seen.holders.keys() == expected.holders.keys()
    np.testing.assert_array_equal(seen.device_free, expected.device_free)
    np.testing.assert_array_equal(seen.free[:, :4], expected.free[:, :4])
