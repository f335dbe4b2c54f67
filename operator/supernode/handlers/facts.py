"""Raw jobs and pods into the facts that `lifecycle` decides on. Pure.

Flows in: JSON from the stores and the validated model (None when the job is not valid). Flows out: `JobFacts`,
`PodFacts`. A running job whose spec became invalid is still looked after, by what its status says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from supernode.api.conditions import seconds_of
from supernode.api.job import TrainingJob
from supernode.api.rules import Problem
from supernode.cluster import nodes, pods, translate
from supernode.cluster.kinds import Json
from supernode.cluster.observe import View
from supernode.handlers.lifecycle import JobFacts, PodFacts, RunPolicy, State


def job_facts(obj: Json, model: TrainingJob | None, *, accepted: bool) -> JobFacts:
    """What the API says about a job."""
    status = obj.get("status") or {}
    placement = status.get("placement") or {}
    placed = placement.get("workers") or []
    wanted = model.spec.workers if model is not None else 0
    return JobFacts(
        workers=len(placed) or wanted,
        wanted=wanted,
        policy=run_policy(obj, model),
        deleting="deletionTimestamp" in obj["metadata"],
        accepted=accepted,
        state=state_of(status),
        attempt=_count(status.get("attempt")),
        restarts=_count(status.get("restarts")),
        placed_attempt=_count(placement.get("attempt")) if placed else None,
        started=_seconds(status.get("startTime")),
        completed=_seconds(status.get("completionTime")),
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
    )


def pod_facts(raw: Sequence[Json], node_of: Callable[[str], Json | None]) -> list[PodFacts]:
    """What the API says about a job's pods. `node_of`: the node of a name, None if the cluster has none."""
    result = []
    for pod in raw:
        metadata = pod["metadata"]
        name = (pod.get("spec") or {}).get("nodeName") or ""
        node = node_of(name) if name else None
        code, reason, words = pods.ending(pod)
        result.append(
            PodFacts(
                name=metadata["name"],
                uid=metadata.get("uid", ""),
                rank=pods.rank_of(pod),
                attempt=pods.attempt_of(pod),
                phase=(pod.get("status") or {}).get("phase") or "Pending",
                ready=pods.is_ready(pod),
                deleting="deletionTimestamp" in metadata,
                broken=pods.has_failed(pod),
                winding_down=pods.is_winding_down(pod),
                node=name,
                node_gone=bool(name) and node is None,
                node_lost=node is not None and not nodes.is_ready(node),
                ends_at=pods.ends_at(pod),
                exit_code=code,
                reason=reason,
                message=words,
                trouble=pods.trouble(pod),
            )
        )
    return result


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
