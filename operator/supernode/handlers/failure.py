"""Whether a gang has lost a worker, and what that means for the job. Pure.

Flows in: `JobFacts` and the pods of the current attempt. Flows out: a `Verdict` on all failures together, or None.
Not here: what is done then (`lifecycle`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from supernode.handlers.life import Action, JobFacts, PodFacts, Rule, RunPolicy, State

# Exit codes from here on (128 + signal) are retried under the ExitCode policy; smaller ones are the program's own.
FIRST_RETRIED_EXIT_CODE: Final = 128
#: Reasons that come from outside of the worker's own containers.
OUTSIDE: Final = frozenset({"PodDeleted", "NodeGone", "NodeLost", "NodeTainted", "DeviceUnhealthy"})


@dataclass(frozen=True, slots=True)
class Failure:
    """A worker that can't go on.

    `reason`: the operator's own word (PodDeleted, NodeGone, NodeLost, NodeTainted, DeviceUnhealthy), or the
    container's or pod's. `node`: that the worker must not come back to; empty if its node is not to blame.
    """

    rank: int
    reason: str
    message: str
    pod: PodFacts | None = None
    node: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the failures of a gang mean: by one of them, told in `message`.

    `own`: whether its own containers failed. `by_rule`: whether a rule of the failure policy said so. `nodes`: all that
    are to blame. `workers`: (rank, uid of its pod, empty if it has none) of all that failed.
    """

    action: Action
    reason: str
    message: str
    own: bool = True
    by_rule: bool = False
    nodes: tuple[str, ...] = ()
    workers: tuple[tuple[int, str], ...] = ()


def judge(job: JobFacts, current: Mapping[int, PodFacts], now: float) -> Verdict | None:
    """The verdict on all workers; None when nothing is wrong.

    A failure that ends the job decides, then one that counts, then the others; among equals the lowest rank.
    """
    found = failures(job, current, now)
    if not found:
        return None
    judged = [(action_on(job.policy, failure), failure) for failure in found]
    order = (Action.FAIL, Action.COUNT, Action.IGNORE)
    action, failure = min(judged, key=lambda pair: (order.index(pair[0]), pair[1].rank))
    nodes = tuple(dict.fromkeys(each.node for each in found if each.node))
    message = failure.message + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")
    workers = tuple((each.rank, each.pod.uid if each.pod is not None else "") for each in found)
    own, by_rule = failure.reason not in OUTSIDE, _rule_of(job.policy, failure) is not None
    return Verdict(action, failure.reason, message, own, by_rule, nodes, workers)


def failures(job: JobFacts, current: Mapping[int, PodFacts], now: float) -> list[Failure]:
    """Every worker that can't go on, by rank."""
    found = []
    for rank in range(job.workers):
        pod = current.get(rank)
        if pod is None:
            if job.state is State.RUNNING:
                found.append(Failure(rank, "PodDeleted", f"worker {rank} is gone: its pod was deleted"))
            continue
        failure = _of_pod(job, rank, pod, now)
        if failure is not None:
            found.append(failure)
    return found


def lost_at(policy: RunPolicy, pod: PodFacts) -> float | None:
    """When a worker counts as lost because its node is not ready; None while the node is well, or it has ended."""
    return pod.lost_at + policy.node_loss if pod.node_lost and not pod.over else None


def action_on(policy: RunPolicy, failure: Failure) -> Action:
    """What a failure means: by the first rule that it matches, else by the restart policy."""
    if failure.reason == "BackoffLimitExceeded":
        return Action.FAIL
    rule = _rule_of(policy, failure)
    if rule is not None:
        return rule.action
    code = failure.pod.exit_code if failure.pod is not None and not failure.pod.stopped else None
    if policy.by_exit_code and code is not None and 0 < code < FIRST_RETRIED_EXIT_CODE and not failure.node:
        return Action.FAIL
    return Action.COUNT


def _rule_of(policy: RunPolicy, failure: Failure) -> Rule | None:
    return next((rule for rule in policy.rules if _matches(rule, failure)), None)


def _of_pod(job: JobFacts, rank: int, pod: PodFacts, now: float) -> Failure | None:
    worker = f"worker {rank}"
    stopped = pod.stopped and pod.phase != "Succeeded"
    if (pod.phase == "Failed" or pod.broken) and not stopped:
        return Failure(rank, pod.reason or "Error", f"{worker} on node {pod.node} failed{_words(pod)}", pod)
    if pod.over and not stopped:
        return None
    lost = lost_at(job.policy, pod)
    if pod.node_gone:
        return Failure(
            rank, "NodeGone", f"{worker} is lost: node {pod.node} is no longer in the cluster", pod, pod.node
        )
    if pod.deleting and pod.node_lost:
        message = f"{worker} is lost: node {pod.node} is not ready and its pod was evicted"
        return Failure(rank, "NodeLost", message, pod, pod.node)
    if lost is not None and now >= lost:
        seconds = f"{job.policy.node_loss:g} s" if pod.lost_at else "some time"
        message = f"{worker} is lost: node {pod.node} has not been ready for {seconds}"
        return Failure(rank, "NodeLost", message, pod, pod.node)
    if pod.evicted_by:
        message = f"{worker} must leave: node {pod.node} has the taint {pod.evicted_by}"
        return Failure(rank, "NodeTainted", message, pod, pod.node)
    if pod.sick:
        return Failure(rank, "DeviceUnhealthy", f"{worker} on node {pod.node}: {pod.sick}", pod, pod.node)
    if pod.deleting:
        return Failure(rank, "PodDeleted", f"{worker} on node {pod.node} is being deleted", pod)
    if job.policy.in_place and pod.container_restarts + job.restarts > job.policy.backoff_limit:
        times = f"{pod.container_restarts} time{'' if pod.container_restarts == 1 else 's'}"
        message = f"{worker} was restarted {times} by node {pod.node}, backoffLimit is {job.policy.backoff_limit}"
        return Failure(rank, "BackoffLimitExceeded", message, pod)
    return None


def _words(pod: PodFacts) -> str:
    code = "" if pod.exit_code is None else f" with exit code {pod.exit_code}"
    why = f" ({pod.reason})" if pod.reason and pod.reason != "Error" else ""
    said = f": {pod.message.strip()}" if pod.message.strip() else ""
    return f"{code}{why}{said}"


def _matches(rule: Rule, failure: Failure) -> bool:
    pod = failure.pod
    if rule.codes:
        exits: Sequence[tuple[str, int]] = pod.exits if pod is not None else ()
        return any(
            code != 0 and (code in rule.codes) != rule.outside and rule.container in ("", name) for name, code in exits
        )
    if rule.reasons:
        return bool(rule.reasons & {failure.reason, pod.reason if pod is not None else ""})
    return pod is not None and bool(rule.conditions & pod.conditions)
