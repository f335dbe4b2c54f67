"""The words in which a job's life is told: its states, facts about it and its pods, and what is decided.

Data only, no clock, no Kubernetes objects: `facts` makes these from what the API holds, `lifecycle` decides on them,
`jobs` carries a `Decision` out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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


class Action(StrEnum):
    """What a failure means (`podFailurePolicy`)."""

    FAIL = "FailJob"
    IGNORE = "Ignore"
    COUNT = "Count"


# Seconds that a pod on a node that is not ready has after its grace period, before it is deleted by force.
PATIENCE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule for failures: of `codes`, `reasons` and `conditions` one is given.

    `codes`: exit codes; `outside`: all others are meant; `container`: only this one's. `conditions`: (type, status).
    """

    action: Action
    codes: frozenset[int] = frozenset()
    outside: bool = False
    container: str = ""
    reasons: frozenset[str] = frozenset()
    conditions: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class RunPolicy:
    """`spec.runPolicy`: seconds are seconds; None is "no limit".

    `by_exit_code`, `in_place`: by the template's restart policy; in place: the node itself restarts containers.
    `single`: a worker that is lost is replaced alone, and the others run on (`disruptionMode`).
    `by_rank_zero`: the job has succeeded when rank 0 has, whatever the others do (`successPolicy`).
    """

    suspend: bool = False
    backoff_limit: int = 3
    ttl: int | None = None
    deadline: int | None = None
    clean: str = "Running"
    by_exit_code: bool = False
    in_place: bool = False
    rules: tuple[Rule, ...] = ()
    start_deadline: float = 600.0
    checkpoint_seconds: float = 30.0
    node_loss: float = 60.0
    hold: float = 300.0
    single: bool = False
    by_rank_zero: bool = False


@dataclass(frozen=True, slots=True)
class PodFacts:
    """One pod of the job, whichever attempt it belongs to.

    `broken`: a container has failed for good, even if others of the pod still run.
    `winding_down`: all its containers have ended for good, and only sidecars are still being stopped.
    `node_gone`: its node is no longer in the cluster, so no kubelet will ever confirm its end.
    `node_lost`: its node is not ready: a kubelet may never confirm its end; `lost_at`: since when (0: not known).
    `evicted_by`: a NoExecute taint of its node that it does not tolerate; `evicted_at`: when it does so no longer.
    `sick`: a device of it that is unhealthy.
    `ends_at`: of one that is being deleted, when it should be gone (seconds since the epoch).
    `trouble`: why a container can't start, where the kubelet says so.
    `exits`: (container, exit code) of those that ended; `conditions`: (type, status) of the pod.
    `container_restarts`: by the node, all containers together. `asked`: it was asked for a checkpoint.
    `stopped`: it is being deleted, and what its containers ended with, they ended with because of that.
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
    lost_at: float = 0.0
    evicted_by: str = ""
    evicted_at: float | None = None
    sick: str = ""
    ends_at: float | None = None
    exit_code: int | None = None
    reason: str = ""
    message: str = ""
    trouble: str = ""
    exits: tuple[tuple[str, int], ...] = ()
    conditions: frozenset[tuple[str, str]] = frozenset()
    container_restarts: int = 0
    asked: bool = False
    stopped: bool = False

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


class DisruptionKind(StrEnum):
    """What is being done to a gang that has a place."""

    PREEMPTION = "Preemption"
    RESIZE = "Resize"
    MIGRATION = "Migration"
    REPAIR = "Repair"


@dataclass(frozen=True, slots=True)
class Disruption:
    """`status.disruption`; times in seconds since the epoch.

    `by`: on whose behalf. `deadline`: when it goes on at the latest. `workers`: of the gang afterwards, 0 = it gives
    up its place. `nodes`: that it must not be on any more. `replacing`: (rank, uid of its pod) of workers that are
    replaced alone, while the others run on.
    """

    kind: DisruptionKind
    requested: float
    deadline: float
    by: str = ""
    message: str = ""
    workers: int = 0
    nodes: tuple[str, ...] = ()
    replacing: tuple[tuple[int, str], ...] = ()

    @property
    def releases(self) -> bool:
        """Whether the gang gives its place up when it has stopped."""
        return self.kind is DisruptionKind.PREEMPTION and not self.workers


@dataclass(frozen=True, slots=True)
class JobFacts:
    """The job as the API has it.

    `workers`: of the gang as it is placed, else as wanted. `wanted`: by the spec, 0 where that can't be read.
    `fewest`: workers with which it may run, 0 = all of those wanted.
    `placed_attempt`: the attempt that `status.placement` belongs to, None if there is none; `placed_at`: since when.
    `saved_at`: time of the last checkpoint reported. `retry_at`: not to be placed before.
    """

    workers: int
    wanted: int = 0
    fewest: int = 0
    policy: RunPolicy = field(default_factory=RunPolicy)
    deleting: bool = False
    accepted: bool = True
    state: State = State.PENDING
    attempt: int = 0
    restarts: int = 0
    placed_attempt: int | None = None
    placed_at: float | None = None
    started: float | None = None
    completed: float | None = None
    disruption: Disruption | None = None
    saved_at: float | None = None
    requeues: int = 0
    crashes: int = 0
    retry_at: float | None = None


@dataclass(frozen=True, slots=True)
class PodRef:
    """A pod to delete: exactly this one. `force`: at once, because nobody would confirm its end."""

    name: str
    uid: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What the status should say (state .. retry_at), then what to do (create .. wake_at).

    `reason` and `message` explain the state. `release`: take the placement out of the status.
    `ask`: pods to ask for a checkpoint; `unask`: pods that need not save one after all.
    `wants_again`: the gang is stopped and keeps its claim; it wants to go on there, or near there.
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
    disruption: Disruption | None = None
    requeues: int = 0
    crashes: int = 0
    retry_at: float | None = None
    create: tuple[int, ...] = ()
    delete: tuple[PodRef, ...] = ()
    ask: tuple[PodRef, ...] = ()
    unask: tuple[PodRef, ...] = ()
    wants_placement: bool = False
    wants_again: bool = False
    remove_finalizer: bool = False
    delete_job: bool = False
    wake_at: float | None = None
