"""Raw jobs and pods into the facts that `lifecycle` decides on. Pure.

Flows in: JSON from the stores and the validated model (None when the job is not valid). Flows out: `JobFacts`,
`PodFacts`. A running job whose spec became invalid is still looked after, by what its status says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from supernode.api.conditions import seconds_of
from supernode.api.job import TrainingJob
from supernode.api.rules import Problem
from supernode.api.run_policy import FailureRule
from supernode.cluster import nodes, pods, translate
from supernode.cluster.assignment import worker_count
from supernode.cluster.kinds import Json
from supernode.cluster.observe import View
from supernode.handlers.life import (
    Action,
    Disruption,
    DisruptionKind,
    JobFacts,
    PodFacts,
    Rule,
    RunPolicy,
    State,
)
from supernode.scheduling.demand import MOST_DEVICES

# Frameworks whose rank 0 is a launcher that ends when the work is done, while the others only serve it.
_SUCCESS: Final = {"MPI": "RankZero"}


def job_facts(obj: Json, model: TrainingJob | None, *, accepted: bool) -> JobFacts:
    """What the API says about a job."""
    status = obj.get("status") or {}
    placement = status.get("placement") or {}
    placed = worker_count(placement)
    wanted = model.spec.workers if model is not None else 0
    generation = obj["metadata"].get("generation", 0)
    return JobFacts(
        workers=placed or wanted,
        wanted=wanted,
        fewest=model.spec.min_count if model is not None else 0,
        policy=run_policy(obj, model),
        deleting="deletionTimestamp" in obj["metadata"],
        accepted=accepted,
        state=state_of(status),
        attempt=_count(status.get("attempt")),
        restarts=_count(status.get("restarts")),
        placed_attempt=_count(placement.get("attempt")) if placed else None,
        placed_at=_seconds(placement.get("placedAt")),
        started=_seconds(status.get("startTime")),
        completed=_seconds(status.get("completionTime")),
        disruption=disruption_of(status),
        saved_at=_seconds((status.get("checkpoint") or {}).get("savedAt")),
        requeues=_count(status.get("requeues")),
        crashes=_count(status.get("crashes")),
        # Who has changed the spec has perhaps mended it: that is tried at once.
        retry_at=_seconds(status.get("retryAt")) if status.get("observedGeneration") == generation else None,
    )


def is_ours(obj: Json) -> bool:
    """Whether this operator looks after the job (`spec.managedBy`)."""
    return not translate.managed_elsewhere(obj)


def disruption_of(status: Json) -> Disruption | None:
    """`status.disruption`; one that can't be read is none."""
    given = status.get("disruption") or {}
    try:
        kind = DisruptionKind(given.get("kind") or "")
    except ValueError:
        return None
    return Disruption(
        kind,
        requested=_seconds(given.get("requestedAt")) or 0.0,
        deadline=_seconds(given.get("deadline")) or 0.0,
        by=str(given.get("by") or ""),
        message=str(given.get("message") or ""),
        workers=_count(given.get("workers")),
        nodes=tuple(map(str, given.get("nodes") or ())),
        replacing=tuple(
            (_count(each.get("rank")), str(each.get("uid") or ""))
            for each in given.get("replacing") or ()
            if isinstance(each, dict)
        ),
    )


def closed_pool(names: Sequence[str], view: View) -> Problem | None:
    """The first of a job's pools that takes no new gang: one that is not valid itself, or that is being deleted."""
    for index, name in enumerate(names):
        problem, pool = view.pool_problems.get(name), view.pools.get(name)
        if problem is not None:
            return Problem(f"spec.pools[{index}]", f"AcceleratorPool {name} is not accepted: {problem}")
        if pool is not None and pool.metadata.deletion_timestamp:
            return Problem(f"spec.pools[{index}]", f"AcceleratorPool {name} is being deleted")
    return None


def run_policy(obj: Json, model: TrainingJob | None) -> RunPolicy:
    """The run policy; of an invalid job only what can stop it."""
    if model is None:
        given = (obj.get("spec") or {}).get("runPolicy") or {}
        return RunPolicy(suspend=isinstance(given, dict) and given.get("suspend") is True)
    policy = model.spec.run_policy
    return RunPolicy(
        suspend=policy.suspend,
        backoff_limit=policy.backoff_limit,
        ttl=policy.ttl_seconds_after_finished,
        deadline=policy.active_deadline_seconds,
        clean=policy.clean_pod_policy,
        by_exit_code=translate.restarts_by_exit_code(translate.template_of(obj)),
        in_place=model.spec.template.spec.restart_policy in ("OnFailure", "Always"),
        rules=tuple(map(_rule, policy.pod_failure_policy.failure_rules)),
        start_deadline=float(policy.start_deadline_seconds),
        checkpoint_seconds=float(policy.checkpoint_seconds),
        node_loss=float(policy.repair.node_loss_seconds),
        hold=float(policy.repair.hold_seconds),
        single=model.spec.scheduling.disruption_mode == "Single",
        by_rank_zero=(policy.success_policy or _SUCCESS.get(model.spec.framework, "AllWorkers")) == "RankZero",
    )


