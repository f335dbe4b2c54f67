"""How a TrainingJob stands: what the operator writes into its status."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field
from pydantic.config import JsonDict

from supernode.api.document import Status
from supernode.api.fields import CONDITIONS_EXTRA, ConditionModel

State = Literal["Pending", "Waiting", "Starting", "Running", "Restarting", "Suspended", "Succeeded", "Failed"]
_TIME: JsonDict = {"format": "date-time"}
# Bounds on lists that people read.
MOST_RUNNERS_UP: Final = 5
MOST_NODES_NAMED: Final = 1024
# A set of indices such as 0-3,6.
_INDICES: Final = "^([0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*)?$"


class WorkerCounts(Status):
    """Workers by what they do."""

    desired: int = Field(default=0, description="Workers wanted.")
    active: int = Field(default=0, description="Workers whose pod exists and has not ended.")
    ready: int = Field(default=0, description="Workers that are ready.")
    succeeded: int = Field(default=0, description="Workers that ended well.")
    failed: int = Field(default=0, description="Workers that failed in this attempt.")


class AssignmentStatus(Status):
    """Workers that are next to each other by rank, in one pool and on each node in the same way."""

    pool: str = Field(default="", description="AcceleratorPool that they run in.")
    nodes: list[str] = Field(
        default_factory=list,
        description="Their nodes, by rank.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    devices: list[Annotated[str, Field(max_length=256, pattern=_INDICES)]] = Field(
        default_factory=list,
        description="Indices of the devices of each worker on such a node, by rank, as 0-3,6.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


class RunnerUpStatus(Status):
    """A place that was not taken."""

    pool: str = Field(default="", description="AcceleratorPool of the place.")
    level: str = Field(default="", description="Level of its domain, empty if it is not one domain.")
    domain: str = Field(default="", description="The domain, as a path from the outside in.")
    predicted_step_seconds: float | None = Field(default=None, description="Predicted seconds of one training step.")


class StageStatus(Status):
    """One pipeline stage of a gang that is placed by stages (`mix: Stages`)."""

    pool: str = Field(default="", description="AcceleratorPool that its workers run in.")
    layers: int = Field(default=0, description="Layers of the model that it has.")
    chunks: list[int] = Field(
        default_factory=list,
        description="Layers of each of its model chunks, if the schedule is interleaved.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


class PromiseStatus(Status):
    """Effective compute that a place promises in one pool."""

    pool: str = Field(default="", description="AcceleratorPool.")
    tflops: float = Field(default=0.0, description="Useful TFLOPS of the model, by the predicted step time.")


class PlacementStatus(Status):
    """Where the gang is, or will be: written before its pods are created."""

    attempt: int = Field(default=0, description="Attempt that this placement is for.")
    pool: str = Field(default="", description="AcceleratorPool, or several joined by commas.")
    stages: list[StageStatus] = Field(
        default_factory=list,
        max_length=1024,
        description="Pool and layers of each pipeline stage, first to last, if the gang is placed by stages. Ranks "
        "then count through tensor, context, data and pipeline, so that a stage's ranks are neighbours.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    level: str = Field(default="", description="Innermost level of which one domain holds the whole gang.")
    domain: str = Field(default="", description="That domain, as a path from the outside in.")
    predicted_step_seconds: float | None = Field(default=None, description="Predicted seconds of one training step.")
    promised: list[PromiseStatus] = Field(
        default_factory=list,
        max_length=16,
        description="Effective TFLOPS that the gang counts with in quotas, by pool; without a predicted step it counts "
        "with the peak of its accelerators.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    placed_at: str | None = Field(default=None, description="When the gang got this place.", json_schema_extra=_TIME)
    runners_up: list[RunnerUpStatus] = Field(
        default_factory=list,
        max_length=MOST_RUNNERS_UP,
        description="The next best places when it was chosen, best first.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    assignment: list[AssignmentStatus] = Field(
        default_factory=list,
        description="Each worker's node and devices: ranks count through the entries, in an entry through its nodes, "
        "and on each node through devices.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


class CheckpointStatus(Status):
    """The last checkpoint that the workers have reported; it outlives attempts."""

    step: int = Field(default=0, description="Steps done when it was saved.")
    saved_at: str | None = Field(default=None, description="When it was saved.", json_schema_extra=_TIME)
    attempt: int = Field(default=0, description="Attempt that saved it.")


class ReplacedWorker(Status):
    """A worker that is replaced while the others run on."""

    rank: int = Field(description="Its rank.")
    uid: str = Field(default="", max_length=64, description="UID of the pod that goes.")


class DisruptionStatus(Status):
    """Something that is being done to a gang that has a place."""

    kind: Literal["Preemption", "Resize", "Migration", "Repair"] = Field(
        description="Preemption: it gives way. Resize: it starts again with another number of workers. Migration: it "
        "moves. Repair: it waits for places instead of those that it lost."
    )
    by: str = Field(
        default="",
        max_length=512,
        description="On whose behalf, such as the job that it gives way to; of one in another namespace only the uid.",
    )
    message: str = Field(default="", max_length=1024, description="Why, in one sentence.")
    requested_at: str | None = Field(default=None, description="Since when.", json_schema_extra=_TIME)
    deadline: str | None = Field(
        default=None,
        description="When it goes on at the latest: without a checkpoint, or released whole (Repair).",
        json_schema_extra=_TIME,
    )
    workers: int = Field(default=0, description="Workers that the gang has afterwards; 0: it gives up its place.")
    nodes: list[str] = Field(
        default_factory=list,
        max_length=MOST_NODES_NAMED,
        description="Nodes that it must not be on any more.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    replacing: list[ReplacedWorker] = Field(
        default_factory=list,
        description="Workers that are replaced while the others run on (disruptionMode Single).",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


class NominationVictim(Status):
    """A gang that is to give way."""

    key: str = Field(max_length=512, description="Namespace and name of the job; empty for a job of another namespace.")
    uid: str = Field(max_length=64, description="UID of the job.")
    attempt: int = Field(default=0, description="Attempt that is meant.")
    workers: int = Field(default=0, description="Workers that it keeps; 0: it stops.")


class NominationMove(Status):
    """A gang that is to move."""

    key: str = Field(max_length=512, description="Namespace and name of the job; empty for a job of another namespace.")
    uid: str = Field(max_length=64, description="UID of the job.")
    attempt: int = Field(default=0, description="Attempt that is meant.")
    nodes: list[str] = Field(
        default_factory=list,
        description="Nodes that it goes to.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


class NominationStatus(Status):
    """Nodes that are kept for a waiting gang, who gives way there, and who moves elsewhere."""

    since: str | None = Field(default=None, description="When it was decided.", json_schema_extra=_TIME)
    nodes: list[str] = Field(
        default_factory=list,
        description="Nodes that the gang, and those that move for it, are going to use.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    victims: list[NominationVictim] = Field(
        default_factory=list,
        description="Gangs that give way.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    moves: list[NominationMove] = Field(
        default_factory=list,
        max_length=16,
        description="Gangs that move elsewhere.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


class Progress(Status):
    """How far the training is, as rank 0 reports it."""

    step: int = Field(default=0, description="Steps done.")
    first_loss: float | None = Field(default=None, description="Loss of the first step.")
    loss: float | None = Field(default=None, description="Loss of the last step reported.")
    tokens: int = Field(default=0, description="Tokens seen.")
    steps: int | None = Field(default=None, description="Steps that the training has in all.")
    remaining_seconds: int | None = Field(
        default=None, description="Seconds until the last step at the pace of this attempt, by the wall clock."
    )
    step_seconds: float | None = Field(
        default=None,
        description="Seconds of one step: observed on hardware, by the emulated clock in an emulated pool.",
    )
    checkpoint_step: int | None = Field(default=None, description="Steps done at the last checkpoint saved.")
    checkpoint_at: str | None = Field(
        default=None, description="When the last checkpoint was saved.", json_schema_extra=_TIME
    )
    digest: str | None = Field(default=None, description="SHA-256 of the parameters, if the workers report it.")
    updated_at: str | None = Field(default=None, description="When this was reported.", json_schema_extra=_TIME)


class Goodput(Status):
    """What the job's time since its creation went into, in seconds; see docs/operator.md."""

    share: float | None = Field(
        default=None,
        description="Goodput, 0 to 1: running without recomputation, over waiting, starting and running.",
    )
    waiting_seconds: float = Field(default=0.0, description="It waited for a place.")
    starting_seconds: float = Field(default=0.0, description="It was being started, stopped or repaired.")
    running_seconds: float = Field(default=0.0, description="All its workers ran.")
    recomputation_seconds: float = Field(
        default=0.0, description="Of these, it computed steps that an earlier attempt had computed already."
    )
    straggler_seconds: float = Field(
        default=0.0, description="Of the rest, it waited for workers that are slower than their like."
    )
    communication_seconds: float = Field(
        default=0.0, description="Of the rest, it communicated and waited for other ranks, beside all computing."
    )
    suspended_seconds: float = Field(default=0.0, description="It was suspended; that counts nowhere else.")
    redone_until_step: int = Field(default=0, description="Steps that earlier attempts had computed.")
    measured_at: str | None = Field(
        default=None, description="Up to when this is counted: the last change of the status.", json_schema_extra=_TIME
    )


