"""The pod template of a TrainingJob: Kubernetes' own, kept as it is.

Only the few fields that Supernode looks at or sets itself are named; all others pass through untouched and are
checked by the API server when the pods are created.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from supernode.api.document import Spec, camel
from supernode.api.fields import Name
from supernode.api.rules import Rule
from supernode.names import EMULATOR_CONTAINER, EMULATOR_VOLUME

_OPEN = ConfigDict(extra="allow", json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})
# Fields of a pod that follow from the placement and the job's name.
_OURS = ("nodeName", "schedulerName", "hostname", "subdomain")
# The same as attributes of the model.
_OURS_ATTRIBUTES = {camel(name): name for name in ("node_name", "scheduler_name", "hostname", "subdomain")}


class Container(Spec):
    """A container, as in any pod."""

    model_config = _OPEN

    name: Name = Field(description="Name of the container, unique in the pod.")
    image: str | None = Field(default=None, max_length=1024, description="Image to run.")


class Volume(Spec):
    """A volume, as in any pod."""

    model_config = _OPEN

    name: Name = Field(description="Name of the volume, unique in the pod.")


def _ours(field: str) -> Rule[Any]:
    return Rule[Any](
        field=f".{field}",
        cel=f"!has(self.{field})",
        message=f"leave {field} out: Supernode sets it from the placement",
        holds=lambda spec: getattr(spec, _OURS_ATTRIBUTES[field]) is None,
    )


class PodSpec(Spec):
    """The spec of each worker's pod, as in any pod; the first container gets the accelerators."""

    model_config = _OPEN
    rules: ClassVar[tuple[Rule[Any], ...]] = (
        *(_ours(field) for field in _OURS),
        Rule[Any](
            field=".containers",
            cel=f"self.containers.all(c, c.name != '{EMULATOR_CONTAINER}') && "
            f"(!has(self.initContainers) || self.initContainers.all(c, c.name != '{EMULATOR_CONTAINER}'))",
            message=f"the container name {EMULATOR_CONTAINER} is kept for the emulator",
            holds=lambda spec: all(
                c.name != EMULATOR_CONTAINER for c in (*spec.containers, *(spec.init_containers or ()))
            ),
        ),
        Rule[Any](
            field=".volumes",
            cel=f"!has(self.volumes) || self.volumes.all(v, v.name != '{EMULATOR_VOLUME}')",
            message=f"the volume name {EMULATOR_VOLUME} is kept for the emulator",
            holds=lambda spec: all(volume.name != EMULATOR_VOLUME for volume in spec.volumes or ()),
        ),
    )

    containers: list[Container] = Field(
        min_length=1,
        max_length=32,
        description="Containers of the pod; the first one gets the accelerators and the framework's variables.",
    )
    init_containers: list[Container] | None = Field(
        default=None, max_length=32, description="Containers that run before the others, and sidecars."
    )
    restart_policy: Literal["Never", "OnFailure", "Always", "ExitCode"] | None = Field(
        default=None,
        description="Never (the default): a worker that fails restarts the gang. OnFailure: the node restarts the "
        "container, and that counts towards backoffLimit. Always: likewise, also after a good end, so that such a job "
        "never succeeds. ExitCode: as Never, but an exit code below 128 fails the job at once.",
    )
    volumes: list[Volume] | None = Field(default=None, max_length=256, description="Volumes of the pod.")
    node_name: str | None = Field(default=None, max_length=253, description="Not allowed: Supernode chooses the node.")
    scheduler_name: str | None = Field(
        default=None, max_length=253, description="Not allowed: Supernode places the pods itself."
    )
    hostname: str | None = Field(default=None, max_length=253, description="Not allowed: it follows from the rank.")
    subdomain: str | None = Field(default=None, max_length=253, description="Not allowed: it is the job's name.")


class TemplateMetadata(Spec):
    """Labels and annotations of the pods."""

    labels: dict[str, str] | None = Field(
        default=None, max_length=64, description="Labels of the pods, beside Supernode's own."
    )
    annotations: dict[str, str] | None = Field(
        default=None, max_length=64, description="Annotations of the pods, beside Supernode's own."
    )


class PodTemplate(Spec):
    """The pod of each worker."""

    metadata: TemplateMetadata | None = Field(default=None, description="Labels and annotations of the pods.")
    spec: PodSpec = Field(
        description="Spec of the pods, as in any pod template (`kubectl explain pod.spec`). "
        "Supernode adds accelerators, variables, node and name."
    )

    def as_dict(self) -> dict[str, Any]:
        """The template as the user wrote it, as plain values that the caller may change."""
        return self.model_dump(by_alias=True, exclude_unset=True)