def _rule(given: FailureRule) -> Rule:
    codes = given.on_exit_codes
    return Rule(
        Action(given.action),
        codes=frozenset(codes.values if codes is not None else ()),
        outside=codes is not None and codes.operator == "NotIn",
        container=(codes.container_name if codes is not None else None) or "",
        reasons=frozenset(given.on_reasons or ()),
        conditions=frozenset((match.type, match.status) for match in given.on_pod_conditions or ()),
    )


def pod_facts(
    raw: Sequence[Json], node_of: Callable[[str], Json | None], tolerations: Sequence[Json] = (), now: float = 0.0
) -> list[PodFacts]:
    """What the API says about a job's pods.

    Args:
        raw: the pods.
        node_of: the node of a name, None if the cluster has none.
        tolerations: of the job's pod template.
        now: seconds since the epoch.
    """
    result = []
    known: dict[str, _Node] = {}
    for pod in raw:
        metadata, status = pod["metadata"], pod.get("status") or {}
        name = (pod.get("spec") or {}).get("nodeName") or ""
        node = known.get(name)
        if node is None:
            node = known[name] = _node(name, node_of(name) if name else None, tolerations, now)
        phase, broken, deleting = (
            status.get("phase") or "Pending",
            pods.has_failed(pod),
            "deletionTimestamp" in metadata,
        )
        failing = broken or deleting
        code, reason, words = pods.ending(pod)
        stopped = deleting and pods.was_stopped(pod)
        result.append(
            PodFacts(
                name=metadata["name"],
                uid=metadata.get("uid", ""),
                rank=pods.rank_of(pod),
                attempt=pods.attempt_of(pod),
                phase=phase,
                ready=pods.is_ready(pod),
                deleting=deleting,
                broken=broken,
                winding_down=pods.is_winding_down(pod),
                node=name,
                node_gone=node.gone,
                node_lost=node.lost,
                lost_at=node.lost_at,
                evicted_by=node.evicted_by,
                evicted_at=node.evicted_at,
                sick=_sick(pod, node.unhealthy),
                ends_at=pods.ends_at(pod) if deleting else None,
                exit_code=code,
                reason=reason,
                message=words,
                trouble=pods.trouble(pod) if phase == "Pending" else "",
                # What only rules for failures look at.
                exits=pods.exits(pod) if failing and not stopped else (),
                conditions=pods.conditions(pod) if failing else frozenset(),
                container_restarts=pods.restarts(pod),
                asked=pods.was_asked(pod),
                stopped=stopped,
            )
        )
    return result


class _Node(NamedTuple):
    """What matters of a node to the pods on it. `unhealthy`: mask of devices."""

    gone: bool = False
    lost: bool = False
    lost_at: float = 0.0
    evicted_by: str = ""
    evicted_at: float | None = None
    unhealthy: int = 0


def _node(name: str, node: Json | None, tolerations: Sequence[Json], now: float) -> _Node:
    if node is None:
        return _Node(gone=bool(name))
    lost, eviction = not nodes.is_ready(node), nodes.eviction(node, tolerations, now)
    return _Node(
        lost=lost,
        lost_at=nodes.not_ready_since(node) if lost else 0.0,
        evicted_by=eviction.taint if eviction is not None and eviction.at <= now else "",
        evicted_at=eviction.at if eviction is not None else None,
        unhealthy=nodes.unhealthy_devices(node),
    )


def tolerations_of(obj: Json) -> Sequence[Json]:
    """The tolerations of a job's pod template; none where they can't be read."""
    spec = translate.template_of(obj).get("spec")
    found = spec.get("tolerations") if isinstance(spec, dict) else None
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _sick(pod: Json, unhealthy: int) -> str:
    """Which device of the pod is unhealthy, by its plug-in or by the node's annotation (`unhealthy`, a mask)."""
    bad = [str(i) for i in pods.devices_of(pod) if i < MOST_DEVICES and unhealthy >> i & 1] if unhealthy else []
    if bad:
        return (
            f"device{'' if len(bad) == 1 else 's'} {', '.join(bad)} of it {'is' if len(bad) == 1 else 'are'} unhealthy"
        )
    return pods.sick_device(pod)


def state_of(status: Json) -> State:
    """`status.state`; a job that has none yet is pending."""
    try:
        return State(status.get("state") or "Pending")
    except ValueError:
        return State.PENDING


def _count(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def _seconds(text: object) -> float | None:
    try:
        return seconds_of(text) if isinstance(text, str) else None
    except ValueError:
        return None
