"""What users do: they make, delete, suspend, resume, scale and hurry jobs, and delete pods, whenever they like.

A name comes back soon, so that jobs follow each other under one name while the first is just going.
"""

from __future__ import annotations

import asyncio
import contextlib
import random

from tests.soak.cluster import BARRED, DEVICES, FIRST, SECOND, TEAMS, TOGETHER, Cluster
from tests.soak.promises import Promises
from tests.soak.words import JOBS as STORED_JOBS
from tests.soak.words import PODS as STORED_PODS
from tests.soak.world import World

from supernode.cluster.kinds import JOBS, PODS, Json
from supernode.errors import ConflictError
from supernode.names import ANNOTATION_DEFRAGMENT

REPAIR: Json = {"nodeLossSeconds": 10, "holdSeconds": 20}
MODEL: Json = {"layers": 8, "hiddenSize": 256, "attentionHeads": 4, "vocabularySize": 1000, "sequenceLength": 128}
# Jobs at a time, and names for them in each namespace.
MOST_JOBS = 6
NAMES = 5
KIND = "soak/kind"


class Users:
    """All users; the server never refuses them for a fault of its own."""

    def __init__(self, world: World, cluster: Cluster, promises: Promises) -> None:
        self.world, self.cluster, self.promises, self.chance = world, cluster, promises, world.chance
        self.user = cluster.user

    def jobs(self) -> list[Json]:
        """All jobs there are."""
        return self.world.objects(STORED_JOBS)

    # --- jobs that come -----------------------------------------------------------------------------------------
    async def new_job(self) -> None:
        """Any job, as long as there are not too many."""
        if len(self.jobs()) >= MOST_JOBS:
            return
        chance, cluster = self.chance, self.cluster
        kinds = ["plain", "plain", "elastic", "elastic", "together", "together"]
        other, first = cluster.size(SECOND), cluster.size(FIRST)
        kinds += ["mix", "mix"] if first // 2 < other else []
        kinds += ["single", "single", "either"] if other else []
        kind = chance.choice(kinds)
        team = TEAMS[1] if kind == "mix" else chance.choice(TEAMS)
        devices = 2 if kind == "mix" else chance.choice([1, 2])
        # A mix has more than the first pool holds: two stages that are spread over both.
        workers = 2 * min(other, first) if kind == "mix" else chance.randint(1, max(1, self.most(kind, team, devices)))
        policy: Json = {"backoffLimit": chance.choice([10_000, 10_000, 1]), "checkpointSeconds": chance.choice([2, 8])}
        if chance.random() < 0.2:
            policy["ttlSecondsAfterFinished"] = chance.choice([0, 20])
        await self.make(
            f"{team}/job{chance.randrange(NAMES)}",
            kind,
            (workers, devices),
            chance.choice(["low", "mid", "high"]),
            fewest=chance.randint(1, workers) if kind == "elastic" else None,
            policy=policy,
        )

    async def make(
        self,
        key: str,
        kind: str,
        size: tuple[int, int],
        priority: str,
        *,
        fewest: int | None = None,
        policy: Json | None = None,
    ) -> None:
        """A job of some kind; `size`: workers, devices of each."""
        team, _, name = key.partition("/")
        pools = {"single": [SECOND], "either": [FIRST, SECOND], "mix": [FIRST, SECOND]}.get(kind, [FIRST])
        scheduling: Json = {"priorityClassName": priority}
        spec: Json = {"pools": pools, "framework": "PyTorch", "scheduling": scheduling}
        if fewest is not None:
            scheduling["policy"] = {"gang": {"minCount": fewest, "growAfterSeconds": 5}}
        if kind == "single":
            scheduling["disruptionMode"] = "Single"
        elif kind == "together":
            scheduling["constraints"] = {"topology": [{"level": "sn", "mode": "Required"}]}
        elif kind == "mix":
            spec |= {"mix": "Stages", "model": MODEL, "parallelism": {"tensor": 1, "pipeline": 2}}
        rules: Json = {"backoffLimit": 10_000, "checkpointSeconds": 2, "startDeadlineSeconds": 60, "repair": REPAIR}
        container = {"name": "trainer", "image": "soak:1", "command": ["train"]}
        spec |= {"workers": size[0], "acceleratorsPerWorker": size[1], "runPolicy": rules | (policy or {})}
        spec["template"] = {"spec": {"containers": [container], "terminationGracePeriodSeconds": 5}}
        metadata = {"name": name, "labels": {KIND: kind}}
        body = {"apiVersion": JOBS.api_version, "kind": JOBS.kind, "metadata": metadata, "spec": spec}
        await self.user.create(JOBS, body, team)
        self.world.ledger.note("job made")

    async def barred_jobs(self, chance: random.Random) -> None:
        """Urgent jobs now and then in a namespace that is not let run any; `chance`: lots of its own."""
        for index in range(2):
            await asyncio.sleep(chance.uniform(1, 60))
            size = (chance.randint(1, self.cluster.plan.first), chance.choice([1, 2]))
            await self.make(f"{BARRED}/job{index}", "plain", size, "high")

    async def scatter(self) -> None:
        """Small jobs that may lie anywhere, and one that needs a domain for itself."""
        for _ in range(self.chance.randint(2, 3)):
            key = f"{TEAMS[1]}/job{self.chance.randrange(NAMES)}"
            await self._unless_there(key, "plain", (1, self.chance.choice([1, 2])), "low")
        await self._unless_there(f"{TEAMS[1]}/job{self.chance.randrange(NAMES)}", "together", (2, 2), "low")

    async def _unless_there(self, key: str, kind: str, size: tuple[int, int], priority: str) -> None:
        if len(self.jobs()) < MOST_JOBS:
            with contextlib.suppress(ConflictError):
                await self.make(key, kind, size, priority)

    def most(self, kind: str, team: str, devices: int) -> int:
        """Workers that such a job may have so that it finds a place one day."""
        room = DEVICES * self.cluster.size(SECOND if kind == "single" else FIRST)
        if team == TEAMS[0] and kind != "single":
            room = min(room, self.cluster.limit)
        if kind == "together":
            room = min(room, DEVICES * TOGETHER)
        return min(4, room // devices)

    # --- jobs that are there ------------------------------------------------------------------------------------
    def _some(self, job: Json | None) -> Json | None:
        return job or (self.chance.choice(self.jobs()) if self.jobs() else None)

    async def delete_job(self, job: Json | None = None) -> None:
        job = self._some(job)
        if job is not None:
            await self.delete(job)
            self.world.ledger.note("job deleted")

    async def delete(self, job: Json) -> None:
        """Delete just this one; from now on it may go."""
        metadata = job["metadata"]
        self.promises.deleted.add(metadata["uid"])
        await self.user.delete(JOBS, metadata["name"], metadata["namespace"], uid=metadata["uid"])

    async def suspend(self, job: Json | None = None) -> None:
        job = self._some(job)
        if job is not None:
            new = not job["spec"]["runPolicy"].get("suspend", False)
            await self.edit(job, {"runPolicy": {"suspend": new}})
            self.world.ledger.note("job suspended" if new else "job resumed")

    async def scale(self, job: Json | None = None) -> None:
        """Never to more than there is room for, nor to fewer than minCount."""
        running = [j for j in self.jobs() if (j.get("status") or {}).get("state") == "Running"]
        if job is None and running and self.chance.random() < 0.7:
            job = self.chance.choice(running)
        job = self._some(job)
        if job is not None and (job["metadata"].get("labels") or {}).get(KIND) != "mix":
            metadata, spec = job["metadata"], job["spec"]
            most = self.most(metadata["labels"][KIND], metadata["namespace"], spec["acceleratorsPerWorker"])
            fewest = spec["scheduling"].get("policy", {}).get("gang", {}).get("minCount") or 1
            await self.edit(job, {"workers": self.chance.randint(fewest, max(fewest, most))})
            self.world.ledger.note("job scaled")

    async def urgency(self) -> None:
        """It may change while the job is suspended."""
        job = self._some(None)
        if job is not None:
            await self.edit(job, {"runPolicy": {"suspend": True}})
            await self.edit(job, {"scheduling": {"priorityClassName": self.chance.choice(["low", "mid", "high"])}})
            await self.edit(job, {"runPolicy": {"suspend": False}})
            self.world.ledger.note("priority changed")

    async def ask_for_moves(self) -> None:
        waiting = [job for job in self.jobs() if (job.get("status") or {}).get("state") == "Waiting"]
        if waiting:
            metadata = self.chance.choice(waiting)["metadata"]
            patch = {"metadata": {"annotations": {ANNOTATION_DEFRAGMENT: "4"}}}
            await self.user.patch(JOBS, metadata["name"], patch, metadata["namespace"])
            self.world.ledger.note("moves asked for")

    async def edit(self, job: Json, spec: Json) -> None:
        """Change a part of the spec."""
        metadata = job["metadata"]
        await self.user.patch(JOBS, metadata["name"], {"spec": spec}, metadata["namespace"])

    async def delete_pod(self) -> None:
        pods = self.world.objects(STORED_PODS)
        if pods:
            metadata = self.chance.choice(pods)["metadata"]
            await self.user.delete(PODS, metadata["name"], metadata["namespace"], grace=self.chance.choice([None, 0]))
            self.world.ledger.note("pod deleted")
