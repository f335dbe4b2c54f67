"""What sidecars tell of their ranks, through real sockets: the slow one is named, time left and goodput are told."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry
from tests.builders.placements import workers_in
from tests.wire.operatorlab import Lab

from supernode.cluster.kinds import PODS, Json, Kind
from supernode.emulator.observe import ObserveServer, Views
from supernode.emulator.progress import Progress, checked
from supernode.names import PORT_EMULATOR_HTTP

pytestmark = pytest.mark.timeout(120)
EVENTS = Kind("", "v1", "events", "Event")


class Sidecars:
    """The HTTP ports of a gang's sidecars, each at a loopback address of its own; ranks that compute as told."""

    def __init__(self, ranks: int) -> None:
        network = random.randrange(1, 250)
        self.addresses = [f"127.91.{network}.{rank + 1}" for rank in range(ranks)]
        self.progress = [Progress() for _ in range(ranks)]
        self.own = [0.0] * ranks
        self.step = 0

    def run(self, steps: int, own: list[float]) -> None:
        """So many steps of a second, of which each rank computes for so long itself."""
        for _ in range(steps):
            self.step += 1
            for rank, progress in enumerate(self.progress):
                self.own[rank] += own[rank]
                fields = {"step": self.step, "steps": 10_000, "loss": 1.0, "checkpoint": self.step // 10 * 10}
                progress.report(checked(fields), float(self.step), self.own[rank])

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        servers = [
            ObserveServer(address, PORT_EMULATOR_HTTP, Views(CollectorRegistry(), one.snapshot, dict, str))
            for address, one in zip(self.addresses, self.progress, strict=True)
        ]
        for server in servers:
            server.start()
        try:
            yield
        finally:
            for server in servers:
                server.close()


async def events_of(lab: Lab, reason: str) -> list[Json]:
    items = (await lab.client.list_page(EVENTS, lab.namespace))["items"]
    return [event for event in items if event["reason"] == reason]


async def test_a_slow_rank_is_named_once_with_its_node(either_lab: Lab) -> None:
    lab = either_lab
    sidecars = Sidecars(4)
    sidecars.run(40, [0.5, 0.5, 0.5, 0.5])
    with sidecars.served():
        lab.operator()
        await lab.add_job("train", workers=4)
        await lab.until_state("train", "Running")
        for rank, address in enumerate(sidecars.addresses):
            patch = {"status": {"podIP": address, "podIPs": [{"ip": address}]}}
            await lab.client.patch(PODS, f"train-worker-{rank}", patch, lab.namespace, subresource="status")
        status = await lab.until_status("train", "reports", lambda s: s.get("progress"))
        assert "stragglers" not in status
        assert (status["progress"]["step"], status["progress"]["checkpointStep"]) == (40, 40)
        assert status["checkpoint"]["step"] == 40
        sidecars.run(40, [0.5, 0.5, 0.8, 0.5])
        status = await lab.until_status("train", "a slow rank", lambda s: s.get("stragglers"))
        assert [entry["rank"] for entry in status["stragglers"]] == [2]
        node = workers_in(status["placement"])[2]["node"]
        assert status["stragglers"][0]["node"] == node
        said = await lab.condition("train", "Straggling")
        assert said["status"] == "True"
        assert f"worker 2 on node {node} (800 ms" in said["message"]
        sidecars.run(5, [0.5, 0.5, 0.82, 0.5])
        status = await lab.until_status("train", "goes on", lambda s: s["progress"]["step"] == 85)
        assert status["stragglers"][0]["ownSeconds"] == pytest.approx(0.8), "what was told stays while it lasts"
        assert status["progress"]["remainingSeconds"] > 0
        assert 0 < status["goodput"]["share"] <= 1
        found = await lab.until("the event", lambda: events_of(lab, "Straggler"))
        assert [(event["message"], event.get("count", 1)) for event in found] == [(said["message"], 1)]
        sidecars.run(40, [0.5, 0.5, 0.5, 0.5])
        status = await lab.until_status("train", "it is over", lambda s: not s.get("stragglers"))
        assert (await lab.condition("train", "Straggling"))["status"] == "False"
