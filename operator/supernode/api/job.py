"""TrainingJob: what to train, on what, placed how, and run by which policy."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from supernode.api.document import Metadata, Spec
from supernode.api.fields import Name
from supernode.api.job_rules import CONSTRAINT_RULES, JOB_RULES, NAME_RULE
from supernode.api.job_status import TrainingJobStatus
from supernode.api.pool import MAX_DEVICES_PER_NODE
from supernode.api.rules import Rule
from supernode.api.run_policy import RunPolicy
from supernode.api.template import PodTemplate
from supernode.api.training import ModelSpec, ParallelismSpec
from supernode.names import MANAGER

MAX_WORKERS = 2**17
Framework = Literal["PyTorch", "MPI", "JAX", "TensorFlow", "PaddlePaddle", "MindSpore", "None"]
Workers = Annotated[int, Field(ge=1, le=MAX_WORKERS)]


class Gang(Spec):
    """All workers are placed at once, or none."""

    min_count: Workers | None = Field(
        default=None, description="Fewest workers with which the job may run. Default: all of them."
    )
    grow_after_seconds: int = Field(
        default=300,
        ge=0,
        le=2**31 - 1,
        description="Seconds that a gang of fewer than all workers runs before it may be started again with more.",
    )


class Policy(Spec):
    """How the workers belong together."""

    gang: Gang = Field(default=Gang(), description="All workers are placed at once, or none.")


class TopologyConstraint(Spec):
    """A level of the wiring within whose domain all workers are placed."""

    level: Name = Field(description="Level of a SuperNodeGroup, or `node` for a single node.")
    mode: Literal["Required", "Preferred"] = Field(
        default="Required", description="Required: the job waits until one domain fits. Preferred: if one fits."
    )


class SliceConstraint(Spec):
    """Runs of consecutive ranks that share a domain."""

    level: Name = Field(description="Level of a SuperNodeGroup, or `node`, whose domain each run shares.")
    size: Workers = Field(description="Workers in a run; the workers must be a multiple of it.")


class Constraints(Spec):
    """Where the workers are placed, relative to each other."""

    rules: ClassVar[tuple[Rule[Any], ...]] = CONSTRAINT_RULES

    topology: list[TopologyConstraint] = Field(
        default_factory=list,
        max_length=8,
        description="Levels within whose domain all workers are placed; several may be given.",
    )
    slices: list[SliceConstraint] = Field(
        default_factory=list,
        max_length=4,
        description="Runs of consecutive ranks that share a domain, from the outside in: each size is a multiple of "
        "the next.",
    )


class SchedulingSpec(Spec):
    """How the job is placed."""

    policy: Policy = Field(default=Policy(), description="How the workers belong together.")
    constraints: Constraints = Field(
        default=Constraints(), description="Where the workers are placed, relative to each other."
    )
    disruption_mode: Literal["All", "Single"] = Field(
        default="All",
        description="What is stopped when workers fail or must yield: All (the whole gang restarts) or Single (only "
        "these workers, and the others run on; not in emulated pools, whose sidecars start together).",
    )
    priority_class_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=253,
        description="PriorityClass of the job and its pods; higher goes first.",
    )


class Checkpoint(Spec):
    """Where, how often and how much is saved."""

    store: Name = Field(description="Storage of a SuperNodeGroup that checkpoints are written to.")
    every_steps: Annotated[int, Field(ge=1, le=2**31 - 1)] = Field(description="Steps between checkpoints.")
    size_gb: Annotated[float, Field(gt=0, le=1e9)] = Field(description="Size of a checkpoint in GB (10^9 bytes).")


class StorageUse(Spec):
    """Storage that the job reads and writes; placing the job close to it makes steps shorter."""

    dataset: Name | None = Field(
        default=None, description="Storage of a SuperNodeGroup that the samples are read from."
    )
    checkpoint: Checkpoint | None = Field(default=None, description="Where, how often and how much is saved.")


class TrainingJobSpec(Spec):
    """What to train."""

    rules: ClassVar[tuple[Rule[Any], ...]] = JOB_RULES

    pools: list[Name] = Field(
        min_length=1,
        max_length=16,
        description="AcceleratorPools that may be used: alternatives, of which the one with the shortest predicted "
        "step is taken.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    mix: Literal["None", "Stages"] = Field(
        default="None",
        description="None: the gang runs in one pool. Stages: its pipeline stages may be spread over several pools.",
    )
    workers: Workers = Field(description="Workers, each a pod. `kubectl scale` changes it.")
    accelerators_per_worker: Annotated[int, Field(ge=1, le=MAX_DEVICES_PER_NODE)] = Field(
        description="Accelerators of each worker, all on one node."
    )
    framework: Framework = Field(
        default="None",
        description="Whose rendezvous variables the workers get: PyTorch, MPI, JAX, TensorFlow, PaddlePaddle, "
        "MindSpore or None.",
    )
    model: ModelSpec | None = Field(
        default=None, description="Shape of the model; without it no step time can be predicted."
    )
    parallelism: ParallelismSpec = Field(
        default=ParallelismSpec(),
        description="How model and batch are cut. Default: data-parallel over all accelerators.",
    )
    scheduling: SchedulingSpec = Field(default=SchedulingSpec(), description="How the job is placed.")
    run_policy: RunPolicy = Field(
        default=RunPolicy(), description="When the job runs, is tried again and is cleaned up."
    )
    storage: StorageUse | None = Field(default=None, description="Storage that the job reads and writes.")
    managed_by: str | None = Field(
        default=None,
        min_length=1,
        max_length=63,
        description=f"Who looks after the job: {MANAGER} (the default) or another controller, then Supernode leaves it "
        "alone. It can't be changed.",
    )
    template: PodTemplate = Field(description="The pod of each worker.")

    @property
    def accelerators(self) -> int:
        """Accelerators of all workers."""
        return self.workers * self.accelerators_per_worker

    @property
    def data(self) -> int:
        """Data-parallel replicas: as given, or what is left of the accelerators."""
        cut = self.parallelism
        if cut.data is not None:
            return cut.data
        return max(1, self.accelerators // (cut.tensor * cut.pipeline * cut.context))

    @property
    def min_count(self) -> int:
        """Fewest workers with which the job may run."""
        return self.scheduling.policy.gang.min_count or self.workers


class TrainingJob(Spec):
    """A training job: a gang of workers that is placed all at once where the predicted step time is best, and run.

    Other fields of the spec can be changed while the job is suspended; workers, runPolicy and scheduling.policy always.
    """

    rules: ClassVar[tuple[Rule[Any], ...]] = (NAME_RULE,)

    api_version: str = ""
    kind: Literal["TrainingJob"] = "TrainingJob"
    metadata: Metadata
    spec: TrainingJobSpec = Field(description="What to train.")
    status: TrainingJobStatus | None = Field(default=None, description="How the job stands.")

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.metadata.namespace}/{self.metadata.name}"
