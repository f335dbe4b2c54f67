"""What a job's status should say. Pure.

Flows in: the old status, a `Decision`, the pods, and what else is known (why it waits, how far it is).
Flows out: the new status as JSON; `cluster.status` writes the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from supernode.api.conditions import MESSAGE_LIMIT, Condition, ConditionType, find_condition, set_condition, timestamp
from supernode.api.job_status import MOST_RUNNERS_UP
from supernode.api.rules import Problem
from supernode.cluster import translate
from supernode.cluster.kinds import Json
from supernode.handlers.goodput import accounted
from supernode.handlers.life import Decision, Disruption, PodFacts, State
from supernode.handlers.stragglers import NOTHING, Pace, sentence_of, stragglers_json
from supernode.names import LABEL_JOB
from supernode.plaintext import plain
from supernode.scheduling.placement import Placement


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a gang has no place: a reason code and one sentence. `nomination`: what is kept for it meanwhile, if any.

    `placement`: of a nomination that is new, where the gang would go.
    """

    code: str
    sentence: str
    nomination: Json | None = None
    placement: Placement | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """A gang's new place: its `status.placement`, and one sentence about it."""

    status: Json
    sentence: str


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a job beside its status and pods.

    `problem`: why the job is not accepted. `wait`, `placed`: this cycle's answer about its place, if there is one.
    `progress`, `mfu`: the latest report, None when there is none. `pace`: how its ranks compare.
    """

    problem: Problem | None = None
    wait: Wait | None = None
    placed: Placed | None = None
    progress: Json | None = None
    mfu: float | None = None
    pace: Pace | None = None


def render(obj: Json, decision: Decision, workers: int, pods: Sequence[PodFacts], known: Known, now: float) -> Json:
    """The status that `obj` should have.

    Args:
        obj: the job as the API has it.
        decision: what `lifecycle` decided.
        workers: number of workers wanted.
        pods: the job's pods.
        known: all else.
        now: seconds since the epoch.
    """
    metadata = obj["metadata"]
    status: Json = dict(obj.get("status") or {})
    status["observedGeneration"] = metadata.get("generation", 0)
    state = State.STARTING if known.placed is not None else decision.state
    if known.wait is not None and state is State.PENDING:
        state = State.WAITING
    status["state"] = str(state)
    status["attempt"] = decision.attempt
    status["restarts"] = decision.restarts
    status["requeues"] = decision.requeues or None
    status["crashes"] = decision.crashes or None
    status["retryAt"] = None if decision.retry_at is None else timestamp(decision.retry_at)
    status["disruption"] = None if state.finished else disruption_json(decision.disruption)
    _remember_checkpoint(status, decision.attempt)
    if decision.release or known.placed is not None:
        status["placement"] = None
        status["progress"] = None
        status["mfu"] = None
        status["stragglers"] = None
    if known.placed is not None:
        status["placement"] = known.placed.status
    if known.placed is not None or not decision.wants_placement:
        status["nomination"] = None
    elif known.wait is not None:
        status["nomination"] = known.wait.nomination
    status["startTime"] = None if decision.started is None else timestamp(decision.started)
    status["completionTime"] = None if decision.completed is None else timestamp(decision.completed)
    _count(status, metadata["name"], decision, workers, pods)
    if known.progress is not None:
        status["progress"] = {**(status.get("progress") or {}), **known.progress}
        _remember_checkpoint(status, decision.attempt)
    if known.mfu is not None:
        status["mfu"] = known.mfu
    if state is not State.RUNNING:
        status["stragglers"] = None
    elif known.pace is not None:
        status["stragglers"] = stragglers_json(known.pace, status, timestamp(now)) or None
    status["message"] = plain(_message(status, decision, known), MESSAGE_LIMIT)
    status["conditions"] = _conditions(obj, status, state, decision, known, now)
    status = {name: value for name, value in status.items() if value is not None}
    before: Json = obj.get("status") or {}
    if status != before:
        inside = known.pace.inside if known.pace is not None else NOTHING
        # Only beside something else that is new: time alone is no reason to write.
        counted = accounted(before, status, metadata.get("creationTimestamp"), inside, now)
        status |= {"goodput": counted} if counted else {}
    return status


def placement_json(placement: Placement, attempt: int, now: float) -> Json:
    """A new place as `status.placement`, with when it was given and what else there was."""
    status = translate.placement_status(placement, attempt)
    status["placedAt"] = timestamp(now)
    rivals = [
        {
            "pool": rival.pool,
            "level": rival.level,
            "domain": "/".join(rival.domain),
            "predictedStepSeconds": rival.seconds,
        }
        for rival in placement.runners_up[:MOST_RUNNERS_UP]
    ]
    if rivals:
        status["runnersUp"] = [{name: value for name, value in rival.items() if value} for rival in rivals]
    return status


def disruption_json(plan: Disruption | None) -> Json | None:
    """`status.disruption`."""
    if plan is None:
        return None
    given: Json = {
        "kind": str(plan.kind),
        "by": plain(plan.by, 512),
        "message": plain(plan.message, MESSAGE_LIMIT),
        "requestedAt": timestamp(plan.requested),
        "deadline": timestamp(plan.deadline) if plan.deadline else None,
        "workers": plan.workers,
        "nodes": list(plan.nodes) or None,
        "replacing": [{"rank": rank, "uid": uid} for rank, uid in plan.replacing] or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _remember_checkpoint(status: Json, attempt: int) -> None:
    """The last checkpoint outlives the attempt that saved it."""
    progress = status.get("progress") or {}
    if progress.get("checkpointStep") is not None:
        saved = {"step": progress["checkpointStep"], "savedAt": progress.get("checkpointAt"), "attempt": attempt}
        known = status.get("checkpoint") or {}
        if known.get("step") != saved["step"] or known.get("savedAt") != saved["savedAt"]:
            status["checkpoint"] = {name: value for name, value in saved.items() if value is not None}


def _count(status: Json, name: str, decision: Decision, workers: int, pods: Sequence[PodFacts]) -> None:
    # Of a gang that was just released, or is going down, only pods of the attempt that is being told about count.
    current = [pod for pod in pods if pod.attempt == decision.attempt]
    ready = sum(pod.ready and not pod.over for pod in current)
    active = sum(not pod.over for pod in current)
    succeeded = sum(pod.phase == "Succeeded" for pod in current)
    status["workers"] = {
        "desired": workers,
        "active": active,
        "ready": ready,
        "succeeded": succeeded,
        "failed": sum(pod.phase == "Failed" for pod in current),
    }
    # A worker that is done counts: a job that has succeeded reads 2/2, not 0/2.
    status["ready"] = f"{ready + succeeded}/{workers}"
    status["replicas"] = active
    status["selector"] = f"{LABEL_JOB}={name}"


def _message(status: Json, decision: Decision, known: Known) -> str:
    if known.problem is not None:
        return str(known.problem)
    if known.placed is not None:
        return known.placed.sentence
    if known.wait is not None:
        return known.wait.sentence
    # Why it stops is worth more than that its pods are still ending, which the counts tell.
    if decision.reason and not decision.release and (decision.reason != "Draining" or not status.get("message")):
        return decision.message
    # Why it was released was said before, and still holds.
    return str(status.get("message") or "")


def _conditions(obj: Json, status: Json, state: State, decision: Decision, known: Known, now: float) -> list[Json]:
    conditions: list[Json] = list((obj.get("status") or {}).get("conditions") or [])
    generation = obj["metadata"].get("generation", 0)
    stamp = timestamp(now)

    def put(kind: ConditionType, holds: bool, reason: str, message: str = "") -> None:
        nonlocal conditions
        wanted = Condition(str(kind), "True" if holds else "False", reason, message, generation)
        conditions = set_condition(conditions, wanted, now=stamp)

    def clear(kind: ConditionType, reason: str, message: str = "") -> None:
        """A condition that was true is so no more; one that never was is not mentioned."""
        found = find_condition(conditions, str(kind))
        if found is not None and found.get("status") == "True":
            put(kind, False, reason, message)

    if known.problem is not None:
        put(ConditionType.ACCEPTED, False, "Misconfigured", str(known.problem))
    elif not state.finished or find_condition(conditions, str(ConditionType.ACCEPTED)) is None:
        put(ConditionType.ACCEPTED, True, "Accepted", "the job is valid")
    if known.placed is not None:
        put(ConditionType.SCHEDULED, True, "Placed", known.placed.sentence)
    elif known.wait is not None:
        put(ConditionType.SCHEDULED, False, known.wait.code, known.wait.sentence)
    elif decision.release:
        clear(ConditionType.SCHEDULED, "Released", "its devices were given back")
    if status.get("stragglers"):
        put(ConditionType.STRAGGLING, True, "SlowWorkers", sentence_of(status["stragglers"]))
    else:
        clear(ConditionType.STRAGGLING, "NoSlowWorkers", sentence_of(()))
    words = decision.reason or str(state)
    resumed = find_condition(conditions, str(ConditionType.RUNNING)) or {}
    if resumed.get("reason") == "Suspended" and state is not State.SUSPENDED:
        put(ConditionType.RUNNING, False, "Resumed", "spec.runPolicy.suspend is false again")
    for kind, own in _STATES:
        if state is own:
            found = find_condition(conditions, str(kind))
            said = found is not None and found.get("status") == "True"
            if not said or decision.reason not in ("", "Draining"):
                put(kind, True, words, decision.message)
        else:
            clear(kind, words, decision.message or f"the job is {str(state).lower()}")
    return conditions


_STATES = (
    (ConditionType.RUNNING, State.RUNNING),
    (ConditionType.SUSPENDED, State.SUSPENDED),
    (ConditionType.RESTARTING, State.RESTARTING),
    (ConditionType.SUCCEEDED, State.SUCCEEDED),
    (ConditionType.FAILED, State.FAILED),
)
