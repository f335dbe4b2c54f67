"""The life of a job, as a pure function: (job, its pods, now) -> what to write and what to do.

Flows in: `JobFacts` and `PodFacts`, read from the API a moment ago; nothing is remembered between calls, so an
operator that was killed goes on from what the API holds. Flows out: one `Decision`.

The order in which a decision is carried out is part of the promise: its status is written first, onto the version
that was read; only when that worked are pods deleted or created. A gang's places (the claim) are freed only when
every pod of the gang is gone.

    Pending -> Waiting -> Starting -> Running -> Succeeded
       ^          ^        ^  |         |   \\-> Failed
       |          |        |  v         v
       |          |     Restarting <----+          any state -> Suspended -> Pending
       |          |         |
       +----------+---------+-- the claim is released: it gives way, could not start, or can't be repaired in time

A gang that restarts keeps its claim, and goes on there as the next attempt. `docs/operator.md` has the picture.

Not here: where a gang goes (`cycle`), what a failure means (`failure`), requests (`jobs`), words for people beyond
one sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from supernode.handlers import failure
from supernode.handlers.life import (
    PATIENCE,
    Action,
    Decision,
    Disruption,
    DisruptionKind,
    JobFacts,
    PodFacts,
    PodRef,
    RunPolicy,
    State,
)

__all__ = ["PATIENCE", "Decision", "JobFacts", "PodFacts", "PodRef", "RunPolicy", "State", "decide", "requeued"]

# Seconds before a gang that could not start, or crashes, is tried again: the first time, and at most.
FIRST_PAUSE: Final = 5.0
LONGEST_PAUSE: Final = 300.0
# A failure within so many seconds after the gang got its place is a crash; the first ones in a row cost no pause.
CRASH_WITHIN: Final = 60.0
FREE_CRASHES: Final = 2
# On whose behalf a gang is resized when its spec says so.
BY_SPEC: Final = "spec"
# Nodes that a repair names at most; the status has room for no more.
MOST_NODES: Final = 1024


def decide(job: JobFacts, pods: Sequence[PodFacts], now: float) -> Decision:
    """What to do about a job now.

    Args:
        job: facts of the job.
        pods: every pod that carries the job's uid.
        now: seconds since the epoch.
    """
    decision = _decide(job, pods, now)
    times = [pod.given_up_at for pod in pods if pod.given_up_at is not None and pod.given_up_at > now]
    # What a pod bears for some time only is looked at when that is over, not when everything is.
    times += [pod.evicted_at for pod in pods if pod.evicted_at is not None and pod.evicted_at > now and not pod.over]
    if decision.wake_at is not None:
        times.append(decision.wake_at)
    return replace(decision, wake_at=min(times, default=None))


def requeued(decision: Decision, reason: str, message: str, now: float) -> Decision:
    """The decision to give a gang's places back and to try again later, each time after a longer pause."""
    pause = _pause(decision.requeues)
    return replace(
        decision,
        state=State.RESTARTING,
        reason=reason,
        message=f"{message}; tried again in {pause:.0f} s",
        disruption=None,
        requeues=decision.requeues + 1,
        crashes=0,
        retry_at=now + pause,
        create=(),
    )


def _pause(times: int) -> float:
    """Seconds before the next try, when there were so many pauses in a row."""
    return min(FIRST_PAUSE * 2.0 ** min(times, 20), LONGEST_PAUSE)