class StragglerStatus(Status):
    """A worker that is slower than others with the same work."""

    rank: int = Field(description="Rank of the worker.")
    node: str = Field(default="", description="Node that it runs on.")
    own_seconds: float = Field(default=0.0, description="What its devices did themselves in a step, when it was found.")
    usual_seconds: float = Field(default=0.0, description="The same of its like.")
    since: str | None = Field(default=None, description="When it was found.", json_schema_extra=_TIME)


class TrainingJobStatus(Status):
    """How the job stands; written by the operator."""

    observed_generation: int = Field(default=0, description="Generation of the spec that this status is about.")
    state: State | None = Field(
        default=None,
        description="In one word: Pending, Waiting, Starting, Running, Restarting, Suspended, Succeeded or Failed.",
    )
    message: str = Field(default="", max_length=32768, description="What it waits for or why it failed, one sentence.")
    conditions: list[ConditionModel] = Field(
        default_factory=list,
        description="Accepted, Scheduled, Running, Suspended, Restarting, Straggling, Succeeded and Failed.",
        json_schema_extra=CONDITIONS_EXTRA,
    )
    ready: str = Field(default="", max_length=64, description="Workers ready or done, of workers wanted, such as 2/2.")
    workers: WorkerCounts | None = Field(default=None, description="Workers by what they do.")
    replicas: int = Field(default=0, description="Workers whose pod exists (for the scale subresource).")
    selector: str = Field(
        default="", max_length=1024, description="Label selector of the pods (for the scale subresource)."
    )
    attempt: int = Field(
        default=0, ge=0, le=2**31 - 1, description="Current attempt, from 0; a restarted gang has the next number."
    )
    restarts: int = Field(default=0, ge=0, le=2**31 - 1, description="Restarts that count towards backoffLimit.")
    requeues: int = Field(
        default=0, ge=0, le=2**31 - 1, description="Times in a row that the gang gave its places back without running."
    )
    crashes: int = Field(
        default=0,
        ge=0,
        le=2**31 - 1,
        description="Failures in a row, each within a minute of getting its place; from the third on the gang pauses.",
    )
    retry_at: str | None = Field(
        default=None,
        description="When a gang that could not start, or crashes, is tried again.",
        json_schema_extra=_TIME,
    )
    placement: PlacementStatus | None = Field(default=None, description="Where the gang is.")
    nomination: NominationStatus | None = Field(
        default=None, description="Nodes that are kept for the waiting gang while others give way."
    )
    disruption: DisruptionStatus | None = Field(
        default=None, description="What is being done to the gang, if anything."
    )
    checkpoint: CheckpointStatus | None = Field(default=None, description="The last checkpoint that was reported.")
    progress: Progress | None = Field(default=None, description="How far the training is.")
    mfu: float | None = Field(
        default=None,
        description="Model FLOP/s utilisation, 0 to 1: useful FLOP/s divided by the peak of the accelerators.",
    )
    goodput: Goodput | None = Field(default=None, description="What the job's time went into.")
    stragglers: list[StragglerStatus] = Field(
        default_factory=list,
        max_length=16,
        description="Workers that make all others wait, while they do.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    start_time: str | None = Field(
        default=None,
        description="When the gang was last started; activeDeadlineSeconds counts from here.",
        json_schema_extra=_TIME,
    )
    completion_time: str | None = Field(default=None, description="When the job ended.", json_schema_extra=_TIME)
