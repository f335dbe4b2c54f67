"""What jobs get out of pools, counted job by job as they change, is what one gets who counts all of them anew."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from tests.builders.manifests import MODEL, a_group, a_job, a_pool
from tests.builders.placements import placed_on

from supernode.cluster.cache import Store
from supernode.cluster.client import Client
from supernode.cluster.events import Events
from supernode.cluster.kinds import Json
from supernode.cluster.observe import Observer, Stores
from supernode.handlers import effective
from supernode.handlers.context import Context
from supernode.handlers.effective import Effectives, Wired, effective_compute
from supernode.handlers.reading import Readings
from supernode.telemetry.metrics import OperatorMetrics


def a_context() -> Context:
    stores = Stores(Store(), Store(), Store(), Store(), Store())
    observer = Observer(stores)
    nowhere = cast(Client, None)
    metrics = OperatorMetrics(CollectorRegistry())
    for index, name in enumerate(("one", "two")):
        pool = a_pool(name, nodeSelector={"matchLabels": {"pool": name}})
        pool["metadata"] |= {"uid": name, "creationTimestamp": f"2026-01-0{index + 1}T00:00:00Z"}
        stores.pools.offer(pool)
    stores.groups.offer({**a_group(), "metadata": {"name": "scalex", "uid": "g"}})
    for index in range(4):
        labels = {"supernode.dev/group": "scalex", "supernode.dev/spine": "s", "supernode.dev/supernode": f"sn-{index}"}
        labels["pool"] = "one" if index < 2 else "two"
        node: Json = {"metadata": {"name": f"n{index}", "uid": f"n{index}", "labels": labels}, "spec": {}}
        node["status"] = {"capacity": {}, "allocatable": {}, "conditions": []}
        stores.nodes.offer(node)
    observer.snapshot()
    return Context(nowhere, stores, observer, Events(nowhere, "me"), metrics, "image")


def a_version(name: str, version: int, state: str, mfu: float | None, nodes: list[int]) -> Json:
    obj = a_job(name, pools=["one", "two"], workers=len(nodes), model=MODEL)
    obj["metadata"] |= {"uid": name, "resourceVersion": str(version), "generation": 1}
    workers = [{"node": f"n{node}", "pool": "one" if node < 2 else "two", "devices": [0, 1]} for node in nodes]
    obj["status"] = {"state": state, "placement": {"pool": "one", **placed_on(workers), "predictedStepSeconds": 0.5}}
    if mfu is not None:
        obj["status"]["mfu"] = mfu
    return obj


def figures(found: Effectives) -> dict[tuple[str, str], tuple[float, float, float]]:
    kinds = (("pool", found.pools), ("group", found.groups))
    return {(kind, name): (e.peak, e.predicted, e.observed) for kind, by in kinds for name, e in by.items()}


CHANGES = st.tuples(
    st.sampled_from("abc"),
    st.sampled_from(["Running", "Running", "Starting", "gone"]),
    st.one_of(st.none(), st.floats(0.1, 0.9)),
    st.lists(st.integers(0, 3), min_size=1, max_size=3),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(CHANGES, max_size=12))
def test_counted_as_it_changes_or_all_at_once(changes: list[tuple[str, str, float | None, list[int]]]) -> None:
    context = a_context()
    readings, wired = Readings(context), Wired(context)
    jobs = context.stores.jobs
    for version, (name, state, mfu, nodes) in enumerate(changes, 1):
        old = jobs.get(("default", name))
        if state != "gone":
            jobs.offer(a_version(name, version, state, mfu, nodes))
        elif old is not None:
            jobs._objects.pop(("default", name))
        context.observer.snapshot()
        kept = figures(effective_compute(context, readings, wired))
        fresh = figures(effective_compute(context, readings, Wired(context)))
        assert kept.keys() == fresh.keys()
        assert all(kept[place] == pytest.approx(fresh[place]) for place in fresh)


def test_only_what_has_changed_is_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    context = a_context()
    readings, wired = Readings(context), Wired(context)
    counted: list[str] = []
    before = effective._of_job
    monkeypatch.setattr(effective, "_of_job", lambda c, r, w, key: (counted.append(key[1]), before(c, r, w, key))[1])
    for name in "abc":
        context.stores.jobs.offer(a_version(name, 1, "Running", 0.4, [0, 2]))
    first = effective_compute(context, readings, wired)
    assert first.pools["one"].observed > 0
    assert first.groups["scalex"].peak == pytest.approx(first.pools["one"].peak + first.pools["two"].peak)
    effective_compute(context, readings, wired)
    context.stores.jobs.offer(a_version("b", 2, "Running", 0.5, [0, 2]))
    effective_compute(context, readings, wired)
    assert counted == ["a", "b", "c", "b"]
    wired.forget()
    effective_compute(context, readings, wired)
    assert counted[4:] == ["a", "b", "c"]
