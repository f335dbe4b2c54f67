"""What goes wrong: operators that die at any await, are cut off or wrong about the time; nodes that flap; ambushes.

An ambush waits for a write of the operator of a certain sort and strikes just before the server does it, or just after:
the worst moments, which dice alone would seldom hit.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.soak.cluster import Cluster
from tests.soak.kubelet import Kubelet
from tests.soak.replica import Replica
from tests.soak.users import Users
from tests.soak.words import PODS as STORED_PODS
from tests.soak.words import lives, workers_of
from tests.soak.world import Sent, World

from supernode.cluster.kinds import NODES
from supernode.errors import ClusterError

# Sorts of writes: (method, a part of the path).
SORTS = (
    ("PATCH", "/trainingjobs/"),
    ("PATCH", "/trainingjobs/"),
    ("POST", "/pods"),
    ("POST", "/secrets"),
    ("DELETE", "/pods/"),
    ("PATCH", "/pods/"),
    ("PUT", "/leases/"),
)
# Awaits between which an operator is killed.
TURNS = 400


@dataclass(frozen=True)
class Trap:
    """An ambush: a sort of write, "before" or "after" it, how many of them are let through, and what happens."""

    sort: tuple[str, str]
    when: str
    act: str


class Trouble:
    """All of it. `calm`: no more ambushes."""

    def __init__(self, world: World, cluster: Cluster, users: Users, kubelet: Kubelet, replicas: list[Replica]) -> None:
        self.world, self.cluster, self.users, self.kubelet = world, cluster, users, kubelet
        self.replicas, self.chance = replicas, world.chance
        self.traps: list[Trap] = []
        self.calm = False
        world.ambush = self.pass_by

    # --- operators ----------------------------------------------------------------------------------------------
    async def kill(self) -> None:
        for replica in self.chance.sample(self.replicas, self.chance.randint(1, len(self.replicas))):
            self._kill(replica, "killed")

    async def kill_at_an_await(self) -> None:
        replica = self.chance.choice(self.replicas)
        self.world.loop.in_turns(
            self.chance.randint(1, TURNS), lambda: None if self.calm else self._kill(replica, "killed at an await")
        )

    def _kill(self, replica: Replica, how: str) -> None:
        if not replica.dead:
            replica.kill()
            self.world.ledger.note(how)

    async def stop(self) -> None:
        replica = self.chance.choice(self.replicas)
        if not replica.dead:
            await replica.stop()
            self.world.ledger.note("stopped in order")

    async def cut(self) -> None:
        self.chance.choice(self.replicas).cut(self.world.loop.time() + self.chance.uniform(1, 30))
        self.world.ledger.note("cut off")

    async def jump(self) -> None:
        self.chance.choice(self.replicas).skew = self.chance.choice([0.0, -30.0, 2.0, 45.0])
        self.world.ledger.note("clock jumped")

    # --- nodes and pods -----------------------------------------------------------------------------------------
    def _node(self) -> str:
        """Any node, but rather one on which something runs."""
        busy: list[str] = sorted({pod["spec"]["nodeName"] for pod in self.world.objects(STORED_PODS) if lives(pod)})
        return self.chance.choice(busy if busy and self.chance.random() < 0.7 else sorted(self.cluster.nodes))

    async def flap(self) -> None:
        status = self.chance.choice(["True", "Unknown", "False"])
        await self.cluster.ready(self._node(), status)
        if status != "True":
            self.world.ledger.note("node not ready")

    async def taint(self) -> None:
        taint = {"key": "soak", "effect": self.chance.choice(["NoSchedule", "NoExecute"])}
        tainted, cordoned = self.chance.random() < 0.5, self.chance.random() < 0.3
        spec = {"taints": [taint] if tainted else None, "unschedulable": cordoned}
        await self.cluster.user.patch(NODES, self._node(), {"spec": spec})
        self.world.ledger.note("node tainted", tainted)
        self.world.ledger.note("node cordoned", cordoned)

    async def unhealthy(self) -> None:
        value = self.chance.choice(["0", "0,1", None, None])
        patch = {"metadata": {"annotations": {"supernode.dev/unhealthy-devices": value}}}
        await self.cluster.user.patch(NODES, self._node(), patch)
        self.world.ledger.note("device unhealthy", value is not None)

    async def node_away(self) -> None:
        name = self._node()
        if self.cluster.there(name):
            await self.cluster.user.delete(NODES, name)
            self.world.ledger.note("node deleted")
        else:
            await self.cluster.add_node(name, *self.cluster.nodes[name])

    async def break_gang(self) -> None:
        """Take something from a gang that runs: rather from one whose workers can be replaced alone."""
        running = [job for job in self.users.jobs() if (job.get("status") or {}).get("state") == "Running"]
        single = [job for job in running if job["spec"]["scheduling"].get("disruptionMode") == "Single"]
        if not running:
            return
        node = self.chance.choice(workers_of(self.chance.choice(single or running)))["node"]
        if self.cluster.there(node):
            await self.cluster.ready(node, "False")
            self.world.ledger.note("node not ready")

    async def fail_pod(self) -> None:
        pods = [pod for pod in self.world.objects(STORED_PODS) if pod["status"].get("phase") == "Running"]
        if pods:
            await self.kubelet.status(self.chance.choice(pods), "Failed", self.chance.choice([1, 137]))
            self.world.ledger.note("pod failed")

    # --- ambushes -----------------------------------------------------------------------------------------------
    async def ambush(self) -> None:
        """Lay one for the next write of some sort."""
        acts = ["kill", "kill", "delete", "suspend", "scale", "cut", "flap", "outlive"]
        when, act = self.chance.choice(["before", "after"]), self.chance.choice(acts)
        sort = self.chance.choice(SORTS)
        if act == "outlive":
            sort, when = ("POST", "/pods"), "before"
        self.traps.append(Trap(sort, when, act))

    async def _outlive(self, replica: Replica, sent: Sent) -> None:
        """A pod is made when its maker is dead, and its job perhaps gone."""
        name = sent.name.partition("-worker-")[0]
        job = next((j for j in self.users.jobs() if j["metadata"]["name"] == name), None)
        if job is None or replica.dead:
            return
        self.world.ledger.note("create outlives its sender")
        replica.kill()
        sent.late = self.chance.uniform(15.0, 60.0)
        if self.chance.random() < 0.7:
            await self.users.delete_job(job)
        await asyncio.sleep(sent.late)

    async def pass_by(self, sent: Sent, when: str) -> None:
        """A write of an operator stands before the server, or has just been done."""
        if self.calm:
            return
        method, path = sent.method, sent.path
        for trap in self.traps:
            if trap.when == when and trap.sort[0] == method and trap.sort[1] in path:
                self.traps.remove(trap)
                with contextlib.suppress(ClusterError):
                    await self._strike(trap, sent)
                return

    async def _strike(self, trap: Trap, sent: Sent) -> None:
        replica = next((each for each in self.replicas if each.identity == sent.agent), self.replicas[0])
        job = next((job for job in self.users.jobs() if f"/trainingjobs/{job['metadata']['name']}" in sent.path), None)
        self.users.promises.log(f"--- {trap.act} {trap.when} {sent.method} {sent.path}")
        acts: dict[str, Callable[[], Awaitable[None]]] = {
            "delete": lambda: self.users.delete_job(job),
            "suspend": lambda: self.users.suspend(job),
            "scale": lambda: self.users.scale(job),
            "cut": self.cut,
            "flap": self.flap,
        }
        if trap.act == "kill":
            self._kill(replica, f"killed {trap.when} a write")
            return
        if trap.act == "outlive":
            await self._outlive(replica, sent)
            return
        await acts[trap.act]()
        if f"{trap.act} {trap.when} a write" in self.world.ledger or trap.act in ("delete", "suspend", "scale"):
            self.world.ledger.note(f"{trap.act} {trap.when} a write")
