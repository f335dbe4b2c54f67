"""A write that is held up on its way is given up while the lease that allowed it still lasts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web
from tests.builders.kube import write_kubeconfig

from supernode.cluster.client import Client
from supernode.cluster.kinds import CONFIG_MAPS, Json
from supernode.cluster.lease import OVER, WRITING, Lease, LeaseLostError, LeaseSettings
from supernode.errors import UnavailableError

pytestmark = pytest.mark.timeout(60)


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(40):
        while True:
            if check():
                return
            await asyncio.sleep(0.01)


class Held:
    """A server that takes leases and never answers anything else; notes what it was asked, and who went away."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.left = 0
        self.lease: Json = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if "/leases" in request.path:
            if request.method == "GET" and not self.lease:
                return web.json_response({"kind": "Status", "code": 404}, status=404)
            if request.method != "GET":
                self.lease = await request.json()
                self.lease["metadata"]["resourceVersion"] = str(id(self.lease))
            return web.json_response(self.lease)
        self.asked.append((request.method, request.query.get("timeout", "")))
        await until(lambda: request.transport is None or request.transport.is_closing())
        self.left += 1
        return web.Response()


@pytest.fixture
async def held(tmp_path: Path) -> AsyncIterator[tuple[Held, Client, Client]]:
    server = Held()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    path = str(write_kubeconfig(tmp_path / "config", f"http://127.0.0.1:{runner.addresses[0][1]}", "t"))
    working, leasing = await Client.connect(path), await Client.connect(path)
    yield server, working, leasing
    await working.close()
    await leasing.close()
    await runner.cleanup()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_what_is_left_of_a_lease_bounds_every_write() -> None:
    clock = Clock()
    lease = Lease.__new__(Lease)
    Lease.__init__(lease, None, LeaseSettings("me", duration=15), clock=clock)  # type: ignore[arg-type]
    lease._renewed = 100.0
    assert lease.guard() == pytest.approx(14)
    clock.now = 109.9
    # Begun at the last moment, it is over before anybody else may take the lease.
    assert lease.guard() == pytest.approx(4.1)
    assert clock.now + lease.guard() < 100 + 15
    clock.now = 110.0
    with pytest.raises(LeaseLostError):
        lease.guard()
    assert 0 < WRITING < OVER < 1


async def test_a_held_up_write_is_over_before_the_lease_is(held: tuple[Held, Client, Client]) -> None:
    server, working, leasing = held
    lease = Lease(leasing, LeaseSettings("me", duration=2))
    await lease.acquire()
    working.guard = lease.guard
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
    # The first try is given up in time, and nothing is tried after that: the lease was not renewed.
    with pytest.raises((UnavailableError, LeaseLostError)):
        await working.create(CONFIG_MAPS, body, "n")
    assert not lease.leading
    assert server.asked
    for method, timeout in server.asked:
        # The server is told too: it drops what it could not do by then.
        assert method == "POST"
        assert timeout.endswith("ms")
        assert 0 < int(timeout[:-2]) <= 2000 * OVER
    await until(lambda: server.left == len(server.asked))


async def test_who_needs_no_lease_and_who_only_reads_is_not_told_when(held: tuple[Held, Client, Client]) -> None:
    server, working, _ = held
    working.guard = lambda: 0.2
    reading = asyncio.create_task(working.get(CONFIG_MAPS, "a", "n"))
    await until(lambda: bool(server.asked))
    assert server.asked == [("GET", "")]
    reading.cancel()
