"""The life of a job, as a pure function: (job, its pods, now) -> what to write and what to do.

Flows in: `JobFacts` and `PodFacts`, read from the API a moment ago; nothing is remembered between calls, so an
operator that was killed goes on from what the API holds. Flows out: one `Decision`.

The order in which a decision is carried out is part of the promise: its status is written first, onto the version
that was read; only when that worked are pods deleted or created. A gang's places (the claim) are freed only when
every pod of the gang is gone.

    Pending -> Waiting -> Starting -> Running -> Succeeded
       ^          ^          |           |   \\-> Failed
       |          |          v           v
       |          +----- Restarting <----+          any state -> Suspended -> Pending
       +-- the claim is released when no pod is left

Not here: where a gang goes (`cycle`), requests (`jobs`), words for people beyond one sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """`status.state` of a job."""

    PENDING = "Pending"
    WAITING = "Waiting"
    STARTING = "Starting"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"

    @property
    def finished(self) -> bool:
        """Whether the job will never run again."""
        return self in (State.SUCCEEDED, State.FAILED)


# Exit codes from here on (128 + signal) are retried under the ExitCode policy; smaller ones are the program's own.
FIRST_RETRIED_EXIT_CODE: Final = 128
# Seconds that a pod on a node that is not ready has after its grace period, before it is deleted by force.
PATIENCE: Final = 30.0


@dataclass(frozen=True, slots=True)
class RunPolicy:
    """`spec.runPolicy`: seconds are seconds; None is "no limit"."""

    suspend: bool = False
    backoff_limit: int = 3
    ttl: int | None = None
    deadline: int | None = None
    clean: str = "Running"
    by_exit_code: bool = False


@dataclass(frozen=True, slots=True)
class PodFacts:
    """One pod of the job, whichever attempt it belongs to.

    `broken`: a container has failed for good, even if others of the pod still run.
    `winding_down`: all its containers have ended for good, and only sidecars are still being stopped.
    `node_gone`: its node is no longer in the cluster, so no kubelet will ever confirm its end.
    `node_lost`: its node is not ready: a kubelet may never confirm its end.
    `ends_at`: of one that is being deleted, when it should be gone (seconds since the epoch).
    `trouble`: why a container can't start, where the kubelet says so.
    """

    name: str
    uid: str
    rank: int
    attempt: int
    phase: str = "Pending"
    ready: bool = False
    deleting: bool = False
    node: str = ""
    broken: bool = False
    winding_down: bool = False
    node_gone: bool = False
    node_lost: bool = False
    ends_at: float | None = None
    exit_code: int | None = None
    reason: str = ""
    message: str = ""
    trouble: str = ""

    @property
    def over(self) -> bool:
        """Whether its containers have ended for good: it holds nothing any more."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def given_up_at(self) -> float | None:
        """When it is deleted by force: at once without a node, and some time after its end on one that is lost."""
        if self.node_gone:
            return 0.0
        return self.ends_at + PATIENCE if self.node_lost and self.ends_at is not None else None


@dataclass(frozen=True, slots=True)
class JobFacts:
    """The job as the API has it.

    `workers`: of the gang as it is placed, else as wanted. `wanted`: by the spec, 0 where that can't be read.
    `placed_attempt`: the attempt that `status.placement` belongs to, None if there is none.
    """

    workers: int
    wanted: int = 0
    policy: RunPolicy = field(default_factory=RunPolicy)
    deleting: bool = False
    accepted: bool = True
    state: State = State.PENDING
    attempt: int = 0
    restarts: int = 0
    placed_attempt: int | None = None
    started: float | None = None
    completed: float | None = None


