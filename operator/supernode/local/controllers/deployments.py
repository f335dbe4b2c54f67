"""Deployments: one ReplicaSet for the template as it is now, the older ones scaled down step by step.

In: Deployments and ReplicaSets. Out: ReplicaSets with their replicas, and the Deployments' status as `helm install
--wait` and `kubectl rollout status` read it. Left out: adoption, collisions of template hashes, proportional scaling
of a rollout that is paused half way.
"""

from __future__ import annotations

import copy
import hashlib
import json
from datetime import UTC, datetime
from typing import Any, Final

from supernode.local.client import KubeClient
from supernode.local.controllers.loop import Controller, owned_by, owner_reference
from supernode.local.controllers.nodelife import format_time, parse_time

Object = dict[str, Any]

HASH_LABEL: Final = "pod-template-hash"
REVISION: Final = "deployment.kubernetes.io/revision"


class DeploymentController(Controller):
    """Rolls Deployments out."""

    def __init__(self, client: KubeClient) -> None:
        paths = {"deployments": "/apis/apps/v1/deployments", "sets": "/apis/apps/v1/replicasets"}
        super().__init__(client, paths, resync=5.0)

    async def reconcile(self) -> None:
        """Look at every Deployment once."""
        for deployment in self.caches["deployments"]:
            if not deployment["metadata"].get("deletionTimestamp"):
                await self._reconcile_one(deployment)

    async def _reconcile_one(self, deployment: Object) -> None:
        namespace = deployment["metadata"]["namespace"]
        sets = [entry for entry in self.caches["sets"] if entry["metadata"]["namespace"] == namespace]
        sets = [entry for entry in sets if owned_by(entry, deployment) and "deletionTimestamp" not in entry["metadata"]]
        digest = template_hash(deployment["spec"]["template"])
        new = next((entry for entry in sets if entry["metadata"]["labels"].get(HASH_LABEL) == digest), None)
        old = [entry for entry in sets if entry is not new]
        if not deployment["spec"].get("paused"):
            new = await self._current(deployment, new, old, digest)
            await self._roll(deployment, new, old)
            await self._forget(deployment, old)
        await self._report(deployment, new, old)

    async def _current(self, deployment: Object, new: Object | None, old: list[Object], digest: str) -> Object:
        """The ReplicaSet of the template as it is now, with the highest revision number."""
        last = max((_revision(entry) for entry in old), default=0)
        namespace = deployment["metadata"]["namespace"]
        if new is None:
            body = _new_set(deployment, digest, last + 1)
            new = await self.client.create(f"/apis/apps/v1/namespaces/{namespace}/replicasets", body)
            self.caches["sets"].put(new)
        elif _revision(new) <= last:
            # A roll back: the old template is the newest again.
            path = f"/apis/apps/v1/namespaces/{namespace}/replicasets/{new['metadata']['name']}"
            new = await self.client.patch(path, {"metadata": {"annotations": {REVISION: str(last + 1)}}})
            self.caches["sets"].put(new)
        number = str(_revision(new))
        if (deployment["metadata"].get("annotations") or {}).get(REVISION) != number:
            path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{deployment['metadata']['name']}"
            await self.client.patch(path, {"metadata": {"annotations": {REVISION: number}}})
        return new

    async def _roll(self, deployment: Object, new: Object, old: list[Object]) -> None:
        """One step from the old ReplicaSets to the new one."""
        wanted = deployment["spec"].get("replicas", 1)
        strategy = deployment["spec"].get("strategy") or {}
        if strategy.get("type") == "Recreate":
            for entry in old:
                await self._scale(entry, 0)
            if all(not entry["status"].get("replicas") for entry in old):
                await self._scale(new, wanted)
            return
        rolling = strategy.get("rollingUpdate") or {}
        surge = _share(rolling.get("maxSurge", "25%"), wanted, up=True)
        unavailable = _share(rolling.get("maxUnavailable", "25%"), wanted, up=False)
        if surge == 0 and unavailable == 0:
            unavailable = 1
        total = sum(_replicas(entry) for entry in (new, *old))
        if _replicas(new) > wanted:
            await self._scale(new, wanted)
        elif _replicas(new) < wanted:
            await self._scale(new, min(wanted, _replicas(new) + max(wanted + surge - total, 0)))
        # What may go: all that is above the least number of available pods, unready pods first.
        available = sum((entry.get("status") or {}).get("availableReplicas", 0) for entry in (new, *old))
        spare = available - (wanted - unavailable)
        for entry in sorted(old, key=_revision):
            replicas = _replicas(entry)
            unready = max(replicas - (entry.get("status") or {}).get("availableReplicas", 0), 0)
            take = min(replicas, unready + max(spare, 0))
            spare -= max(take - unready, 0)
            if take:
                await self._scale(entry, replicas - take)

    async def _scale(self, replica_set: Object, replicas: int) -> None:
        if _replicas(replica_set) == replicas:
            return
        meta = replica_set["metadata"]
        path = f"/apis/apps/v1/namespaces/{meta['namespace']}/replicasets/{meta['name']}"
        changed = await self.client.patch(path, {"spec": {"replicas": replicas}})
        self.caches["sets"].put(changed)
        replica_set["spec"]["replicas"] = replicas

    async def _forget(self, deployment: Object, old: list[Object]) -> None:
        keep = deployment["spec"].get("revisionHistoryLimit", 10)
        empty = [entry for entry in old if not _replicas(entry) and not entry["status"].get("replicas")]
        for entry in sorted(empty, key=_revision)[: max(len(empty) - keep, 0)]:
            meta = entry["metadata"]
            await self.client.delete(f"/apis/apps/v1/namespaces/{meta['namespace']}/replicasets/{meta['name']}")

    async def _report(self, deployment: Object, new: Object | None, old: list[Object]) -> None:
        everything = [*old, *([new] if new else [])]
        total, ready, available = (
            sum((entry.get("status") or {}).get(key, 0) for entry in everything)
            for key in ("replicas", "readyReplicas", "availableReplicas")
        )
        wanted = deployment["spec"].get("replicas", 1)
        updated = (new or {}).get("status", {}).get("replicas", 0)
        status = {
            "observedGeneration": deployment["metadata"].get("generation", 0),
            "replicas": total,
            "updatedReplicas": updated,
            "readyReplicas": ready,
            "availableReplicas": available,
            "unavailableReplicas": max(wanted - available, 0),
        }
        previous = deployment.get("status") or {}
        rolling = (deployment["spec"].get("strategy") or {}).get("rollingUpdate") or {}
        least = wanted - _share(rolling.get("maxUnavailable", "25%"), wanted, up=False)
        complete = updated == wanted == available == total
        moved = any(previous.get(key, 0) != value for key, value in status.items())
        conditions = [
            _condition(
                previous,
                "Available",
                available >= least,
                ("MinimumReplicasAvailable", "Deployment has minimum availability.")
                if available >= least
                else ("MinimumReplicasUnavailable", "Deployment does not have minimum availability."),
            ),
            _progress(deployment, new, complete, moved),
        ]
        if moved or conditions != (previous.get("conditions") or []):
            meta = deployment["metadata"]
            path = f"/apis/apps/v1/namespaces/{meta['namespace']}/deployments/{meta['name']}/status"
            body = {"status": {**status, "conditions": conditions}}
            self.caches["deployments"].put(await self.client.patch(path, body))


