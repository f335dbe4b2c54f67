"""The gauges of all jobs say what the stores hold, however the jobs have come, changed and gone."""

from __future__ import annotations

from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from supernode.api.conditions import timestamp
from supernode.cluster.cache import Store
from supernode.cluster.client import Client
from supernode.cluster.events import Events
from supernode.cluster.kinds import Json
from supernode.cluster.observe import Observer, Stores
from supernode.handlers.context import Context
from supernode.handlers.life import State
from supernode.handlers.measure import JobGauges
from supernode.telemetry.metrics import OperatorMetrics

VALUES = st.one_of(st.none(), st.integers(1, 9).map(float))


def a_context() -> tuple[Context, CollectorRegistry]:
    registry, stores, nowhere = CollectorRegistry(), Stores(*(Store() for _ in range(5))), cast(Client, None)
    metrics = OperatorMetrics(registry)
    return Context(nowhere, stores, Observer(stores), Events(nowhere, "me"), metrics, "image"), registry


def a_job(name: str, version: int, state: str, mfu: float | None, share: float | None, left: float | None) -> Json:
    status: Json = {"state": state, "mfu": mfu, "progress": {"step": 1, "stepSeconds": mfu, "remainingSeconds": left}}
    if share is not None:
        status["goodput"] = {"share": share, "waitingSeconds": 3.0}
    return {
        "metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": str(version)},
        "status": status,
    }


def shown(registry: CollectorRegistry) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name.startswith("supernode_job_") or sample.name == "supernode_jobs"
    }


def test_goodput_is_counted_when_somebody_looks() -> None:
    context, registry = a_context()
    moments = iter([1_800_000_000.0, 1_800_000_060.0])
    context.now = lambda: next(moments)
    job = a_job("a", 1, "Running", None, 0.0, None)
    job["status"] = {"state": "Running", "goodput": {"share": 0.0, "waitingSeconds": 20.0}}
    job["status"]["goodput"]["measuredAt"] = timestamp(1_800_000_000)
    context.stores.jobs.offer(job)
    gauges = JobGauges(context)
    gauges.tell()
    assert shown(registry)["supernode_job_goodput_ratio", ("n", "a")] == 0.0
    assert b'supernode_job_goodput_ratio{job="a",namespace="n"} 0.75\n' in context.metrics.text()


CHANGES = st.tuples(
    st.sampled_from("abc"), st.sampled_from([*map(str, State), "Running", "gone"]), VALUES, VALUES, VALUES
)


@settings(deadline=None)
@given(st.lists(CHANGES, max_size=15))
def test_told_as_they_change_or_all_at_once(
    changes: list[tuple[str, str, float | None, float | None, float | None]],
) -> None:
    context, registry = a_context()
    gauges = JobGauges(context)
    there: dict[str, tuple[str, float | None, float | None, float | None]] = {}
    for version, (name, state, mfu, share, left) in enumerate(changes, 1):
        if state == "gone":
            old = context.stores.jobs.get(("n", name))
            if there.pop(name, None) is not None and old is not None:
                context.stores.jobs._objects.pop(("n", name))
        else:
            there[name] = (state, mfu, share, left)
            context.stores.jobs.offer(a_job(name, version, state, mfu, share, left))
        gauges.tell()
        wanted: dict[tuple[str, tuple[str, ...]], float] = {("supernode_jobs", (str(each),)): 0.0 for each in State}
        for job, (now, speed, good, rest) in there.items():
            wanted["supernode_jobs", (now,)] += 1
            if now != "Running":
                continue
            for metric, value in (("step_seconds", speed), ("mfu_ratio", speed), ("remaining_seconds", rest)):
                if value is not None:
                    wanted[f"supernode_job_{metric}", ("n", job)] = value
            if good is not None:
                wanted["supernode_job_goodput_ratio", ("n", job)] = good
                for cause in ("waiting", "starting", "recomputation", "stragglers", "communication"):
                    wanted["supernode_job_lost_seconds", ("n", job, cause)] = 3.0 if cause == "waiting" else 0.0
        assert shown(registry) == wanted
