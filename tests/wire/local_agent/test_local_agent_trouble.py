"""Trouble: an agent that is replaced, an API server that fails, nodes that fall silent. On a server in this process."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.wire.local_agent.cluster import Namespace, until

from supernode.local.agent.agent import AgentSettings, NodeAgent
from supernode.local.agent.sandbox import BackOff
from supernode.local.agent.supervise import Warden
from supernode.local.agent.warden import marked_processes
from supernode.local.client import Connection, KubeClient
from supernode.local.controllers.nodelife import UNREACHABLE, NodeLifecycle
from supernode.local.server import ApiServer, Faults

Object = dict[str, Any]
NODE: Object = {"metadata": {"name": "node-0"}, "status": {"capacity": {"cpu": "4"}}}


def shell(script: str) -> Object:
    return {"name": "c", "image": "python", "command": ["sh", "-c", script]}


class Bench:
    """An API server, and agents that come and go."""

    def __init__(self, url: str, client: KubeClient, directory: Path) -> None:
        self.connection = client.connection
        self.client = client
        self.default = Namespace(client, "default")
        self.directory = directory

    @contextlib.asynccontextmanager
    async def agent(self) -> AsyncIterator[NodeAgent]:
        warden = Warden(str(self.directory))
        await warden.start()
        settings = AgentSettings(self.directory, self.directory / "m", back_off=BackOff(0.2))
        agent = NodeAgent(self.connection, [NODE], settings, warden)
        try:
            await agent.start()
            yield agent
        finally:
            await agent.stop()
            await warden.stop()


@pytest.fixture
async def faults() -> Faults:
    return Faults()


@pytest.fixture
async def bench(faults: Faults) -> AsyncIterator[Bench]:
    server = ApiServer(token="t", faults=faults)
    url = await server.start()
    with tempfile.TemporaryDirectory(prefix="sn", dir="/tmp") as folder:
        async with KubeClient(Connection(url, "t")) as client:
            yield Bench(url, client, Path(folder))
        assert marked_processes(folder) == []
    await server.stop()


async def test_the_next_agent_ends_pods_that_never_restart_and_runs_the_others_again(bench: Bench) -> None:
    async with bench.agent():
        await bench.default.run("once", shell("sleep 99"), restartPolicy="Never")
        await bench.default.run("again", shell("sleep 99"), restartPolicy="Always")
        await bench.default.run("done", shell("exit 0"), restartPolicy="Never")
        for name in ("once", "again"):
            await bench.default.until_phase(name, "Running")
        await bench.default.until_phase("done", "Succeeded")
    async with bench.agent():
        pod = await bench.default.until_phase("once", "Failed")
        assert pod["status"]["reason"] == "NodeAgentRestarted"
        assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 137
        pod = await bench.default.until("again", lambda pod: pod["status"]["containerStatuses"][0]["restartCount"] == 1)
        await bench.default.until_phase("again", "Running")
        assert (await bench.default.pod("done"))["status"]["phase"] == "Succeeded"
        for name in ("once", "again", "done"):
            await bench.default.delete(name)
        for name in ("once", "again", "done"):
            await bench.default.until_gone(name)


async def test_a_pod_deleted_while_no_agent_ran_is_cleared_away(bench: Bench) -> None:
    async with bench.agent():
        await bench.default.run("p", shell("sleep 99"), restartPolicy="Never")
        await bench.default.until_phase("p", "Running")
    await bench.default.delete("p")
    async with bench.agent():
        await bench.default.until_gone("p")


async def test_a_pod_made_again_under_its_name_waits_for_the_old_ones_end(bench: Bench) -> None:
    async with bench.agent():
        script = "trap '' TERM; echo $$$$; while :; do sleep 0.05; done"
        first = await bench.default.run("p", shell(script), terminationGracePeriodSeconds=1)
        await bench.default.until_phase("p", "Running")
        await bench.default.delete("p", gracePeriodSeconds=0)
        second = await bench.default.run("p", shell("sleep 99"))
        await bench.default.until_phase("p", "Running")
        assert marked_processes(f"{bench.directory}#{first['metadata']['uid']}") == []
        assert marked_processes(f"{bench.directory}#{second['metadata']['uid']}") != []


async def test_pods_run_and_go_though_the_server_fails_now_and_then(bench: Bench, faults: Faults) -> None:
    # The test's own client is spared; the agent's is not.
    faults.exempt = ("supernode-local",)
    faults.conflict = faults.error = faults.throttle = faults.lost_answer = 0.1
    faults.retry_after = 1
    faults.drop_watch, faults.drop_after, faults.expire_watch = 0.5, 0.3, 0.1
    async with bench.agent():
        for number in range(6):
            await bench.default.run(f"p{number}", shell(f"exit {number % 2}"), restartPolicy="Never")
        for number in range(6):
            pod = await bench.default.until_phase(f"p{number}", "Succeeded", "Failed")
            code = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
            assert code == number % 2
            await bench.default.delete(f"p{number}")
        for number in range(6):
            await bench.default.until_gone(f"p{number}")
    assert sum(faults.counts.values()) > 5


async def test_a_silent_node_is_unknown_and_tainted_until_it_speaks_again(bench: Bench) -> None:
    async def node() -> Object:
        return await bench.client.get("/api/v1/nodes/node-0")

    async def lost() -> bool:
        found = await node()
        ready = next(entry for entry in found["status"]["conditions"] if entry["type"] == "Ready")
        taints = {taint["key"] for taint in found["spec"].get("taints") or []}
        return ready["status"] == "Unknown" and taints == {UNREACHABLE}

    async def back() -> bool:
        found = await node()
        ready = next(entry for entry in found["status"]["conditions"] if entry["type"] == "Ready")
        return ready["status"] == "True" and not found["spec"].get("taints")

    async with bench.agent():
        assert await back()
    controller = asyncio.create_task(NodeLifecycle(bench.client, grace=0.5).run())
    try:
        await until(lost)
        async with bench.agent():
            await until(back)
    finally:
        controller.cancel()
        await asyncio.gather(controller, return_exceptions=True)