def _progress(deployment: Object, new: Object | None, complete: bool, moved: bool) -> Object:
    previous = deployment.get("status") or {}
    old = _find(previous, "Progressing")
    name = (new or {}).get("metadata", {}).get("name", "")
    if complete:
        return _condition(
            previous,
            "Progressing",
            True,
            ("NewReplicaSetAvailable", f'ReplicaSet "{name}" has successfully progressed.'),
        )
    limit = deployment["spec"].get("progressDeadlineSeconds", 600)
    if not moved and old and old.get("reason") in ("ReplicaSetUpdated", "ProgressDeadlineExceeded"):
        idle = (datetime.now(UTC) - parse_time(old["lastUpdateTime"])).total_seconds()
        if idle > limit:
            message = f'ReplicaSet "{name}" has timed out progressing.'
            return _condition(previous, "Progressing", False, ("ProgressDeadlineExceeded", message))
        return old
    entry = _condition(previous, "Progressing", True, ("ReplicaSetUpdated", f'ReplicaSet "{name}" is progressing.'))
    return {**entry, "lastUpdateTime": format_time(datetime.now(UTC))}


def _condition(previous: Object, kind: str, state: bool, why: tuple[str, str]) -> Object:
    old = _find(previous, kind)
    now = format_time(datetime.now(UTC))
    fresh = {"type": kind, "status": str(state), "reason": why[0], "message": why[1]}
    if old and all(old.get(key) == value for key, value in fresh.items()):
        return old
    same = old is not None and old.get("status") == str(state)
    return {**fresh, "lastUpdateTime": now, "lastTransitionTime": old["lastTransitionTime"] if same and old else now}


def _find(status: Object, kind: str) -> Object | None:
    return next((entry for entry in status.get("conditions") or [] if entry["type"] == kind), None)


def _new_set(deployment: Object, digest: str, revision: int) -> Object:
    template = copy.deepcopy(deployment["spec"]["template"])
    labels = {**(template.setdefault("metadata", {}).get("labels") or {}), HASH_LABEL: digest}
    template["metadata"]["labels"] = labels
    selector = copy.deepcopy(deployment["spec"]["selector"])
    selector["matchLabels"] = {**(selector.get("matchLabels") or {}), HASH_LABEL: digest}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{deployment['metadata']['name']}-{digest}",
            "namespace": deployment["metadata"]["namespace"],
            "labels": labels,
            "annotations": {REVISION: str(revision)},
            "ownerReferences": [owner_reference(deployment, "apps/v1", "Deployment")],
        },
        "spec": {
            "replicas": 0,
            "minReadySeconds": deployment["spec"].get("minReadySeconds", 0),
            "selector": selector,
            "template": template,
        },
    }


def template_hash(template: Object) -> str:
    """A short name for a pod template, equal for equal templates."""
    text = json.dumps(template, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _revision(replica_set: Object) -> int:
    return int((replica_set["metadata"].get("annotations") or {}).get(REVISION) or 0)


def _replicas(replica_set: Object) -> int:
    return int(replica_set["spec"].get("replicas", 1))


def _share(value: int | str, whole: int, *, up: bool) -> int:
    """A number, or a percentage of `whole`, rounded up or down."""
    if isinstance(value, int):
        return value
    percent = int(value.rstrip("%"))
    return -(-whole * percent // 100) if up else whole * percent // 100