def _decide(job: JobFacts, pods: Sequence[PodFacts], now: float) -> Decision:
    keep = Decision(
        job.state,
        job.attempt,
        job.restarts,
        started=job.started,
        completed=job.completed,
        disruption=job.disruption,
        requeues=job.requeues,
        crashes=job.crashes,
        retry_at=job.retry_at,
    )
    if job.deleting:
        return replace(
            keep,
            reason="Deleting",
            message=f"it is being deleted: {len(pods)} of its pods are still there" if pods else "",
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
        keep = replace(keep, delete=_all_of(pods, now))
        if job.policy.suspend:
            return replace(keep, state=State.SUSPENDED, reason="Suspended", message=_SUSPENDED)
        rest = State.PENDING if job.placed_attempt is None else job.state
        if rest is State.SUSPENDED:
            return replace(keep, state=rest, reason="Resumed", message=_RESUMED)
        return replace(keep, state=rest, reason="Draining", message=_draining(pods))
    if job.placed_attempt is not None:
        return _stopped(keep, job, now)
    keep = replace(keep, disruption=None)
    if job.policy.suspend:
        return replace(keep, state=State.SUSPENDED, reason="Suspended", message=_SUSPENDED, started=None)
    if not job.accepted:
        return replace(keep, state=State.PENDING, reason="Misconfigured")
    if job.retry_at is not None and now < job.retry_at <= now + LONGEST_PAUSE:
        return replace(keep, state=State.WAITING, wake_at=job.retry_at)
    state = State.WAITING if job.state is State.WAITING else State.PENDING
    return replace(keep, state=state, wants_placement=True)


def _stopped(keep: Decision, job: JobFacts, now: float) -> Decision:
    """Nothing of the attempt is left, and its claim still stands: only now may others have its devices."""
    state = State.SUSPENDED if job.policy.suspend else State.PENDING
    plan = job.disruption
    released = replace(
        keep, state=state, reason="Released", release=True, attempt=job.attempt + 1, started=None, disruption=None
    )
    if job.policy.suspend:
        return replace(released, retry_at=None, requeues=0, crashes=0)
    if job.state is State.RESTARTING and not job.accepted:
        return replace(released, message="its place is given back: the job is not accepted any more, see Accepted")
    if job.state is not State.RESTARTING or (job.retry_at is not None and not job.crashes):
        return released
    if plan is not None and plan.releases:
        return replace(released, reason="Preempted", message=f"gave way to {_whom(plan.by)}")
    if plan is not None and plan.kind is DisruptionKind.REPAIR and now >= plan.deadline > 0:
        message = f"no place was found within {job.policy.hold:g} s instead of {_named(plan.nodes)}; it is queued again"
        return replace(released, reason="RepairTimedOut", message=message)
    late, ends = _too_late(keep, job, now)
    if late is not None:
        return late
    times = [plan.deadline] if plan is not None and plan.kind is DisruptionKind.REPAIR and plan.deadline else []
    times += [] if ends is None else [ends]
    if job.retry_at is not None and now < job.retry_at <= now + LONGEST_PAUSE:
        return replace(keep, wake_at=min([*times, job.retry_at]))
    return replace(keep, wants_again=True, wake_at=min(times, default=None))


def _too_late(keep: Decision, job: JobFacts, now: float) -> tuple[Decision | None, float | None]:
    """(what is decided if the job's time is up, when it is up); None for no deadline."""
    if job.policy.deadline is None or job.started is None:
        return None, None
    ends = job.started + job.policy.deadline
    if now < ends:
        return None, ends
    message = f"it ran longer than activeDeadlineSeconds ({job.policy.deadline} s)"
    return replace(keep, state=State.FAILED, reason="DeadlineExceeded", message=message, completed=now), ends


def _placed(keep: Decision, job: JobFacts, pods: Sequence[PodFacts], now: float) -> Decision:
    """A gang with places: bring it up, watch over it, end it."""
    stale = [pod for pod in pods if pod.attempt != job.attempt]
    current = {pod.rank: pod for pod in pods if pod.attempt == job.attempt and pod.rank < job.workers}
    ended = _succeeded(job, current)
    if ended is not None:
        reason, message = ended
        return replace(keep, state=State.SUCCEEDED, reason=reason, message=message, completed=now, disruption=None)
    if job.policy.suspend:
        return replace(
            keep,
            state=State.SUSPENDED,
            reason="Suspended",
            message=_SUSPENDED,
            delete=_all_of(pods, now),
            started=None,
            disruption=None,
        )
    started = job.started if job.started is not None else now
    keep = replace(keep, started=started)
    times = [at for pod in current.values() if (at := failure.lost_at(job.policy, pod)) is not None and at > now]
    late, ends = _too_late(keep, replace(job, started=started), now)
    if late is not None:
        return late
    times += [] if ends is None else [ends]
    keep = replace(keep, wake_at=min(times, default=None))
    plan = job.disruption
    if plan is not None and plan.kind is not DisruptionKind.REPAIR:
        # A clock that was put back, or somebody else's hand, must not make it wait longer than its policy says.
        plan = replace(plan, deadline=min(plan.deadline, now + job.policy.checkpoint_seconds))
        keep = replace(keep, disruption=plan)
    # Too few are borne until there is room for more (`growth`): nobody is stopped in vain.
    resize = 0 < job.wanted < job.workers
    if plan is not None and plan.kind is not DisruptionKind.REPAIR and (resize or plan.by != BY_SPEC):
        return _disrupted(keep, job, plan, current, now)
    if plan is not None and plan.kind is DisruptionKind.REPAIR and plan.replacing:
        return _replacing(keep, job, plan, current, now)
    unask = tuple(PodRef(pod.name, pod.uid) for _, pod in sorted(current.items()) if pod.asked)
    keep = replace(keep, disruption=None, unask=unask)
    verdict = failure.judge(job, current, now)
    if verdict is not None:
        return _failed(keep, job, verdict, now)
    if resize:
        then = f"the ranks from {job.wanted} on go" if job.policy.single else f"it starts again with {job.wanted}"
        message = f"spec.workers is {job.wanted} and the gang has {job.workers}: {then}"
        plan = Disruption(DisruptionKind.RESIZE, now, now + job.policy.checkpoint_seconds, BY_SPEC, message, job.wanted)
        return _disrupted(replace(keep, disruption=plan), job, plan, current, now)
    return _brought_up(keep, job, stale, current, now)


def _succeeded(job: JobFacts, current: dict[int, PodFacts]) -> tuple[str, str] | None:
    """Reason and message of a success, by the job's success policy; None as long as there is none."""
    count = sum(pod.phase == "Succeeded" for pod in current.values())
    if job.workers and count == job.workers:
        return "AllWorkersSucceeded", f"all {job.workers} workers succeeded"
    first = current.get(0)
    if job.policy.by_rank_zero and first is not None and first.phase == "Succeeded":
        return "RankZeroSucceeded", f"rank 0 succeeded ({count} of {job.workers} workers did)"
    return None


def _brought_up(
    keep: Decision, job: JobFacts, stale: Sequence[PodFacts], current: dict[int, PodFacts], now: float
) -> Decision:
    """Make the pods that are missing, and see whether all workers run."""
    missing = tuple(rank for rank in range(job.workers) if rank not in current)
    late = None if job.placed_at is None else job.placed_at + job.policy.start_deadline
    running = sum(pod.phase in ("Running", "Succeeded") for pod in current.values())
    if stale or missing or (running < job.workers and job.state is not State.RUNNING):
        keep = replace(keep, state=State.STARTING, reason="CreatingPods")
        message = f"{job.workers - len(missing)} of {job.workers} pods are made"
        if not stale and not missing:
            reason, words = _not_running(current)
            keep, message = replace(keep, reason=reason), f"{running} of {job.workers} workers run{words}"
        if late is not None and now >= late:
            message = f"it did not start within startDeadlineSeconds ({job.policy.start_deadline:g} s): {message}"
            return requeued(keep, "StartDeadlineExceeded", message, now)
        wake_at = min((at for at in (late, keep.wake_at) if at is not None), default=None)
        # Never beside pods of an earlier attempt: they have the same names, and hold the same devices.
        create = () if stale else missing
        return replace(keep, message=message, delete=_all_of(stale, now), create=create, wake_at=wake_at)
    message = f"all {job.workers} workers run" if job.workers > 1 else "its worker runs"
    lost = next((pod for _, pod in sorted(current.items()) if pod.node_lost and not pod.over), None)
    if lost is not None:
        message += f", but node {lost.node} of worker {lost.rank} is not ready"
    return replace(keep, state=State.RUNNING, reason="AllWorkersRunning", message=message, requeues=0, retry_at=None)


def _not_running(current: dict[int, PodFacts]) -> tuple[str, str]:
    """Which worker does not run yet, and why where that is known."""
    late = [pod for _, pod in sorted(current.items()) if pod.phase == "Pending"]
    stuck = next((pod for pod in late if pod.trouble), None)
    if stuck is not None:
        return "WorkerStuck", f"; worker {stuck.rank} on node {stuck.node}: {stuck.trouble}"
    if late:
        return "WaitingForPods", f"; worker {late[0].rank} on node {late[0].node} is not running yet"
    return "WaitingForPods", ""


_WORDS: Final = {
    DisruptionKind.PREEMPTION: "Preempted",
    DisruptionKind.RESIZE: "Resized",
    DisruptionKind.MIGRATION: "Moved",
}


def _disrupted(keep: Decision, job: JobFacts, plan: Disruption, current: dict[int, PodFacts], now: float) -> Decision:
    """A gang that is to stop: it is asked for a checkpoint, and has a bounded time to save one."""
    saved = job.saved_at is not None and job.saved_at >= plan.requested
    # One that does not run has nothing to save, and one that has lost a worker can't. Workers that have done their part
    # are no loss: the others may well be about to end as well, and the job with them.
    left = [pod for pod in current.values() if pod.phase != "Succeeded"]
    whole = (
        job.state is State.RUNNING
        and len(current) == job.workers
        and not any(pod.over or pod.broken or pod.deleting or pod.node_gone for pod in left)
    )
    if saved or not whole or now >= plan.deadline:
        if job.policy.single and job.state is State.RUNNING and 0 < plan.workers < job.workers:
            # Only the last ranks go; the others run on.
            extra = [pod for rank, pod in sorted(current.items()) if rank >= plan.workers]
            if extra:
                return replace(keep, reason="Shrinking", message=plan.message, delete=_all_of(extra, now))
            return replace(keep, wants_again=True)
        after = "a checkpoint was saved" if saved else "no checkpoint was saved"
        message = f"{plan.message}; {after}"
        return replace(keep, state=State.RESTARTING, reason=_WORDS[plan.kind], message=message)
    wake_at = min(at for at in (plan.deadline, keep.wake_at) if at is not None)
    ask = tuple(PodRef(pod.name, pod.uid) for _, pod in sorted(current.items()) if not pod.asked)
    return replace(keep, reason="CheckpointRequested", message=plan.message, ask=ask, unask=(), wake_at=wake_at)


def _failed(keep: Decision, job: JobFacts, verdict: failure.Verdict, now: float) -> Decision:
    """A gang that has lost workers: it restarts, or the job has failed."""
    if verdict.action is Action.FAIL:
        why = "" if verdict.reason == "BackoffLimitExceeded" else "; "
        if why:
            why += (
                "podFailurePolicy says that fails the job"
                if verdict.by_rule
                else "exit codes below 128 are not retried"
            )
        reason = verdict.reason if verdict.reason == "BackoffLimitExceeded" else "WorkerFailed"
        return replace(keep, state=State.FAILED, reason=reason, message=verdict.message + why, completed=now)
    counted = verdict.action is Action.COUNT
    if counted and job.restarts >= job.policy.backoff_limit:
        times = f"{job.restarts} time{'' if job.restarts == 1 else 's'}"
        message = f"{verdict.message}; restarted {times}, backoffLimit is {job.policy.backoff_limit}"
        return replace(keep, state=State.FAILED, reason="BackoffLimitExceeded", message=message, completed=now)
    message = f"{verdict.message}; the restart is not counted"
    if counted:
        message = f"{verdict.message}; restart {job.restarts + 1} of at most {job.policy.backoff_limit}"
    # Which nodes are to blame is written down: when the pods are gone, nothing tells of it any more.
    old = job.disruption
    alone = dict(old.replacing) if old is not None else {}
    alone |= dict(verdict.workers)
    nodes = tuple(dict.fromkeys((*(old.nodes if old is not None and old.replacing else ()), *verdict.nodes)))
    plan = Disruption(DisruptionKind.REPAIR, now, 0.0, "", verdict.message, job.workers, nodes[:MOST_NODES])
    if job.policy.single and len(alone) < job.workers:
        return replace(
            keep,
            state=State.STARTING,
            reason="ReplacingWorkers",
            message=message,
            restarts=job.restarts + counted,
            disruption=replace(plan, replacing=tuple(sorted(alone.items()))),
        )
    # The pods are deleted from the next decision on, when the restart has been counted.
    crashes = job.crashes
    if verdict.own:
        crashes = job.crashes + 1 if job.placed_at is not None and now - job.placed_at < CRASH_WITHIN else 1
    pause = _pause(crashes - FREE_CRASHES - 1) if verdict.own and crashes > FREE_CRASHES else 0.0
    if pause:
        message += f"; it crashed {crashes} times in a row and starts again in {pause:g} s"
    return replace(
        keep,
        crashes=crashes,
        retry_at=now + pause if pause else None,
        state=State.RESTARTING,
        reason="WorkerFailed",
        message=message,
        restarts=job.restarts + counted,
        disruption=plan if verdict.nodes else None,
    )


def _replacing(keep: Decision, job: JobFacts, plan: Disruption, current: dict[int, PodFacts], now: float) -> Decision:
    """Some workers are replaced, and the others run on: first the old pods go, then there is a place for new ones."""
    old = dict(plan.replacing)
    others = {rank: pod for rank, pod in current.items() if rank not in old}
    verdict = failure.judge(replace(job, state=State.STARTING), others, now)
    if verdict is not None:
        return _failed(keep, job, verdict, now)
    still = [pod for rank, pod in sorted(current.items()) if old.get(rank) == pod.uid]
    keep = replace(keep, state=State.STARTING)
    if still:
        message = f"{len(old)} of {job.workers} workers are replaced; the others run on"
        return replace(keep, reason="ReplacingWorkers", message=message, delete=_all_of(still, now))
    if now >= plan.deadline > 0:
        message = f"no place was found within {job.policy.hold:g} s instead of {_named(plan.nodes)}; all workers stop"
        return replace(keep, state=State.RESTARTING, reason="RepairTimedOut", message=message)
    times = [at for at in (plan.deadline, keep.wake_at) if at]
    return replace(keep, wants_again=True, wake_at=min(times, default=None))


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


def _whom(by: str) -> str:
    """On whose behalf: a job of this namespace by its name, others by their uid."""
    return by if "/" in by or not by else f"a gang of another namespace (uid {by})"


_SUSPENDED: Final = "spec.runPolicy.suspend is true"
_RESUMED: Final = "spec.runPolicy.suspend is false again: it is queued when the pods of its last attempt have ended"


def _draining(pods: Sequence[PodFacts]) -> str:
    return f"waiting for {len(pods)} pods of the last attempt to end"


def _named(nodes: Sequence[str]) -> str:
    more = f" and {len(nodes) - 5} more" if len(nodes) > 5 else ""
    return f"node{'' if len(nodes) == 1 else 's'} {', '.join(nodes[:5])}{more}" if nodes else "what was lost"
