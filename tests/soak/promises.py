"""What the operator promises, checked at every change of the server's store, by rules of its own.

It sees the truth (the store), not what any client believes, and it knows what the users have done: `deleted` jobs.
Nothing here is taken from the operator's code but names of labels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.soak.world import USER, WRITER, World

from supernode.cluster.kinds import Json
from supernode.local.server.store import Change, ResourceKey

PODS: ResourceKey = ("", "pods")
JOBS: ResourceKey = ("supernode.dev", "trainingjobs")
LEASES: ResourceKey = ("coordination.k8s.io", "leases")
SHARED: tuple[ResourceKey, ...] = (("", "services"), ("", "secrets"), ("", "configmaps"))
FINISHED = ("Succeeded", "Failed")
# Seconds that a part of a gang may run, over all that the schedules' policies allow: loss of a node (10), patience
# with its pods (30 and their grace), repair (20), start (60), and a new leader twice.
HALF = 240.0


@dataclass
class Promises:
    """Watches over the store.

    Args:
        world: what is watched.
        limits: namespace -> most devices that its jobs may hold.
    """

    world: World
    limits: dict[str, int]
    deleted: set[str] = field(default_factory=set)  # uids of jobs that a user deleted
    dead: set[str] = field(default_factory=set)  # identities that were killed: their last words may still come
    broken: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    _half: dict[str, float] = field(default_factory=dict)
    _last: dict[str, tuple[str, int, int]] = field(default_factory=dict)

    def start(self) -> None:
        self.world.store.listeners.append(self.see)
        self.world.on_send = self.sent

    def fail(self, sentence: str) -> None:
        self.broken.append(f"{self.world.loop.time():.3f} s: {sentence}")

    def log(self, sentence: str) -> None:
        self.trace.append(f"{self.world.loop.time():9.3f} {sentence}")

    # --- every change -------------------------------------------------------------------------------------------
    def see(self, resource: ResourceKey, change: Change) -> None:
        obj, writer = change.now.obj, WRITER.get()
        if resource == PODS:
            self.log(f"{writer} {change.kind} pod {_pod_words(obj)}")
            self._pod(change, obj, writer)
        elif resource == JOBS:
            self.log(f"{writer} {change.kind} job {_job_words(obj)}")
            self._job(change, obj)
        elif resource in (LEASES, ("", "nodes")):
            self.log(f"{writer} {change.kind} {resource[1]} {change.key[1]} {_lease_words(obj)}")

    def _pod(self, change: Change, obj: Json, writer: str) -> None:
        uid = _label(obj, "job-uid")
        if not uid or change.kind == "DELETED":
            return
        if change.kind == "ADDED":
            self._devices()
            others = {_label(pod, "attempt") for pod in self._live(uid)} - {_label(obj, "attempt")}
            if others:
                self.fail(f"job run twice: {_pod_words(obj)} while pods of attempt {sorted(others)} live")
            self._made(obj, uid, writer)

    def _made(self, pod: Json, uid: str, writer: str) -> None:
        """A pod is made for a job that claims just this place, unless its maker is dead meanwhile."""
        if writer in self.dead:
            return
        job = next((job for job in self.world.objects(JOBS) if job["metadata"]["uid"] == uid), None)
        if job is None:
            self.fail(f"a pod of no job is made: {_pod_words(pod)}")
            return
        status = job.get("status") or {}
        placement = status.get("placement") or {}
        worker = next((w for w in placement.get("workers") or [] if str(w["rank"]) == _label(pod, "rank")), None)
        devices = pod["metadata"]["annotations"].get("supernode.dev/devices")
        claimed = None if worker is None else (worker["node"], ",".join(map(str, worker["devices"])))
        if claimed != (pod["spec"]["nodeName"], devices) or str(placement.get("attempt")) != _label(pod, "attempt"):
            self.fail(f"a pod is made without a claim: {_pod_words(pod)}; {_job_words(job)} claims {claimed}")
        if status.get("state") in FINISHED:
            self.fail(f"job run twice: it has ended, and {_pod_words(pod)} is made")

    def _devices(self) -> None:
        held: dict[tuple[str, str], str] = {}
        for pod in self.world.objects(PODS):
            if not _live(pod):
                continue
            for device in filter(None, pod["metadata"]["annotations"].get("supernode.dev/devices", "").split(",")):
                other = held.setdefault((pod["spec"]["nodeName"], device), _pod_words(pod))
                if other != _pod_words(pod):
                    self.fail(f"a device in two hands: {device} of {other} and of {_pod_words(pod)}")

    def _job(self, change: Change, obj: Json) -> None:
        metadata, status = obj["metadata"], obj.get("status") or {}
        uid = metadata["uid"]
        if change.kind == "DELETED":
            self._job_gone(obj, uid)
            return
        now = (str(status.get("state")), int(status.get("attempt") or 0), int(status.get("restarts") or 0))
        before = self._last.get(uid)
        if before is not None:
            if before[0] in FINISHED and now[0] != before[0]:
                self.fail(f"job run twice: {before[0]} became {now[0]}: {_job_words(obj)}")
            if now[1] < before[1]:
                self.fail(f"an attempt is forgotten: {before} -> {now}: {_job_words(obj)}")
        self._last[uid] = now
        limit = obj["spec"]["runPolicy"].get("backoffLimit", 0)
        if now[0] == "Failed" and (before is None or before[0] != "Failed") and now[2] < limit:
            self.fail(f"job lost: failed after {now[2]} of {limit} restarts: {_job_words(obj)}")
        if status.get("placement") != ((change.was.obj.get("status") or {}).get("placement") if change.was else None):
            self._claims()

    def _job_gone(self, obj: Json, uid: str) -> None:
        if uid not in self.deleted and obj["spec"]["runPolicy"].get("ttlSecondsAfterFinished") is None:
            self.fail(f"job lost: nobody has deleted {_job_words(obj)}")
        left = [_pod_words(pod) for pod in self._live(uid)]
        if left:
            self.fail(f"orphan pods: job {_job_words(obj)} is gone before {left}")

    def _claims(self) -> None:
        """No device is claimed by two, nor while somebody else's pod lives on it; quotas hold."""
        held: dict[tuple[str, int], str] = {}
        used: dict[str, int] = {}
        for job in self.world.objects(JOBS):
            uid, status = job["metadata"]["uid"], job.get("status") or {}
            if status.get("state") in FINISHED and not self._live(uid):
                continue
            for worker in (status.get("placement") or {}).get("workers") or []:
                for device in worker["devices"]:
                    other = held.setdefault((worker["node"], device), uid)
                    if other != uid:
                        self.fail(f"a device in two hands: {worker['node']} {device} is claimed by {other} and {uid}")
                    namespace = job["metadata"]["namespace"]
                    used[namespace] = used.get(namespace, 0) + 1
        for pod in self.world.objects(PODS):
            uid = _label(pod, "job-uid")
            if not uid or not _live(pod):
                continue
            for device in filter(None, pod["metadata"]["annotations"].get("supernode.dev/devices", "").split(",")):
                owner = held.get((pod["spec"]["nodeName"], int(device)), uid)
                if owner != uid:
                    self.fail(f"a device in two hands: claimed by {owner}, and {_pod_words(pod)} lives on it")
        for namespace, limit in self.limits.items():
            if used.get(namespace, 0) > limit:
                self.fail(f"quota exceeded: {namespace} holds {used[namespace]} of {limit} devices")

    # --- requests and time --------------------------------------------------------------------------------------
    def sent(self, agent: str, method: str, path: str) -> None:
        """Who writes holds the lease."""
        if agent == USER or method == "GET" or "/leases" in path:
            return
        leases = [lease["spec"].get("holderIdentity") for lease in self.world.objects(LEASES)]
        if leases and leases[0] not in (agent, ""):
            self.fail(f"{agent} writes ({method} {path}) while {leases[0]} leads")

    def tick(self) -> None:
        """Part of a gang may run for so long only."""
        now = self.world.loop.time()
        for job in self.world.objects(JOBS):
            uid, status = job["metadata"]["uid"], job.get("status") or {}
            count = len((status.get("placement") or {}).get("workers") or [])
            pods = [pod for pod in self.world.objects(PODS) if _label(pod, "job-uid") == uid]
            there = sum(
                "deletionTimestamp" not in pod["metadata"] and pod["status"].get("phase") != "Failed" for pod in pods
            )
            if not 0 < there < count or status.get("state") in FINISHED:
                self._half.pop(uid, None)
            elif now - self._half.setdefault(uid, now) > HALF:
                self.fail(f"half a gang: {there} of {count} pods for {HALF:.0f} s: {_job_words(job)}")
                self._half[uid] = now

    def at_the_end(self, stuck: Iterable[Json]) -> None:
        """All jobs have been deleted, and time enough has gone by."""
        for job in stuck:
            self.fail(f"a finalizer is stuck: {_job_words(job)} {job['metadata'].get('finalizers')}")
        for resource in (PODS, *SHARED):
            for obj in self.world.objects(resource):
                if _label(obj, "job-uid"):
                    self.fail(f"orphan: {resource[1]} {obj['metadata']['name']}")

    def _live(self, uid: str) -> list[Json]:
        return [pod for pod in self.world.objects(PODS) if _label(pod, "job-uid") == uid and _live(pod)]


