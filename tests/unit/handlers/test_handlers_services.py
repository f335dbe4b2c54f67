"""Services are looked at in turn, and only those of gangs whose pods are there."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from supernode.cluster.cache import Store
from supernode.cluster.client import Client
from supernode.cluster.events import Events
from supernode.cluster.kinds import Json, Kind
from supernode.cluster.observe import Observer, Stores
from supernode.handlers import services
from supernode.handlers.context import Context
from supernode.handlers.reading import Readings
from supernode.handlers.services import Services
from supernode.telemetry.metrics import OperatorMetrics


class Asked:
    """A client that has every Service, and remembers which it was asked for."""

    def __init__(self) -> None:
        self.names: list[str] = []

    async def get(self, kind: Kind, name: str, namespace: str) -> Json:
        self.names.append(name)
        return {"metadata": {"name": name, "namespace": namespace}}


def a_job(name: str, state: str, **metadata: Any) -> Json:
    status = {"state": state, "placement": {"attempt": 1, "pool": "p", "assignment": []}}
    identity = {"name": name, "namespace": "n", "uid": name, "resourceVersion": "1"}
    return {"metadata": {**identity, **metadata}, "spec": {}, "status": status}


def a_pod(job: str, attempt: int) -> Json:
    labels = {"supernode.dev/job": job, "supernode.dev/job-uid": job, "supernode.dev/attempt": str(attempt)}
    owner = {"apiVersion": "supernode.dev/v1alpha1", "kind": "TrainingJob", "name": job, "uid": job, "controller": True}
    metadata = {"name": f"{job}-worker-0", "namespace": "n", "uid": f"{job}-0", "resourceVersion": "1"}
    return {"metadata": {**metadata, "labels": labels, "ownerReferences": [owner]}, "spec": {}, "status": {}}


def test_all_have_their_turn_and_none_without_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "AT_ONCE", 2)
    asked, stores = Asked(), Stores(*(Store() for _ in range(5)))
    client = cast(Client, asked)
    metrics = OperatorMetrics(CollectorRegistry())
    context = Context(client, stores, Observer(stores), Events(client, "me"), metrics, "image")
    for name in "abcde":
        stores.jobs.offer(a_job(name, "Starting" if name == "e" else "Running"))
        stores.pods.offer(a_pod(name, 1))
    others = [
        a_job("waits", "Waiting"),
        a_job("pods-to-come", "Starting"),
        a_job("going", "Running", deletionTimestamp="2026-01-01T00:00:00Z"),
        a_job("old-pods", "Starting"),
    ]
    for job in others:
        stores.jobs.offer(job)
    stores.pods.offer(a_pod("going", 1))
    stores.pods.offer(a_pod("old-pods", 0))
    looker = Services(context, Readings(context))
    rounds = []
    for _ in range(5):
        asyncio.run(looker.look())
        rounds.append("".join(asked.names))
        asked.names.clear()
    assert rounds == ["ab", "cd", "ea", "bc", "de"]