@dataclass(frozen=True, slots=True)
class PodRef:
    """A pod to delete: exactly this one. `force`: at once, because nobody would confirm its end."""

    name: str
    uid: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What the status should say (state .. counts), then what to do (create .. wake_at).

    `reason` and `message` explain the state. `release`: take the placement out of the status.
    `wake_at`: decide again at this time (seconds since the epoch) even if nothing changes.
    """

    state: State
    attempt: int
    restarts: int
    reason: str = ""
    message: str = ""
    release: bool = False
    started: float | None = None
    completed: float | None = None
    create: tuple[int, ...] = ()
    delete: tuple[PodRef, ...] = ()
    wants_placement: bool = False
    remove_finalizer: bool = False
    delete_job: bool = False
    wake_at: float | None = None


def decide(job: JobFacts, pods: Sequence[PodFacts], now: float) -> Decision:
    """What to do about a job now.

    Args:
        job: facts of the job.
        pods: every pod that carries the job's uid.
        now: seconds since the epoch.
    """
    decision = _decide(job, pods, now)
    times = [pod.given_up_at for pod in pods if pod.given_up_at is not None and pod.given_up_at > now]
    if decision.wake_at is not None:
        times.append(decision.wake_at)
    return replace(decision, wake_at=min(times, default=None))


def _decide(job: JobFacts, pods: Sequence[PodFacts], now: float) -> Decision:
    keep = Decision(job.state, job.attempt, job.restarts, started=job.started, completed=job.completed)
    if job.deleting:
        return replace(
            keep,
            reason="Deleting",
            message=f"{len(pods)} pods are still there" if pods else "",
            delete=_all_of(pods, now),
            remove_finalizer=not pods,
        )
    if job.state.finished:
        return _after_the_end(keep, job, pods, now)
    draining = job.state in (State.RESTARTING, State.SUSPENDED) or job.placed_attempt not in (None, job.attempt)
    if job.placed_attempt is not None and not draining:
        return _placed(keep, job, pods, now)
    if pods:
        # The rest of an attempt that is over (or of one whose placement is not known): first let it all end.
        # A state that drains stays until the claim is released: a resume half-way must not look like a lost worker.
        rest = State.PENDING if job.placed_attempt is None else job.state
        state = State.SUSPENDED if job.policy.suspend else rest
        return replace(keep, state=state, reason="Draining", message=_draining(pods), delete=_all_of(pods, now))
    if job.placed_attempt is not None:
        # Nothing of the attempt is left: only now may others have its devices.
        state = State.SUSPENDED if job.policy.suspend else State.PENDING
        return replace(keep, state=state, reason="Released", release=True, attempt=job.attempt + 1, started=None)
    if job.policy.suspend:
        message = "spec.runPolicy.suspend is true"
        return replace(keep, state=State.SUSPENDED, reason="Suspended", message=message, started=None)
    if not job.accepted:
        return replace(keep, state=State.PENDING, reason="Misconfigured")
    state = State.WAITING if job.state is State.WAITING else State.PENDING
    return replace(keep, state=state, wants_placement=True)


def _placed(keep: Decision, job: JobFacts, pods: Sequence[PodFacts], now: float) -> Decision:
    """A gang with places: bring it up, watch over it, end it."""
    stale = [pod for pod in pods if pod.attempt != job.attempt]
    current = {pod.rank: pod for pod in pods if pod.attempt == job.attempt and pod.rank < job.workers}
    if job.workers and sum(pod.phase == "Succeeded" for pod in current.values()) == job.workers:
        return replace(
            keep,
            state=State.SUCCEEDED,
            reason="AllWorkersSucceeded",
            message=f"all {job.workers} workers succeeded",
            completed=now,
        )
    if job.policy.suspend:
        return replace(
            keep,
            state=State.SUSPENDED,
            reason="Suspended",
            message="spec.runPolicy.suspend is true",
            delete=_all_of(pods, now),
            started=None,
        )
    started = job.started if job.started is not None else now
    keep = replace(keep, started=started)
    wake_at = None
    if job.policy.deadline is not None:
        wake_at = started + job.policy.deadline
        if now >= wake_at:
            message = f"it ran longer than activeDeadlineSeconds ({job.policy.deadline} s)"
            return replace(keep, state=State.FAILED, reason="DeadlineExceeded", message=message, completed=now)
    failure = _failure(job, current)
    if failure is not None:
        return _failed(keep, job, failure, now)
    if job.wanted and job.wanted != job.workers:
        message = f"spec.workers is {job.wanted} and the gang has {job.workers}: it starts again with {job.wanted}"
        return replace(keep, state=State.RESTARTING, reason="Resized", message=message)
    missing = tuple(rank for rank in range(job.workers) if rank not in current)
    if stale or missing:
        waiting = f"{job.workers - len(missing)} of {job.workers} pods are made"
        return replace(
            keep,
            state=State.STARTING,
            reason="CreatingPods",
            message=waiting,
            delete=_all_of(stale, now),
            # Never beside pods of an earlier attempt: they have the same names, and hold the same devices.
            create=() if stale else missing,
            wake_at=wake_at,
        )
    running = sum(pod.phase in ("Running", "Succeeded") for pod in current.values())
    if running < job.workers and job.state is not State.RUNNING:
        message = f"{running} of {job.workers} workers run"
        late = [pod for _, pod in sorted(current.items()) if pod.phase == "Pending"]
        stuck = next((pod for pod in late if pod.trouble), None)
        reason = "WaitingForPods"
        if stuck is not None:
            reason = "WorkerStuck"
            message += f"; worker {stuck.rank} on node {stuck.node}: {stuck.trouble}"
        elif late:
            message += f"; worker {late[0].rank} on node {late[0].node} is not running yet"
        return replace(keep, state=State.STARTING, reason=reason, message=message, wake_at=wake_at)
    message = f"all {job.workers} workers run" if job.workers > 1 else "its worker runs"
    lost = next((pod for _, pod in sorted(current.items()) if pod.node_lost and not pod.over), None)
    if lost is not None:
        message += f", but node {lost.node} of worker {lost.rank} is not ready"
    return replace(keep, state=State.RUNNING, reason="AllWorkersRunning", message=message, wake_at=wake_at)


@dataclass(frozen=True, slots=True)
class _Failure:
    message: str
    permanent: bool


def _failure(job: JobFacts, current: dict[int, PodFacts]) -> _Failure | None:
    """The first reason (by rank) why the gang can't go on, or None."""
    for rank in range(job.workers):
        pod = current.get(rank)
        if pod is None:
            if job.state is State.RUNNING:
                return _Failure(f"worker {rank} is gone: its pod was deleted", permanent=False)
        elif pod.phase == "Failed" or pod.broken:
            code = "" if pod.exit_code is None else f" with exit code {pod.exit_code}"
            why = f" ({pod.reason})" if pod.reason and pod.reason != "Error" else ""
            said = f": {pod.message.strip()}" if pod.message.strip() else ""
            permanent = (
                job.policy.by_exit_code and pod.exit_code is not None and 0 < pod.exit_code < FIRST_RETRIED_EXIT_CODE
            )
            return _Failure(f"worker {rank} on node {pod.node} failed{code}{why}{said}", permanent)
        elif pod.node_gone and not pod.over:
            return _Failure(f"worker {rank} is lost: node {pod.node} is no longer in the cluster", permanent=False)
        elif pod.deleting and pod.node_lost:
            return _Failure(
                f"worker {rank} is lost: node {pod.node} is not ready and its pod was evicted", permanent=False
            )
        elif pod.deleting:
            return _Failure(f"worker {rank} on node {pod.node} is being deleted", permanent=False)
    return None


