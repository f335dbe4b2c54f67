"""When a job runs, is tried again, is repaired and is cleaned up: `spec.runPolicy`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from supernode.api.document import Spec
from supernode.api.rules import Rule

_MOST = 2**31 - 1
# A container's or pod's reason, such as OOMKilled: CamelCase as Kubernetes has them.
ReasonName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]


class ExitCodeMatch(Spec):
    """Exit codes of a worker's containers; a container that ended with 0 is not looked at."""

    container_name: str | None = Field(
        default=None, min_length=1, max_length=63, description="Only this container. Default: any of the pod."
    )
    operator: Literal["In", "NotIn"] = Field(description="How the exit code relates to `values`: In or NotIn.")
    values: list[Annotated[int, Field(ge=1, le=255)]] = Field(
        min_length=1,
        max_length=255,
        description="Exit codes, each 1 to 255.",
    )


class PodConditionMatch(Spec):
    """A condition of a worker's pod, such as DisruptionTarget."""

    type: str = Field(min_length=1, max_length=316, description="Type of the condition.")
    status: Literal["True", "False", "Unknown"] = Field(default="True", description="Status that it must have.")


class FailureRule(Spec):
    """What a failure means, if it is one of these; exactly one of onExitCodes, onReasons and onPodConditions."""

    rules: ClassVar[tuple[Rule[Any], ...]] = (
        Rule[Any](
            field="",
            cel="[has(self.onExitCodes), has(self.onReasons), has(self.onPodConditions)].filter(x, x).size() == 1",
            message="exactly one of onExitCodes, onReasons and onPodConditions must be given",
            holds=lambda rule: (
                sum(given is not None for given in (rule.on_exit_codes, rule.on_reasons, rule.on_pod_conditions)) == 1
            ),
        ),
    )

    action: Literal["FailJob", "Ignore", "Count"] = Field(
        description="FailJob: the job has failed. Ignore: the gang restarts and backoffLimit is left alone. Count: it "
        "restarts and that counts, as without a rule."
    )
    on_exit_codes: ExitCodeMatch | None = Field(default=None, description="Exit codes that are meant.")
    on_reasons: list[ReasonName] | None = Field(
        default=None,
        min_length=1,
        max_length=32,
        description="Reasons that are meant: a container's or pod's (OOMKilled, Evicted ...), or the operator's own "
        "NodeLost, NodeGone, NodeTainted, DeviceUnhealthy and PodDeleted.",
    )
    on_pod_conditions: list[PodConditionMatch] | None = Field(
        default=None, min_length=1, max_length=20, description="Conditions of the pod, of which one is enough."
    )


class PodFailurePolicy(Spec):
    """Rules for failures, as a Kubernetes Job has them."""

    failure_rules: list[FailureRule] = Field(
        default_factory=list,
        alias="rules",
        max_length=20,
        description="The first rule that a failure matches decides; without one it counts towards backoffLimit.",
    )


class RepairPolicy(Spec):
    """How long a gang holds on to its places when one of its nodes or devices fails."""

    node_loss_seconds: int = Field(
        default=60,
        ge=0,
        le=_MOST,
        description="Seconds that a worker's node may be not ready before the worker counts as lost.",
    )
    hold_seconds: int = Field(
        default=300,
        ge=0,
        le=_MOST,
        description="Seconds that the gang keeps its other places while there is none for the lost workers; then it is "
        "released whole and queued.",
    )


class RunPolicy(Spec):
    """When the job runs, is tried again and is cleaned up."""

    suspend: bool = Field(
        default=False, description="Stop the workers and give the accelerators back; false again resumes."
    )
    backoff_limit: int = Field(
        default=3, ge=0, le=10_000, description="Restarts of the gang after failures before the job has failed."
    )
    success_policy: Literal["AllWorkers", "RankZero"] | None = Field(
        default=None,
        description="When the job has succeeded: AllWorkers (all have ended well) or RankZero (rank 0 has; the others "
        "are stopped as cleanPodPolicy says). Default: RankZero for framework MPI, where rank 0 is the launcher and "
        "the others serve it; AllWorkers for all other frameworks.",
    )
    pod_failure_policy: PodFailurePolicy = Field(
        default=PodFailurePolicy(), description="What a failure means, by exit code, reason or pod condition."
    )
    start_deadline_seconds: int = Field(
        default=600,
        ge=1,
        le=_MOST,
        description="Seconds that a placed gang may take until all its workers run; then it gives its places back and "
        "is tried again later.",
    )
    checkpoint_seconds: int = Field(
        default=30,
        ge=0,
        le=86_400,
        description="Seconds that workers have to save a checkpoint, once asked, before the gang is stopped to give "
        "way, to move or to change its size.",
    )
    repair: RepairPolicy = Field(
        default=RepairPolicy(), description="How a gang that lost nodes or devices is repaired."
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=_MOST,
        description="Seconds after its end at which the job is deleted. Default: never.",
    )
    active_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        le=_MOST,
        description="Seconds that the job may be active before it has failed; a job that was suspended, or went back "
        "to the queue, starts counting again.",
    )
    clean_pod_policy: Literal["None", "Running", "All"] = Field(
        default="Running",
        description="Pods that are deleted when the job ends: None, Running (those not ended yet) or All.",
    )
