"""What the operator promises, checked at every change of the server's store, by rules of its own.

It sees the truth (the store), not what any client believes, and it knows what the users have done: `deleted` jobs.
Nothing here is taken from the operator's code but names of labels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.soak.witness import watch_job
from tests.soak.words import (
    FINISHED,
    JOBS,
    LEASES,
    PODS,
    SHARED,
    devices_of,
    job_words,
    label,
    lives,
    other_words,
    pod_words,
    workers_of,
)
from tests.soak.world import GIVEN_UP, USER, WRITER, World

from supernode.cluster.kinds import Json
from supernode.local.server.store import Change, ResourceKey

# Seconds that a part of a gang may run, over all that the schedules' policies allow: loss of a node (10), patience
# with its pods (30 and their grace), repair (20), start (60), and a new leader twice.
HALF = 240.0
# Seconds in which a pod of no job has to go, and a job that is deleted and has no pods any more.
GONE = 240.0


@dataclass
class Promises:
    """Watches over the store.

    Args:
        world: what is watched.
        limits: (pool, namespace) -> most devices that the namespace's jobs may hold.
    """

    world: World
    limits: dict[tuple[str, str], int]
    deleted: set[str] = field(default_factory=set)  # uids of jobs that a user deleted
    dead: set[str] = field(default_factory=set)  # identities that were killed: their last words may still come
    broken: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    _since: dict[tuple[str, str], float] = field(default_factory=dict)  # (what, uid) -> since when it is so
    _last: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    _ended: set[tuple[str, str, str]] = field(default_factory=set)  # (job, attempt, rank) that succeeded
    # Pods that were made by a request which nobody waited for any more: swept, as nothing else can stop them.
    _strays: set[str] = field(default_factory=set)
    _names: set[tuple[str, str]] = field(default_factory=set)
    _holder: str = ""

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
            self.log(f"{writer} {change.kind} pod {pod_words(obj)}")
            self._pod(change, obj, writer)
        elif resource == JOBS:
            self.log(f"{writer} {change.kind} job {job_words(obj)}")
            self._job(change, obj)
        elif resource in (LEASES, ("", "nodes")):
            self.log(f"{writer} {change.kind} {resource[1]} {change.key[1]} {other_words(obj)}")
            if resource == LEASES:
                self._lease(str(obj["spec"].get("holderIdentity") or ""))

    def _lease(self, holder: str) -> None:
        if holder and self._holder not in ("", holder):
            self.world.ledger.note("lease changed hands")
        self._holder = holder or self._holder

    def _pod(self, change: Change, obj: Json, writer: str) -> None:
        uid = label(obj, "job-uid")
        if uid and change.kind != "DELETED" and obj["status"].get("phase") == "Succeeded":
            self._ended.add((uid, label(obj, "attempt"), label(obj, "rank")))
        if change.kind == "DELETED" and obj["metadata"]["uid"] in self._strays:
            self.world.ledger.note("stray pod swept")
        if not uid or change.kind != "ADDED":
            return
        if GIVEN_UP.get():
            self._strays.add(obj["metadata"]["uid"])
            self.world.ledger.note("stray pod arrives")
            return
        self._devices()
        others = {label(pod, "attempt") for pod in self._live(uid)} - {label(obj, "attempt")}
        if others:
            self.fail(f"job run twice: {pod_words(obj)} while pods of attempt {sorted(others)} live")
        if writer not in self.dead:
            self._made(obj, uid)

    def _made(self, pod: Json, uid: str) -> None:
        """A pod is made for a job that claims just this place."""
        job = next((job for job in self.world.objects(JOBS) if job["metadata"]["uid"] == uid), None)
        if job is None:
            self.fail(f"a pod of no job is made: {pod_words(pod)}")
            return
        status = job.get("status") or {}
        worker = next((w for w in workers_of(job) if str(w["rank"]) == label(pod, "rank")), None)
        claimed = None if worker is None else (worker["node"], list(map(str, worker["devices"])))
        attempt = str((status.get("placement") or {}).get("attempt"))
        if claimed != (pod["spec"]["nodeName"], devices_of(pod)) or attempt != label(pod, "attempt"):
            self.fail(f"a pod is made without a claim: {pod_words(pod)}; {job_words(job)} claims {claimed}")
        if status.get("state") in FINISHED:
            self.fail(f"job run twice: it has ended, and {pod_words(pod)} is made")

    def _devices(self) -> None:
        held: dict[tuple[str, str], str] = {}
        for pod in self._all_live():
            for device in devices_of(pod):
                other = held.setdefault((pod["spec"]["nodeName"], device), pod_words(pod))
                if other != pod_words(pod):
                    self.fail(f"a device in two hands: {device} of {other} and of {pod_words(pod)}")

    def _job(self, change: Change, obj: Json) -> None:
        metadata, status = obj["metadata"], obj.get("status") or {}
        uid = metadata["uid"]
        if change.kind == "DELETED":
            self._job_gone(obj, uid)
            return
        was = change.was.obj if change.was else None
        if was is None and change.key in self._names:
            self.world.ledger.note("job comes under an old name")
        self._names.add(change.key)
        watch_job(self.world.ledger, was, obj)
        now = (str(status.get("state")), int(status.get("attempt") or 0), int(status.get("restarts") or 0))
        before = self._last.get(uid)
        self._last[uid] = now
        if before is not None:
            if before[0] in FINISHED and now[0] != before[0]:
                self.fail(f"job run twice: {before[0]} became {now[0]}: {job_words(obj)}")
            if now[1] < before[1] or now[2] < before[2]:
                self.fail(f"an attempt is forgotten: {before} -> {now}: {job_words(obj)}")
        if now[0] in FINISHED and (before is None or before[0] != now[0]):
            self._job_ended(obj, now)
        if metadata["namespace"] in self.world.barred and status.get("nomination"):
            self.fail(f"stopped in vain: others make room for a gang whose pods are refused: {job_words(obj)}")
        if ((was or {}).get("status") or {}).get("checkpoint") and not status.get("checkpoint"):
            self.fail(f"a checkpoint is forgotten: {job_words(obj)}")
        if status.get("placement") != ((was or {}).get("status") or {}).get("placement"):
            self._claimed(was or {}, obj)
            self._claims()

    def _job_ended(self, obj: Json, now: tuple[str, int, int]) -> None:
        limit, uid = obj["spec"]["runPolicy"].get("backoffLimit", 0), obj["metadata"]["uid"]
        if now[0] == "Failed" and now[2] < limit:
            self.fail(f"job lost: failed after {now[2]} of {limit} restarts: {job_words(obj)}")
        ended = {rank for job, attempt, rank in self._ended if (job, attempt) == (uid, str(now[1]))}
        missing = [each["rank"] for each in workers_of(obj) if str(each["rank"]) not in ended]
        if now[0] == "Succeeded" and (missing or not workers_of(obj)):
            self.fail(f"job lost: it has succeeded, but its workers {missing} have not: {job_words(obj)}")

    def _job_gone(self, obj: Json, uid: str) -> None:
        by_itself = obj["spec"]["runPolicy"].get("ttlSecondsAfterFinished") is not None
        if uid not in self.deleted:
            if not by_itself or (obj.get("status") or {}).get("state") not in FINISHED:
                self.fail(f"job lost: nobody has deleted {job_words(obj)}")
            self.world.ledger.note("gone by ttl", by_itself)
        left = [pod_words(pod) for pod in self._live(uid)]
        if left:
            self.fail(f"orphan pods: job {job_words(obj)} is gone before {left}")

    def _claimed(self, was: Json, job: Json) -> None:
        """Never half a gang: each attempt starts with as many workers as its policy wants at that moment."""
        spec, count, now = job["spec"], len(workers_of(job)), job["status"].get("placement") or {}
        before = (was.get("status") or {}).get("placement") or {}
        fewest = spec["scheduling"].get("policy", {}).get("gang", {}).get("minCount") or spec["workers"]
        if 0 < count < fewest and before.get("attempt") != now.get("attempt"):
            self.fail(f"half a gang: {count} workers are placed, {fewest} are the fewest: {job_words(job)}")

    def _claims(self) -> None:
        """No device is claimed by two, nor while somebody else's pod lives on it; quotas hold."""
        held: dict[tuple[str, int], str] = {}
        used: dict[tuple[str, str], int] = {}
        for job in self.world.objects(JOBS):
            uid, status = job["metadata"]["uid"], job.get("status") or {}
            if status.get("state") in FINISHED and not self._live(uid):
                continue
            for worker in workers_of(job):
                of = (worker["pool"], job["metadata"]["namespace"])
                used[of] = used.get(of, 0) + len(worker["devices"])
                for device in worker["devices"]:
                    other = held.setdefault((worker["node"], device), uid)
                    if other != uid:
                        self.fail(f"a device in two hands: {worker['node']} {device} is claimed by {other} and {uid}")
        for pod in self._all_live():
            uid = label(pod, "job-uid")
            for device in devices_of(pod):
                owner = held.get((pod["spec"]["nodeName"], int(device)), uid)
                if owner != uid:
                    self.fail(f"a device in two hands: claimed by {owner}, and {pod_words(pod)} lives on it")
        for of, limit in self.limits.items():
            if used.get(of, 0) > limit:
                self.fail(f"quota exceeded: {of[1]} holds {used[of]} of {limit} devices of {of[0]}")

    # --- requests and time --------------------------------------------------------------------------------------
    def sent(self, agent: str, method: str, path: str) -> None:
        """Who writes holds the lease."""
        if agent == USER or method == "GET" or "/leases" in path:
            return
        leases = [lease["spec"].get("holderIdentity") for lease in self.world.objects(LEASES)]
        if leases and leases[0] not in (agent, ""):
            self.fail(f"{agent} writes ({method} {path}) while {leases[0]} leads")

    def tick(self) -> None:
        """What may be so for a while only: part of a gang runs, a pod has no job, a deleted job has no pods."""
        uids = {job["metadata"]["uid"] for job in self.world.objects(JOBS)}
        for job in self.world.objects(JOBS):
            uid, status, count = job["metadata"]["uid"], job.get("status") or {}, len(workers_of(job))
            pods = [pod for pod in self.world.objects(PODS) if label(pod, "job-uid") == uid]
            there = sum("deletionTimestamp" not in p["metadata"] and p["status"].get("phase") != "Failed" for p in pods)
            half = 0 < there < count and status.get("state") not in FINISHED
            if self._too_long(f"half {status.get('attempt')}", uid, half, HALF):
                self.fail(f"half a gang: {there} of {count} pods for {HALF:.0f} s: {job_words(job)}")
            stuck = "deletionTimestamp" in job["metadata"] and not pods
            if self._too_long("stuck", uid, stuck, GONE):
                self.fail(f"a finalizer is stuck for {GONE:.0f} s: {job_words(job)}")
        for pod in self.world.objects(PODS):
            orphan = bool(label(pod, "job-uid")) and label(pod, "job-uid") not in uids
            if self._too_long("orphan", pod["metadata"]["uid"], orphan, GONE):
                self.fail(f"orphan: pod {pod_words(pod)} has had no job for {GONE:.0f} s")

    def _too_long(self, what: str, uid: str, so: bool, most: float) -> bool:
        now = self.world.loop.time()
        if not so:
            self._since.pop((what, uid), None)
            return False
        return now - self._since.setdefault((what, uid), now) > most

    def at_the_end(self, stuck: Iterable[Json]) -> None:
        """All jobs have been deleted, and time enough has gone by."""
        for job in stuck:
            self.fail(f"a finalizer is stuck: {job_words(job)} {job['metadata'].get('finalizers')}")
        for resource in (PODS, *SHARED):
            for obj in self.world.objects(resource):
                if label(obj, "job-uid"):
                    self.fail(f"orphan: {resource[1]} {obj['metadata']['name']}")

    def _all_live(self) -> list[Json]:
        """Pods that live, but for strays."""
        pods = self.world.objects(PODS)
        return [p for p in pods if label(p, "job-uid") and lives(p) and p["metadata"]["uid"] not in self._strays]

    def _live(self, uid: str) -> list[Json]:
        return [pod for pod in self._all_live() if label(pod, "job-uid") == uid]


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
