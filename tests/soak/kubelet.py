"""All kubelets, and what runs on them: pods start, report, fail, save checkpoints and end.

As on real nodes a pod waits for its Secret and ConfigMap, and is refused when its node has no devices left.
"""

from __future__ import annotations

import asyncio
import contextlib

from tests.soak.cluster import DEVICES, Cluster
from tests.soak.words import FINISHED, PODS, label
from tests.soak.world import World

from supernode.api.conditions import timestamp
from supernode.cluster.kinds import PODS as POD
from supernode.cluster.kinds import Json
from supernode.errors import ClusterError
from supernode.names import ANNOTATION_CHECKPOINT, ANNOTATION_DEVICES


class Kubelet:
    """Looks after pods twice a second.

    `calm`: nothing fails any more, and everything comes to its end. `told`: until then nothing ends by itself.
    """

    def __init__(self, world: World, cluster: Cluster, *, told: bool = False) -> None:
        self.world, self.cluster, self.chance, self.told = world, cluster, world.chance, told
        self.calm = False

    async def run(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            for pod in self.world.objects(PODS):
                node = pod["spec"].get("nodeName")
                if node not in self.cluster.down and self.cluster.there(node):
                    with contextlib.suppress(ClusterError):
                        await self._tend(pod)

    async def _tend(self, pod: Json) -> None:
        metadata, phase, chance = pod["metadata"], pod["status"].get("phase"), self.chance
        if "deletionTimestamp" in metadata:
            if chance.random() < 0.3:
                await self.cluster.user.delete(
                    POD, metadata["name"], metadata["namespace"], uid=metadata["uid"], grace=0
                )
        elif phase == "Pending":
            if not self._has_room(pod):
                self.world.ledger.note("pod refused by node")
                await self.status(pod, "Failed", 1)
            elif chance.random() < 0.5 and self._has_what_it_mounts(pod):
                await self.status(pod, "Running")
        elif phase == "Running":
            self._report(pod)
            if self.calm:
                if chance.random() < 0.1:
                    await self.status(pod, "Succeeded", 0)
            elif not self.told and chance.random() < 0.004:
                self.world.ledger.note("pod failed")
                await self.status(pod, "Failed", chance.choice([1, 137]))
            elif not self.told and chance.random() < 0.002:
                await self.status(pod, "Succeeded", 0)

    def _has_room(self, pod: Json) -> bool:
        held = 0
        for other in self.world.objects(PODS):
            metadata, status = other["metadata"], other["status"]
            mine = metadata["uid"] == pod["metadata"]["uid"]
            if other["spec"].get("nodeName") == pod["spec"]["nodeName"] and (mine or status.get("phase") == "Running"):
                held += len((metadata.get("annotations") or {}).get(ANNOTATION_DEVICES, "").split(","))
        return held <= DEVICES

    def _has_what_it_mounts(self, pod: Json) -> bool:
        namespace, store = pod["metadata"]["namespace"], self.world.store
        for volume in pod["spec"].get("volumes") or []:
            for kind, field, name in (("secrets", "secret", "secretName"), ("configmaps", "configMap", "name")):
                if field in volume and store.get(("", kind), (namespace, volume[field][name])) is None:
                    return False
        return True

    def _report(self, pod: Json) -> None:
        if label(pod, "rank") != "0":
            return
        key = (label(pod, "job-uid"), int(label(pod, "attempt")))
        known = self.world.progress.get(key, {"step": 0, "steps": 100_000})
        if self.chance.random() < 0.1:
            known = {**known, "step": known["step"] + 10, "stepSeconds": 0.5}
        asked = ANNOTATION_CHECKPOINT in (pod["metadata"].get("annotations") or {})
        if self.chance.random() < (0.3 if asked else 0.005):
            self.world.ledger.note("checkpoint saved")
            known = {**known, "checkpointStep": known["step"], "checkpointAt": timestamp(self.world.wall())}
        self.world.progress[key] = known

    async def status(self, pod: Json, phase: str, code: int | None = None) -> None:
        """The pod is in this phase; `code`: its container has ended with it."""
        if pod["status"].get("phase") in FINISHED:
            return
        state: Json = {"running": {}} if code is None else {"terminated": {"exitCode": code, "reason": "Error"}}
        container = {"name": "trainer", "state": state, "ready": code is None, "restartCount": 0}
        container |= {"image": "x", "imageID": "x"}
        ready = {"type": "Ready", "status": "True" if phase == "Running" else "False"}
        status = {"phase": phase, "conditions": [ready], "containerStatuses": [container]}
        metadata = pod["metadata"]
        body = {"metadata": {"uid": metadata["uid"]}, "status": status}
        await self.cluster.user.patch(POD, metadata["name"], body, metadata["namespace"], subresource="status")
