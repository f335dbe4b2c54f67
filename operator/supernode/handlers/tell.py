"""What people are told of a job as it happens: events, lines in the log, counts. Nothing is decided here."""

from __future__ import annotations

import logging

from supernode.api.conditions import timestamp
from supernode.api.rules import Problem
from supernode.cluster import status as statuses
from supernode.cluster.kinds import JOBS, Json
from supernode.handlers.context import Context
from supernode.handlers.jobstatus import Known
from supernode.handlers.life import Decision, JobFacts, State
from supernode.handlers.stragglers import sentence_of, stragglers_json

logger = logging.getLogger(__name__)


def tell_change(context: Context, obj: Json, facts: JobFacts, decision: Decision, problem: Problem | None) -> None:
    """Tell of a decision that is about to be written: events for what is new, and the log."""
    events, said = context.events, (obj.get("status") or {}).get("message")
    if problem is not None:
        accepted = statuses.condition(obj, "Accepted") or {}
        if accepted.get("message") != str(problem):
            events.warning(JOBS, obj, "Misconfigured", str(problem))
    if decision.reason in ("WorkerStuck", "CheckpointRequested") and said != decision.message:
        events.warning(JOBS, obj, decision.reason, decision.message)
    if decision.reason == "ReplacingWorkers" and decision.restarts != facts.restarts:
        events.warning(JOBS, obj, decision.reason, decision.message)
        context.metrics.count("supernode_restarts")
    if decision.release and decision.message:
        events.warning(JOBS, obj, decision.reason, decision.message)
    if decision.state is facts.state or facts.deleting:
        return
    logger.info("%s -> %s: %s", facts.state, decision.state, decision.message or decision.reason)
    tell = events.warning if decision.state in (State.FAILED, State.RESTARTING) else events.normal
    if decision.state not in (State.PENDING, State.WAITING, State.STARTING):
        tell(JOBS, obj, str(decision.state), decision.message)
    if decision.state is State.RESTARTING and decision.reason == "WorkerFailed":
        context.metrics.count("supernode_restarts")


def tell_answer(context: Context, obj: Json, known: Known) -> None:
    """Tell of the cycle's answer to a gang: its place, or why it waits when that is new."""
    if known.placed is not None:
        context.events.normal(JOBS, obj, "Placed", known.placed.sentence)
    elif known.wait is not None:
        said = statuses.condition(obj, "Scheduled") or {}
        if said.get("message") != known.wait.sentence or said.get("reason") != known.wait.code:
            context.events.warning(JOBS, obj, known.wait.code, known.wait.sentence)


def tell_stragglers(context: Context, obj: Json, known: Known, decision: Decision) -> None:
    """Tell once of each worker that has become slower than its like."""
    status = obj.get("status") or {}
    if decision.state is not State.RUNNING or known.pace is None:
        return
    said = {entry.get("rank") for entry in status.get("stragglers") or []}
    new = [e for e in stragglers_json(known.pace, status, timestamp(context.now())) if e["rank"] not in said]
    if new:
        context.events.warning(JOBS, obj, "Straggler", sentence_of(new))
        context.metrics.count("supernode_stragglers", amount=len(new))
