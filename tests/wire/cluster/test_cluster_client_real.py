"""The client, the caches and the lease on a real API server."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import yaml
from tests.wire.controlplane import ControlPlane

from supernode.cluster.cache import Cache, Store
from supernode.cluster.client import Client
from supernode.cluster.events import Events
from supernode.cluster.kinds import CONFIG_MAPS, NODES, PODS, Json, Kind
from supernode.cluster.lease import Lease, LeaseLostError, LeaseSettings
from supernode.cluster.resources import advertise
from supernode.cluster.status import set_finalizer
from supernode.errors import (
    BadRequestError,
    ClusterError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
)

pytestmark = pytest.mark.envtest

NAMESPACES = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
EVENTS = Kind("", "v1", "events", "Event")


def a_map(name: str, **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


@pytest.fixture
async def namespace(admin: Client) -> str:
    name = f"t-{uuid.uuid4().hex[:8]}"
    await admin.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


@contextlib.asynccontextmanager
async def running(cache: Cache) -> AsyncIterator[Cache]:
    task = asyncio.create_task(cache.run())
    try:
        await asyncio.wait_for(cache.synced.wait(), 20)
        yield cache
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(check: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while True:
            if check():
                return
            await asyncio.sleep(0.02)


async def test_each_refusal_is_its_error(admin: Client, namespace: str) -> None:
    with pytest.raises(NotFoundError):
        await admin.get(CONFIG_MAPS, "none", namespace)
    await admin.create(CONFIG_MAPS, a_map("a"), namespace)
    with pytest.raises(ConflictError) as caught:
        await admin.create(CONFIG_MAPS, a_map("a"), namespace)
    assert caught.value.reason == "AlreadyExists"
    with pytest.raises(BadRequestError):
        await admin.create(CONFIG_MAPS, a_map("Not A Name"), namespace)
    made = await admin.get(CONFIG_MAPS, "a", namespace)
    await admin.patch(CONFIG_MAPS, "a", {"data": {"k": "1"}}, namespace)
    with pytest.raises(ConflictError):
        await admin.replace(CONFIG_MAPS, made, namespace)


async def test_a_delete_means_one_object_only(admin: Client, namespace: str) -> None:
    made = await admin.create(CONFIG_MAPS, a_map("a"), namespace)
    assert not await admin.delete(CONFIG_MAPS, "a", namespace, uid=str(uuid.uuid4()))
    assert (await admin.get(CONFIG_MAPS, "a", namespace))["metadata"]["uid"] == made["metadata"]["uid"]
    assert await admin.delete(CONFIG_MAPS, "a", namespace, uid=made["metadata"]["uid"])
    assert not await admin.delete(CONFIG_MAPS, "a", namespace)


@pytest.fixture
def nobody(real_cluster: ControlPlane, tmp_path: Path) -> str:
    """A kubeconfig without credentials: what others may do is granted by other tests."""
    config = yaml.safe_load(Path(str(real_cluster.operator)).read_text())
    for user in config["users"]:
        user["user"] = {}
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return str(path)


async def test_without_rights_it_is_forbidden(nobody: str, namespace: str) -> None:
    client = await Client.connect(nobody)
    try:
        with pytest.raises(ForbiddenError):
            await client.create(CONFIG_MAPS, a_map("a"), namespace)
    finally:
        await client.close()


async def test_the_guard_stops_writes_and_not_reads(admin: Client, namespace: str) -> None:
    lease = Lease(admin, LeaseSettings("nobody"))
    admin.guard = lease.guard
    with pytest.raises(LeaseLostError):
        await admin.create(CONFIG_MAPS, a_map("a"), namespace)
    await admin.list_page(CONFIG_MAPS, namespace)


async def test_a_cache_follows_the_server(admin: Client, namespace: str) -> None:
    await admin.create(CONFIG_MAPS, a_map("before"), namespace)
    async with running(Cache(admin, CONFIG_MAPS, Store(), namespace=namespace)) as cache:
        assert set(cache.store.objects()) == {(namespace, "before")}
        await admin.create(CONFIG_MAPS, a_map("after"), namespace)
        await until(lambda: (namespace, "after") in cache.store.objects())
        await admin.patch(CONFIG_MAPS, "after", {"data": {"k": "2"}}, namespace)
        await until(lambda: cache.store.objects()[namespace, "after"].get("data") == {"k": "2"})
        await admin.delete(CONFIG_MAPS, "before", namespace)
        await until(lambda: (namespace, "before") not in cache.store.objects())


async def test_a_list_of_several_pages_is_whole(admin: Client, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supernode.cluster.cache.PAGE", 3)
    for index in range(8):
        await admin.create(CONFIG_MAPS, a_map(f"m{index}"), namespace)
    async with running(Cache(admin, CONFIG_MAPS, Store(), namespace=namespace)) as cache:
        assert len(cache.store) == 8


async def test_an_impossible_version_is_refused(admin: Client, namespace: str) -> None:
    async def follow() -> None:
        async with admin.watch(CONFIG_MAPS, namespace=namespace, resource_version="x", seconds=5) as events:
            async for _ in events:
                pass

    with pytest.raises(ClusterError):
        await follow()


async def test_devices_are_offered_and_withdrawn(admin: Client) -> None:
    name = f"n-{uuid.uuid4().hex[:6]}"
    node = await admin.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    node = await advertise(admin, node, {"hygon.com/hcu": 8}) or node
    assert node["status"]["capacity"]["hygon.com/hcu"] == "8"
    assert node["status"]["allocatable"]["hygon.com/hcu"] == "8"
    assert await advertise(admin, node, {"hygon.com/hcu": 8}) is None
    node = await advertise(admin, node, {}, frozenset({"hygon.com/hcu"})) or node
    assert "hygon.com/hcu" not in node["status"].get("capacity", {})
    await admin.delete(NODES, name)


async def test_a_finalizer_leaves_others_alone(admin: Client, namespace: str) -> None:
    made = a_map("a")
    made["metadata"]["finalizers"] = ["example.com/other"]
    obj = await admin.create(CONFIG_MAPS, made, namespace)
    obj = await set_finalizer(admin, CONFIG_MAPS, obj, "supernode.dev/finalizer", present=True)
    assert obj["metadata"]["finalizers"] == ["example.com/other", "supernode.dev/finalizer"]
    obj = await set_finalizer(admin, CONFIG_MAPS, obj, "supernode.dev/finalizer", present=False)
    obj = await set_finalizer(admin, CONFIG_MAPS, obj, "example.com/other", present=False)
    assert "finalizers" not in obj["metadata"]


async def test_a_repeated_event_is_counted(admin: Client, namespace: str) -> None:
    obj = await admin.create(CONFIG_MAPS, a_map("a"), namespace)
    events = Events(admin, "tester")
    task = asyncio.create_task(events.run())
    for _ in range(3):
        events.warning(CONFIG_MAPS, obj, "Waiting", "it waits for 8 accelerators")
    events.normal(CONFIG_MAPS, obj, "Placed", "it has a place")
    await events.drain()
    task.cancel()
    found = (await admin.list_page(EVENTS, namespace))["items"]
    assert sorted((e["reason"], e["count"], e["type"]) for e in found) == [
        ("Placed", 1, "Normal"),
        ("Waiting", 3, "Warning"),
    ]


async def test_one_leads_and_the_other_takes_over(admin: Client, real_cluster: ControlPlane) -> None:
    name = f"lease-{uuid.uuid4().hex[:6]}"
    first = Lease(admin, LeaseSettings("first", duration=2, name=name, namespace="default"))
    second = Lease(admin, LeaseSettings("second", duration=2, name=name, namespace="default"))
    await asyncio.wait_for(first.acquire(), 10)
    first.guard()
    taking = asyncio.create_task(second.acquire())
    keeping = asyncio.create_task(first.keep())
    await asyncio.sleep(3)
    assert not taking.done()
    keeping.cancel()
    await asyncio.wait_for(taking, 15)
    # The first stopped by its own clock before the second could take over.
    with pytest.raises(LeaseLostError):
        first.guard()
    await second.release()
    third = Lease(admin, LeaseSettings("third", duration=2, name=name, namespace="default"))
    await asyncio.wait_for(third.acquire(), 10)


async def test_pods_of_the_pods_kind_are_listed_everywhere(admin: Client) -> None:
    async with running(Cache(admin, PODS, Store())) as cache:
        assert cache.synced.is_set()


@pytest.mark.parametrize("seconds", [600.0, 0.0])
async def test_later_connections_take_up_the_session_of_the_first(
    real_cluster: ControlPlane, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr("supernode.cluster.connections.SESSION_SECONDS", seconds)
    client = await Client.connect(str(real_cluster.admin))
    try:
        await client.list_page(CONFIG_MAPS, "default")
        found = await asyncio.gather(*(client.list_page(CONFIG_MAPS, "default") for _ in range(6)))
        assert all(page["kind"] == "ConfigMapList" for page in found)
        assert client._direct is not None
        open_now = [connection.secured for connection in client._direct._open]
        reused = [secured.session_reused for secured in open_now if secured is not None]
        assert len(reused) >= 2
        assert reused.count(False) == (1 if seconds else len(reused))
    finally:
        await client.close()
