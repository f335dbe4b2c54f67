"""What people are told of a job as it happens: events, lines in the log, counts. Nothing is decided here."""

from __future__ import annotations

import logging
from typing import Final

from supernode.api.conditions import seconds_of, timestamp
from supernode.api.rules import Problem
from supernode.cluster import status as statuses
from supernode.cluster.kinds import JOBS, Json
from supernode.handlers.context import Context
from supernode.handlers.jobstatus import Known
from supernode.handlers.life import Decision, JobFacts, State
from supernode.handlers.stragglers import sentence_of, stragglers_json

logger = logging.getLogger(__name__)

#: Seconds between two events of a gang that waits for the same reason, while only the sentence changes.
PAUSE: Final = 60.0


def tell_change(
    context: Context, before: Json, after: Json, facts: JobFacts, decision: Decision, problem: Problem | None
) -> None:
    """Tell of a decision that has been written: events for what is new, and the log.

    Args:
        context: where to.
        before: the job as it was decided on.
        after: the job as it was written.
        facts: what was known of it.
        decision: what was decided.
        problem: why the job is not accepted.
    """
    events, said = context.events, (before.get("status") or {}).get("message")
    if problem is not None:
        accepted = statuses.condition(before, "Accepted") or {}
        if accepted.get("message") != str(problem):
            logger.info("not accepted: %s", problem)
            events.warning(JOBS, before, "Misconfigured", str(problem))
    if decision.reason in ("WorkerStuck", "CheckpointRequested") and said != decision.message:
        logger.info("%s: %s", decision.reason, decision.message)
        events.warning(JOBS, before, decision.reason, decision.message)
    if decision.reason == "Resumed" and said != decision.message:
        events.normal(JOBS, before, decision.reason, decision.message)
    if decision.reason == "ReplacingWorkers" and decision.restarts != facts.restarts:
        logger.info("%s: %s", decision.reason, decision.message)
        events.warning(JOBS, before, decision.reason, decision.message)
        context.metrics.count("supernode_restarts")
    if decision.release and decision.message:
        gave_way = decision.reason == "Preempted"
        message = f"{decision.message}; it is queued again{_from_step(after)}" if gave_way else decision.message
        events.warning(JOBS, before, "Requeued" if gave_way else decision.reason, message)
    if not facts.deleting:
        _tell_progress(context, before, after, decision)
    if decision.state is facts.state or facts.deleting:
        return
    logger.info("%s -> %s: %s", facts.state, decision.state, decision.message or decision.reason)
    if decision.state in (State.FAILED, State.RESTARTING):
        failed = decision.state is State.FAILED and decision.reason == "WorkerFailed"
        events.warning(JOBS, before, "Failed" if failed else decision.reason, decision.message)
    elif decision.state in (State.RUNNING, State.SUCCEEDED, State.SUSPENDED):
        message = decision.message + _figures(after, facts, decision)
        events.normal(JOBS, before, str(decision.state), message)
    if decision.state is State.RESTARTING and decision.reason == "WorkerFailed":
        context.metrics.count("supernode_restarts")


def tell_answer(context: Context, obj: Json, known: Known) -> None:
    """Tell of the cycle's answer to a gang, now that it is written: its place, or why it waits when that is new."""
    if (obj.get("status") or {}).get("state") == State.SUSPENDED:
        context.events.normal(JOBS, obj, "Resumed", "spec.runPolicy.suspend is false: it is queued again")
    if known.placed is not None:
        attempt = int(known.placed.status.get("attempt") or 0)
        sentence = f"attempt {attempt}: {known.placed.sentence}" if attempt else known.placed.sentence
        logger.info("placed: %s", sentence)
        context.events.normal(JOBS, obj, "Placed", sentence)
    elif known.wait is not None:
        said = statuses.condition(obj, "Scheduled") or {}
        if said.get("message") != known.wait.sentence or said.get("reason") != known.wait.code:
            # In a long queue every gang's numbers change with each that comes or goes; the status has the newest.
            pause = PAUSE if said.get("status") == "False" and said.get("reason") == known.wait.code else 0.0
            told = context.events.warning(JOBS, obj, known.wait.code, known.wait.sentence, pause=pause)
            logger.log(logging.INFO if told else logging.DEBUG, "waits (%s): %s", known.wait.code, known.wait.sentence)


def _tell_progress(context: Context, before: Json, after: Json, decision: Decision) -> None:
    """Tell of the first step that an attempt reports."""
    progress = (after.get("status") or {}).get("progress") or {}
    first = not ((before.get("status") or {}).get("progress") or {}).get("step")
    if decision.state is not State.RUNNING or not progress.get("step") or not first:
        return
    status, placement = after["status"], after["status"].get("placement") or {}
    parts = [f"step {progress['step']}" + (f" of {progress['steps']}" if progress.get("steps") else "")]
    parts += [f"loss {progress['loss']:.4g}"] if progress.get("loss") is not None else []
    if progress.get("stepSeconds"):
        predicted = placement.get("predictedStepSeconds")
        promised = f" ({predicted * 1000:.3g} ms predicted)" if predicted else ""
        parts.append(f"{progress['stepSeconds'] * 1000:.3g} ms a step{promised}")
    parts += [f"MFU {status['mfu']:.1%}"] if status.get("mfu") else []
    message = f"{_attempt(decision)}the workers report progress: {', '.join(parts)}"
    logger.info("%s", message)
    context.events.normal(JOBS, before, "Training", message)


def _figures(after: Json, facts: JobFacts, decision: Decision) -> str:
    """What else the event of a new state tells, in numbers."""
    status = after.get("status") or {}
    if decision.state is State.SUSPENDED:
        return ": its workers stop, and its place is given back"
    if decision.state is State.RUNNING:
        running = (statuses.condition(after, "Running") or {}).get("lastTransitionTime")
        words = f" as attempt {decision.attempt}" if decision.attempt else ""
        if running and facts.placed_at is not None:
            words += f", {max(seconds_of(running) - facts.placed_at, 0):.0f} s after the gang got its place"
        return words
    progress, goodput = status.get("progress") or {}, status.get("goodput") or {}
    parts = [f"{progress['step']} steps"] if progress.get("step") else []
    parts += [f"loss {progress['loss']:.4g}"] if progress.get("loss") is not None and parts else []
    parts += [f"goodput {goodput['share']:.0%}"] if parts and goodput.get("share") is not None else []
    parts += [f"restarts {decision.restarts}"] if decision.restarts else []
    return f": {', '.join(parts)}" if parts else ""


def _from_step(after: Json) -> str:
    step = ((after.get("status") or {}).get("checkpoint") or {}).get("step")
    return "" if step is None else f", and goes on from the checkpoint of step {step}"


def _attempt(decision: Decision) -> str:
    return f"attempt {decision.attempt}: " if decision.attempt else ""


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
