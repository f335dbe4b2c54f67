"""A leader is cut off while its pods are on their way: the next one launches the gang, and nothing runs twice.

What the first has sent arrives when the second has long been leading, which no network of a real cluster does better.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from tests.builders.kube import write_kubeconfig
from tests.wire.engines import TOKEN, embedded
from tests.wire.operatorlab import laboratory

from supernode.cluster.kinds import PODS

pytestmark = pytest.mark.timeout(240)


class Gate:
    """A way to the API server on which creates of pods, and then everything about leases, is held up when `shut`.

    What is held arrives when the gate opens, whether its sender still waits for an answer or not.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.shut = False
        self.opened = asyncio.Event()
        self.held = 0
        self.arrived: list[int] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        is_pod = request.method == "POST" and request.path.endswith("/pods")
        if self.shut and is_pod:
            self.held += 1
        if self.shut and (is_pod or (self.held and "/leases" in request.path)):
            await self.opened.wait()
        headers = {name: request.headers[name] for name in ("Authorization", "Content-Type") if name in request.headers}
        async with (
            aiohttp.ClientSession(trust_env=False, auto_decompress=False) as session,
            session.request(request.method, self.upstream + request.path_qs, data=body, headers=headers) as answer,
        ):
            if self.shut and is_pod:
                self.arrived.append(answer.status)
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.content_type})
            with contextlib.suppress(ConnectionError):
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
            return response


@contextlib.asynccontextmanager
async def gate_to(upstream: str) -> AsyncIterator[tuple[Gate, str]]:
    gate = Gate(upstream)
    application = web.Application(client_max_size=2**24)
    application.router.add_route("*", "/{path:.*}", gate.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield gate, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        gate.opened.set()
        await runner.cleanup()


async def test_pods_that_arrive_under_the_next_leader_are_nobodys_second(tmp_path: Path) -> None:
    async with embedded(tmp_path) as cluster, laboratory(cluster, tmp_path) as lab, gate_to(cluster.url) as way:
        gate, url = way
        await lab.furnish()
        first = lab.operator(kubeconfig=write_kubeconfig(tmp_path / "gate.kubeconfig", url, TOKEN), lease=6)

        async def reads(what: str) -> bool:
            return what in first.text()

        await lab.until("the first leads", lambda: reads("synchronised"))
        gate.shut = True
        await lab.add_job("gang", workers=3)

        async def on_their_way() -> bool:
            return gate.held >= 3

        await lab.until("the gang's pods are on their way", on_their_way)
        lab.operator(lease=6)
        await lab.until_state("gang", "Running", seconds=90)
        before = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in await lab.job_pods("gang")}
        assert sorted(before) == [f"gang-worker-{rank}" for rank in range(3)]

        gate.opened.set()

        async def arrived() -> bool:
            return len(gate.arrived) >= gate.held

        await lab.until("what was held has arrived", arrived)
        assert set(gate.arrived) == {409}, "every create that came late was refused, because the name was taken"
        assert await asyncio.to_thread(first.popen.wait, 60) != 0, "who has lost the lease ends"
        status = (await lab.job("gang"))["status"]
        assert (status["state"], status["restarts"], status["attempt"]) == ("Running", 0, 0)
        pods = (await lab.client.list_page(PODS, lab.namespace))["items"]
        assert {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods} == before
