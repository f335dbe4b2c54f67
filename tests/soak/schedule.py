"""One schedule: a cluster, jobs, users and bad luck, all drawn from one seed; then calm, and everything must end well.

In: a seed. Out: what was broken, and the trace of all that happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import yaml
from tests.soak.promises import JOBS as STORED_JOBS
from tests.soak.promises import PODS as STORED_PODS
from tests.soak.promises import Ears, Promises
from tests.soak.replica import Replica
from tests.soak.virtual import VirtualLoop
from tests.soak.world import USER, DirectClient, World

from supernode.cluster.kinds import GROUPS, JOBS, NODES, PODS, POOLS, PRIORITY_CLASSES, Json, Kind
from supernode.errors import ClusterError, NotFoundError
from supernode.local.server import Faults

ROOT = Path(__file__).parents[2]
NAMESPACES = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
DEFINITIONS = Kind(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
TEAMS = ("team-a", "team-b")
STEPS = 24
# Seconds of calm in which all jobs must end, and in which all must be gone when they are deleted.
CALM = 1800.0
GONE = 600.0
REPAIR: Json = {"nodeLossSeconds": 10, "holdSeconds": 20}


@dataclass(frozen=True)
class Outcome:
    """What became of a schedule."""

    seed: int
    broken: tuple[str, ...]
    trace: tuple[str, ...]
    seconds: float


def run(seed: int) -> Outcome:
    """Run one schedule."""
    logger = logging.getLogger("supernode")
    with contextlib.ExitStack() as stack:
        loop = VirtualLoop()
        stack.callback(loop.close)
        for each in _same_every_time(seed, loop):
            stack.enter_context(each)
        schedule = Schedule(seed)
        try:
            loop.run_until_complete(schedule.run())
        except Exception as exc:
            logging.getLogger("soak").debug("the schedule ended", exc_info=exc)
            schedule.problems.append(f"the schedule itself ended: {type(exc).__name__}: {exc}")
        finally:
            if schedule.ears is not None:
                logger.removeHandler(schedule.ears)
            _end(loop)
        promises = schedule.promises
        broken = (*(promises.broken if promises else ()), *schedule.problems)
        return Outcome(seed, broken, tuple(promises.trace if promises else ()), loop.time())


def _same_every_time(seed: int, loop: VirtualLoop) -> Iterator[contextlib.AbstractContextManager[object]]:
    """What differs from run to run elsewhere: jitter, uids, clocks."""
    random.seed(seed)
    lots = random.Random(seed + 1)
    yield mock.patch(
        "supernode.local.server.objects.uuid",
        SimpleNamespace(uuid4=lambda: uuid.UUID(int=lots.getrandbits(128), version=4)),
    )
    yield mock.patch("supernode.handlers.cycle.time", SimpleNamespace(monotonic=loop.time, perf_counter=loop.time))


def _end(loop: VirtualLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())


class Schedule:
    """All choices come from the seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.problems: list[str] = []
        self.promises: Promises | None = None
        self.ears: Ears | None = None
        self.nodes: list[str] = []
        self.down: set[str] = set()
        self.count = 0
        self.calm = False
        self.limit = 0

    async def run(self) -> None:
        chance = self.chance
        faults = Faults(
            seed=self.seed,
            conflict=chance.choice([0.0, 0.03, 0.1]),
            throttle=chance.choice([0.0, 0.02]),
            error=chance.choice([0.0, 0.02]),
            lost_answer=chance.choice([0.0, 0.02, 0.05]),
            timeout=chance.choice([0.0, 0.01]),
            drop_watch=chance.choice([0.0, 0.3]),
            expire_watch=chance.choice([0.0, 0.1]),
            delay_event=chance.choice([0.0, 0.1, 1.0]),
            drop_after=5.0,
            exempt=(USER,),
        )
        self.world = world = World(chance, faults, chance.choice([0.01, 0.1, 0.5]))
        self.user = DirectClient(world, USER)
        await self.furnish()
        promises = self.promises = Promises(world, {TEAMS[0]: self.limit})
        self.ears = Ears(promises)
        logging.getLogger("supernode").addHandler(self.ears)
        promises.start()
        lease = chance.randint(4, 10)
        self.replicas = [Replica(world, f"operator-{index}", lease) for index in range(chance.randint(1, 2))]
        background = [world.loop.create_task(part) for part in (self.supervise(), self.kubelet(), self.ticks())]
        await self.new_job()
        for _ in range(STEPS):
            await self.step()
            await asyncio.sleep(chance.choice([0.0, 0.3, 1.0, 3.0, 15.0]) * chance.random())
            if promises.broken:
                return
        await self.until_calm()
        for task in background:
            if task.done() and task.exception() is not None:
                raise task.exception() or RuntimeError

    # --- the cluster --------------------------------------------------------------------------------------------
    async def furnish(self) -> None:
        chance, user = self.chance, self.user
        for path in sorted((ROOT / "crds").glob("*.yaml")):
            await user.create(DEFINITIONS, _definition(path))
        await asyncio.sleep(1)
        for team in TEAMS:
            await user.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": team}})
        for name, value in (("low", 1), ("mid", 50), ("high", 100)):
            body = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": value}
            await user.create(PRIORITY_CLASSES, {**body, "metadata": {"name": name}})
        for index in range(chance.randint(3, 5)):
            await self.add_node(f"node-{index}", index)
        total = 2 * len(self.nodes)
        self.limit = chance.choice([total, total - 2, 4])
        quota = {"namespace": TEAMS[0], "limit": self.limit, "guaranteed": chance.choice([0, 2])}
        everything = {"matchLabels": {"soak": "yes"}}
        pool: Json = {"chip": "hygon-bw1000", "mode": "Emulated", "devicesPerNode": 2, "nodeSelector": everything}
        await self._make(POOLS, {**pool, "quotas": [quota]})
        level = {"name": "sn", "nodeLabel": "soak/sn", "bandwidthGBps": 224, "latencyMicroseconds": 2}
        await self._make(GROUPS, {"nodeSelector": everything, "levels": [level]})

    async def _make(self, kind: Kind, spec: Json) -> None:
        body = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": "soak"}, "spec": spec}
        await self.user.create(kind, body)

    async def add_node(self, name: str, index: int) -> None:
        labels = {"soak": "yes", "soak/sn": f"sn-{index // 2}"}
        await self.user.create(
            NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
        )
        offer = {"cpu": "8", "memory": "16Gi", "pods": "110", "ephemeral-storage": "10Gi"}
        await self.user.patch(NODES, name, {"status": {"capacity": offer, "allocatable": offer}}, subresource="status")
        if name not in self.nodes:
            self.nodes.append(name)
        await self.ready(name, "True")

    async def ready(self, name: str, status: str) -> None:
        (self.down.discard if status == "True" else self.down.add)(name)
        stamp = self.world.server._objects.clock.timestamp()
        condition = {"type": "Ready", "status": status, "reason": "Soak", "lastTransitionTime": stamp}
        await self.user.patch(NODES, name, {"status": {"conditions": [condition]}}, subresource="status")

    async def supervise(self) -> None:
        """Whoever is dead comes again, as its Deployment would have it."""
        while True:
            for replica in self.replicas:
                if replica.dead:
                    if self.promises is not None and replica.lives:
                        self.promises.dead.add(replica.identity)
                    if replica.main is not None and not replica.main.cancelled() and replica.main.exception():
                        exc = replica.main.exception()
                        self.problems.append(f"{replica.identity} ended: {type(exc).__name__}: {exc}")
                    replica.start()
            await asyncio.sleep(self.chance.uniform(0.2, 4.0))

    async def ticks(self) -> None:
        while True:
            await asyncio.sleep(5)
            if self.promises is not None:
                self.promises.tick()

    async def kubelet(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            for pod in self.world.objects(STORED_PODS):
                node = pod["spec"].get("nodeName")
                if node not in self.down and self.world.store.get(("", "nodes"), ("", node)) is not None:
                    with contextlib.suppress(ClusterError):
                        await self.tend(pod)

    async def tend(self, pod: Json) -> None:
        metadata, phase, chance = pod["metadata"], pod["status"].get("phase"), self.chance
        name, namespace = metadata["name"], metadata["namespace"]
        if "deletionTimestamp" in metadata:
            if chance.random() < 0.3:
                await self.user.delete(PODS, name, namespace, uid=metadata["uid"], grace=0)
        elif phase == "Pending":
            if chance.random() < 0.5:
                await self.pod_status(pod, "Running")
        elif phase == "Running":
            if self.calm:
                if chance.random() < 0.1:
                    await self.pod_status(pod, "Succeeded", 0)
            elif chance.random() < 0.004:
                await self.pod_status(pod, "Failed", chance.choice([1, 137]))
            elif chance.random() < 0.002:
                await self.pod_status(pod, "Succeeded", 0)

    async def pod_status(self, pod: Json, phase: str, code: int | None = None) -> None:
        state: Json = {"running": {}} if code is None else {"terminated": {"exitCode": code, "reason": "Error"}}
        container = {"name": "trainer", "state": state, "ready": code is None, "restartCount": 0}
        container |= {"image": "x", "imageID": "x"}
        ready = {"type": "Ready", "status": "True" if phase == "Running" else "False"}
        status = {"phase": phase, "conditions": [ready], "containerStatuses": [container]}
        metadata = pod["metadata"]
        body = {"metadata": {"uid": metadata["uid"]}, "status": status}
        await self.user.patch(PODS, metadata["name"], body, metadata["namespace"], subresource="status")

    # --- what happens -------------------------------------------------------------------------------------------
    async def step(self) -> None:
        steps = [self.new_job, self.new_job, self.kill, self.kill, self.flap, self.flap, self.fail_pod, self.delete_pod]
        steps += [self.suspend, self.scale, self.delete_job, self.cut, self.jump, self.node_away, self.taint]
        steps += [self.unhealthy, self.urgency]
        chosen = self.chance.choice(steps)
        if self.promises is not None:
            self.promises.log(f"--- {chosen.__name__}")
        with contextlib.suppress(ClusterError):
            await chosen()

    def jobs(self) -> list[Json]:
        return self.world.objects(STORED_JOBS)

    async def new_job(self) -> None:
        chance = self.chance
        if len(self.jobs()) >= 6:
            return
        team = chance.choice(TEAMS)
        most = self.limit if team == TEAMS[0] else 2 * len(self.nodes)
        devices = chance.choice([1, 2])
        workers = chance.randint(1, max(1, min(4, most // devices)))
        scheduling: Json = {"priorityClassName": chance.choice(["low", "mid", "high"])}
        if chance.random() < 0.5:
            scheduling["policy"] = {"gang": {"minCount": chance.randint(1, workers), "growAfterSeconds": 5}}
        if chance.random() < 0.2:
            scheduling["disruptionMode"] = "Single"
        policy: Json = {"backoffLimit": chance.choice([10_000, 10_000, 1]), "checkpointSeconds": 2}
        policy |= {"startDeadlineSeconds": 60, "repair": REPAIR}
        if chance.random() < 0.2:
            policy["ttlSecondsAfterFinished"] = chance.choice([0, 20])
        # Names are few, so that jobs come back under the name of one that is just going.
        name = f"job{chance.randrange(5)}"
        container = {"name": "trainer", "image": "soak:1", "command": ["train"]}
        spec: Json = {"pools": ["soak"], "workers": workers, "acceleratorsPerWorker": devices, "framework": "PyTorch"}
        spec |= {"scheduling": scheduling, "runPolicy": policy}
        spec["template"] = {"spec": {"containers": [container], "terminationGracePeriodSeconds": 5}}
        body = {"apiVersion": JOBS.api_version, "kind": JOBS.kind, "metadata": {"name": name}, "spec": spec}
        await self.user.create(JOBS, body, team)

    async def kill(self) -> None:
        for replica in self.chance.sample(self.replicas, self.chance.randint(1, len(self.replicas))):
            if self.promises is not None:
                self.promises.dead.add(replica.identity)
            replica.kill()

    async def cut(self) -> None:
        self.chance.choice(self.replicas).cut(self.world.loop.time() + self.chance.uniform(1, 30))

    async def jump(self) -> None:
        self.chance.choice(self.replicas).skew = self.chance.choice([0.0, -30.0, 2.0, 45.0])

    async def flap(self) -> None:
        await self.ready(self.chance.choice(self.nodes), self.chance.choice(["True", "Unknown", "False"]))

    async def taint(self) -> None:
        taint = {"key": "soak", "effect": self.chance.choice(["NoSchedule", "NoExecute"])}
        spec = {"taints": [taint] if self.chance.random() < 0.5 else None, "unschedulable": self.chance.random() < 0.3}
        await self.user.patch(NODES, self.chance.choice(self.nodes), {"spec": spec})

    async def unhealthy(self) -> None:
        value = self.chance.choice(["0", "0,1", None, None])
        patch = {"metadata": {"annotations": {"supernode.dev/unhealthy-devices": value}}}
        await self.user.patch(NODES, self.chance.choice(self.nodes), patch)

    async def node_away(self) -> None:
        name = self.chance.choice(self.nodes)
        if self.world.store.get(("", "nodes"), ("", name)) is None:
            await self.add_node(name, self.nodes.index(name))
        else:
            await self.user.delete(NODES, name)

    async def fail_pod(self) -> None:
        pods = [pod for pod in self.world.objects(STORED_PODS) if pod["status"].get("phase") == "Running"]
        if pods:
            await self.pod_status(self.chance.choice(pods), "Failed", self.chance.choice([1, 137]))

    async def delete_pod(self) -> None:
        pods = self.world.objects(STORED_PODS)
        if pods:
            metadata = self.chance.choice(pods)["metadata"]
            await self.user.delete(PODS, metadata["name"], metadata["namespace"], grace=self.chance.choice([None, 0]))

    async def delete_job(self) -> None:
        if self.jobs():
            await self._delete(self.chance.choice(self.jobs()))

    async def _delete(self, job: Json) -> None:
        metadata = job["metadata"]
        if self.promises is not None:
            self.promises.deleted.add(metadata["uid"])
        await self.user.delete(JOBS, metadata["name"], metadata["namespace"], uid=metadata["uid"])

    async def suspend(self) -> None:
        await self._edit({"runPolicy": {"suspend": self.chance.random() < 0.5}})

    async def scale(self) -> None:
        # Never more than the cluster and the quota could hold; fewer than minCount is refused, that is fine.
        await self._edit({"workers": self.chance.randint(1, min(4, self.limit // 2))})

    async def urgency(self) -> None:
        await self._edit({"scheduling": {"priorityClassName": self.chance.choice(["low", "mid", "high"])}})

    async def _edit(self, spec: Json) -> None:
        if self.jobs():
            metadata = self.chance.choice(self.jobs())["metadata"]
            await self.user.patch(JOBS, metadata["name"], {"spec": spec}, metadata["namespace"])

    # --- the end ------------------------------------------------------------------------------------------------
    async def until_calm(self) -> None:
        """No more trouble: every job comes to its end, and goes when it is told to."""
        promises, faults = self.promises, self.world.faults
        if promises is None:
            return
        promises.log("--- calm")
        faults.conflict = faults.throttle = faults.error = faults.lost_answer = faults.timeout = 0.0
        faults.drop_watch = faults.expire_watch = 0.0
        self.calm = True
        for replica in self.replicas:
            replica.skew = 0.0
        for index, name in enumerate(self.nodes):
            if self.world.store.get(("", "nodes"), ("", name)) is None:
                await self.add_node(name, index)
            await self.ready(name, "True")
            annotations = {"supernode.dev/unhealthy-devices": None}
            patch = {"metadata": {"annotations": annotations}, "spec": {"taints": None, "unschedulable": None}}
            await self.user.patch(NODES, name, patch)
        for job in self.jobs():
            metadata = job["metadata"]
            with contextlib.suppress(ClusterError):
                patch = {"spec": {"runPolicy": {"suspend": False}}}
                await self.user.patch(JOBS, metadata["name"], patch, metadata["namespace"])
        end = self.world.loop.time() + CALM
        while left := [j for j in self.jobs() if (j.get("status") or {}).get("state") not in ("Succeeded", "Failed")]:
            await asyncio.sleep(2)
            if promises.broken:
                return
            if self.world.loop.time() > end:
                promises.fail(f"job lost: after {CALM:.0f} s of calm {_words(left)}")
                return
        for job in self.jobs():
            with contextlib.suppress(NotFoundError):
                await self._delete(job)
        end = self.world.loop.time() + GONE
        while self.jobs():
            await asyncio.sleep(2)
            if self.world.loop.time() > end:
                break
        await asyncio.sleep(30)
        promises.at_the_end(self.jobs())


def _words(jobs: list[Json]) -> list[str]:
    found = []
    for job in jobs:
        status = job.get("status") or {}
        conditions = [c for c in status.get("conditions") or [] if c["type"] in ("Scheduled", "Accepted")]
        messages = [c.get("message", "") for c in conditions]
        found.append(f"{job['metadata']['name']} is {status.get('state')}: {messages}")
    return found


_DEFINITIONS: dict[Path, Json] = {}


def _definition(path: Path) -> Json:
    if path not in _DEFINITIONS:
        _DEFINITIONS[path] = yaml.safe_load(path.read_text())
    return _DEFINITIONS[path]