def _failed(keep: Decision, job: JobFacts, failure: _Failure, now: float) -> Decision:
    if failure.permanent:
        message = f"{failure.message}; exit codes below {FIRST_RETRIED_EXIT_CODE} are not retried"
        return replace(keep, state=State.FAILED, reason="WorkerFailed", message=message, completed=now)
    if job.restarts >= job.policy.backoff_limit:
        times = f"{job.restarts} time{'' if job.restarts == 1 else 's'}"
        message = f"{failure.message}; restarted {times}, backoffLimit is {job.policy.backoff_limit}"
        return replace(keep, state=State.FAILED, reason="BackoffLimitExceeded", message=message, completed=now)
    message = f"{failure.message}; restart {job.restarts + 1} of at most {job.policy.backoff_limit}"
    # The pods are deleted from the next decision on, when the restart has been counted.
    return replace(keep, state=State.RESTARTING, reason="WorkerFailed", message=message, restarts=job.restarts + 1)


def _after_the_end(keep: Decision, job: JobFacts, pods: Sequence[PodFacts], now: float) -> Decision:
    delete: tuple[PodRef, ...] = ()
    if job.policy.clean == "All":
        delete = _all_of(pods, now)
    elif job.policy.clean == "Running":
        # One that is about to end by itself stays, with its log: it may be the one that failed.
        delete = _all_of([pod for pod in pods if not pod.over and not pod.winding_down], now)
    if job.policy.ttl is None or job.completed is None:
        return replace(keep, delete=delete)
    expires = job.completed + job.policy.ttl
    if now >= expires:
        return replace(keep, delete=delete, delete_job=True)
    return replace(keep, delete=delete, wake_at=expires)


def _all_of(pods: Sequence[PodFacts], now: float) -> tuple[PodRef, ...]:
    """References to the pods that still need a delete."""

    def given_up(pod: PodFacts) -> bool:
        return pod.given_up_at is not None and pod.given_up_at <= now

    return tuple(
        PodRef(pod.name, pod.uid, given_up(pod))
        for pod in sorted(pods, key=lambda pod: (pod.attempt, pod.rank))
        if not pod.deleting or given_up(pod)
    )


def _draining(pods: Sequence[PodFacts]) -> str:
    return f"waiting for {len(pods)} pods of the last attempt to end"