class Ears(logging.Handler):
    """An error in the operator's log is a fault of the operator, but for the one that tells of a lost lease."""

    def __init__(self, promises: Promises) -> None:
        super().__init__(logging.ERROR)
        self._promises = promises

    def emit(self, record: logging.LogRecord) -> None:
        sentence = record.getMessage()
        if "lost the lease" not in sentence:
            text = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
            self._promises.fail(f"the operator's log has an error: {sentence} {text}")


def _label(obj: Json, name: str) -> str:
    return str((obj["metadata"].get("labels") or {}).get(f"supernode.dev/{name}", ""))


def _live(pod: Json) -> bool:
    return pod["status"].get("phase") not in FINISHED


def _pod_words(pod: Json) -> str:
    metadata = pod["metadata"]
    devices = (metadata.get("annotations") or {}).get("supernode.dev/devices")
    end = " ending" if "deletionTimestamp" in metadata else ""
    attempt = _label(pod, "attempt")
    return (
        f"{metadata['namespace']}/{metadata['name']}#{attempt} on {pod['spec'].get('nodeName')} [{devices}]"
        f" {pod['status'].get('phase')}{end}"
    )


def _job_words(job: Json) -> str:
    metadata, status = job["metadata"], job.get("status") or {}
    placement = status.get("placement") or {}
    places = [f"{w['node']}{w['devices']}" for w in placement.get("workers") or []]
    end = " deleting" if "deletionTimestamp" in metadata else ""
    return (
        f"{metadata['namespace']}/{metadata['name']} {status.get('state')} attempt {status.get('attempt')}"
        f" restarts {status.get('restarts')} at {places}{end}"
    )


def _lease_words(obj: Json) -> str:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    ready = [c["status"] for c in status.get("conditions") or [] if c["type"] == "Ready"]
    return f"{spec.get('holderIdentity', '')} {ready} {spec.get('taints', '')} {spec.get('unschedulable', '')}"
