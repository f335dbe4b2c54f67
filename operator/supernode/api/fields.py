"""The kinds of value that fields share: names, labels, selectors, conditions. Bounds keep CEL's cost estimate low."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.config import JsonDict

from supernode.api.document import Spec, Status

# A DNS label, as most Kubernetes names that end up in a label value are.
Name = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
# A qualified name: the key of a label, or an extended resource such as hygon.com/hcu.
QualifiedName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=316,
        pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
    ),
]
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")]
ConditionStatus = Literal["True", "False", "Unknown"]


class LabelRequirement(Spec):
    """One requirement on a node label."""

    key: QualifiedName = Field(description="Label that is looked at.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(
        description="How the label's value relates to `values`: In, NotIn, Exists or DoesNotExist."
    )
    values: list[LabelValue] = Field(
        default_factory=list,
        max_length=256,
        description="Values for In and NotIn; none for Exists and DoesNotExist.",
    )


class NodeSelector(Spec):
    """Which nodes are meant; all requirements must hold."""

    match_labels: dict[str, LabelValue] = Field(
        default_factory=dict, max_length=64, description="Labels that a node must have, with these values."
    )
    match_expressions: list[LabelRequirement] = Field(
        default_factory=list, max_length=64, description="Further requirements on a node's labels."
    )

    def matches(self, labels: dict[str, str]) -> bool:
        """Whether a node with these labels is selected, by the rules of Kubernetes label selectors."""
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            _holds(requirement, labels) for requirement in self.match_expressions
        )


def _holds(requirement: LabelRequirement, labels: dict[str, str]) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value in requirement.values
        case "NotIn":
            return value not in requirement.values
        case "Exists":
            return value is not None
        case _:
            return value is None


class ConditionModel(Status):
    """How the object stands in one respect."""

    type: str = Field(max_length=316, description="What is told about, such as Accepted or Scheduled.")
    status: ConditionStatus = Field(description="True, False or Unknown.")
    reason: str = Field(default="", max_length=1024, description="One CamelCase word for programs.")
    message: str = Field(default="", max_length=32768, description="One sentence for people, with numbers.")
    observed_generation: int = Field(default=0, description="Generation of the object that this was said about.")
    last_transition_time: str = Field(
        default="", description="When `status` last changed.", json_schema_extra={"format": "date-time"}
    )


CONDITIONS_EXTRA: JsonDict = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}


class RoomModel(Status):
    """Room on one level of the wiring."""

    level: str = Field(description="Level, or node.")
    largest_gang: int = Field(default=0, description="Free accelerators in the domain that has most of them.")
    domain: str = Field(default="", description="That domain, with those around it; empty where nothing is free.")
    domain_size: int = Field(default=0, description="Accelerators of the largest domain.")
    fragmentation: float = Field(
        default=0.0,
        description="Share of the gang that the free accelerators of all domains could make in one domain, were they "
        "together, that has no room: 0 is none.",
    )
