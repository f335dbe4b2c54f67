"""The client and the cache against a server that misbehaves: refusals, silence, dropped and lying watches."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web
from tests.builders.kube import write_kubeconfig

from supernode.cluster.cache import FIRST_PAUSE, LONGEST_PAUSE, Cache, Store
from supernode.cluster.client import Client
from supernode.cluster.kinds import CONFIG_MAPS, Json
from supernode.errors import ClusterError, UnavailableError

Handler = Callable[[web.Request], object]


def an_object(name: str, version: int) -> Json:
    return {"metadata": {"name": name, "namespace": "n", "uid": f"u-{name}", "resourceVersion": str(version)}}


class Server:
    """Answers config maps from a script: lists from `items`, watches from `streams`, one after the other."""

    def __init__(self) -> None:
        self.items: list[Json] = []
        self.version = 10
        self.lists = 0
        self.watched_from: list[str] = []
        self.streams: list[list[Json | str]] = []
        self.refusals: list[tuple[int, dict[str, str]]] = []
        self.requests = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        assert request.headers["Authorization"] == "Bearer secret-token"
        if self.refusals:
            status, headers = self.refusals.pop(0)
            return web.json_response(
                {"kind": "Status", "code": status, "message": "no"}, status=status, headers=headers
            )
        if "watch" not in request.query:
            self.lists += 1
            return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": self.items})
        self.watched_from.append(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        script = self.streams.pop(0) if self.streams else ["hang"]
        for event in script:
            if event == "hang":
                await asyncio.sleep(60)
            elif event == "drop":
                assert request.transport is not None
                request.transport.abort()
                return response
            else:
                data = event if isinstance(event, str) else json.dumps(event)
                # Cut in the middle: a line need not come in one piece.
                half = len(data) // 2
                await response.write(data[:half].encode())
                await asyncio.sleep(0)
                await response.write(data[half:].encode() + b"\n")
        return response


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[Server, Client]]:
    server = Server()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    client = await Client.connect(str(write_kubeconfig(tmp_path / "kubeconfig", url, "secret-token")))
    yield server, client
    await client.close()
    await runner.cleanup()


@contextlib.asynccontextmanager
async def cached(client: Client) -> AsyncIterator[Cache]:
    naps: list[float] = []

    async def nap(seconds: float) -> None:
        naps.append(seconds)
        await asyncio.sleep(0)

    cache = Cache(client, CONFIG_MAPS, Store(), sleep=nap)
    task = asyncio.create_task(cache.run())
    try:
        await asyncio.wait_for(cache.synced.wait(), 10)
        yield cache
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while True:
            if check():
                return
            await asyncio.sleep(0.01)


async def test_a_busy_server_is_asked_again(server: tuple[Server, Client]) -> None:
    fake, client = server
    fake.refusals = [(429, {"Retry-After": "0"}), (503, {"Retry-After": "0"}), (500, {"Retry-After": "0"})]
    await client.list_page(CONFIG_MAPS)
    assert fake.requests == 4


async def test_a_server_that_stays_busy_is_given_up(server: tuple[Server, Client]) -> None:
    fake, client = server
    fake.refusals = [(503, {"Retry-After": "0"})] * 20
    with pytest.raises(UnavailableError):
        await client.list_page(CONFIG_MAPS)
    assert fake.requests == 5


async def test_nobody_there_is_unavailable(tmp_path: Path) -> None:
    client = await Client.connect(str(write_kubeconfig(tmp_path / "k", "http://127.0.0.1:1", "secret-token")))
    with pytest.raises(UnavailableError, match="no answer"):
        await client.request("GET", "/api/v1/nodes", attempts=1)
    await client.close()


async def test_no_configuration_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="--kubeconfig"):
        await Client.connect(str(tmp_path / "none"))
    broken = tmp_path / "broken"
    broken.write_text("just: words")
    with pytest.raises(ClusterError, match="cannot be used"):
        await Client.connect(str(broken))


async def test_the_token_is_not_in_any_representation(server: tuple[Server, Client]) -> None:
    _, client = server
    credentials = await client.credentials()
    assert credentials.token == "secret-token"
    assert "secret-token" not in repr(credentials)


async def test_a_dropped_watch_goes_on_where_it_was(server: tuple[Server, Client]) -> None:
    fake, client = server
    fake.items = [an_object("a", 5)]
    fake.streams = [
        [{"type": "ADDED", "object": an_object("b", 11)}, "drop"],
        [{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "20"}}}, "drop"],
        [{"type": "DELETED", "object": an_object("a", 21)}],
        ["hang"],
    ]
    async with cached(client) as cache:
        await until(lambda: len(fake.watched_from) == 4)
        assert fake.watched_from == ["10", "11", "20", "21"]
        assert fake.lists == 1
        assert {name for _, name in cache.store.objects()} == {"b"}


async def test_a_version_that_is_gone_is_listed_again_and_what_vanished_meanwhile_goes(
    server: tuple[Server, Client],
) -> None:
    fake, client = server
    fake.items = [an_object("a", 5), an_object("b", 6)]
    fake.streams = [[{"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}], ["hang"]]
    async with cached(client) as cache:
        assert len(cache.store) == 2
        fake.items, fake.version = [an_object("b", 6)], 30
        await until(lambda: len(fake.watched_from) == 2)
        assert fake.watched_from == ["10", "30"]
        assert {name for _, name in cache.store.objects()} == {"b"}


async def test_garbage_in_a_watch_is_survived(server: tuple[Server, Client]) -> None:
    fake, client = server
    fake.streams = [["this is not json"], [{"type": "ADDED", "object": an_object("c", 12)}, "hang"]]
    async with cached(client) as cache:
        await until(lambda: ("n", "c") in cache.store.objects())


async def test_a_list_that_fails_is_tried_until_it_works(server: tuple[Server, Client]) -> None:
    fake, client = server
    fake.refusals = [(403, {})] * 3
    async with cached(client):
        assert fake.lists == 1


async def test_a_server_that_forgets_at_once_is_listed_more_and_more_slowly(server: tuple[Server, Client]) -> None:
    fake, client = server
    too_old: Json = {"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}
    fake.streams = [[too_old] for _ in range(9)]
    naps: list[float] = []

    async def nap(seconds: float) -> None:
        naps.append(seconds)

    task = asyncio.create_task(Cache(client, CONFIG_MAPS, Store(), sleep=nap).run())
    await until(lambda: fake.lists == 10)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    # The first time at once; then after pauses that double, up to the longest one, each by chance a quarter off.
    assert len(naps) == 8
    assert all(0.75 <= pause / min(FIRST_PAUSE * 2**index, LONGEST_PAUSE) <= 1.25 for index, pause in enumerate(naps))
