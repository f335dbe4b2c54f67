"""SuperNodeGroup: how nodes are wired, level by level from the outside in, and which storage is close to what."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from supernode.api.document import Metadata, Spec, Status
from supernode.api.fields import (
    CONDITIONS_EXTRA,
    ConditionModel,
    LabelValue,
    Name,
    NodeSelector,
    QualifiedName,
    RoomModel,
)
from supernode.api.pool import EffectiveModel, Rate
from supernode.api.rules import Rule

# The innermost level, which every group has without saying so.
NODE_LEVEL = "node"
MAX_LEVELS = 8


class LevelSpec(Spec):
    """One level of the wiring."""

    name: Name = Field(description="Name of the level, such as spine, leaf or supernode.")
    node_label: QualifiedName = Field(
        description="Node label whose value names the node's domain at this level, such as supernode.dev/spine."
    )
    bandwidth_gbps: Rate = Field(
        description="GB/s (10^9 bytes/s) per accelerator, one direction, between two domains of the next level inside."
    )
    latency_microseconds: float = Field(ge=0, le=1e6, description="Microseconds for a small message across this level.")


class StorageSpec(Spec):
    """Storage that is close to one domain."""

    name: Name = Field(description="Name by which jobs ask for it.")
    level: Name = Field(description="Level of the domain that it is close to.")
    domain: LabelValue = Field(min_length=1, description="Domain that it is close to: a value of the level's label.")
    read_gbps: Rate = Field(description="GB/s that the domain can read from it.")
    write_gbps: Rate = Field(description="GB/s that the domain can write to it.")


class SuperNodeGroupSpec(Spec):
    """How the nodes are wired."""

    rules: ClassVar[tuple[Rule[Any], ...]] = (
        Rule[Any](
            field=".levels",
            cel="self.levels.all(a, self.levels.exists_one(b, a.name == b.name))",
            message="two levels have the same name",
            holds=lambda spec: len({level.name for level in spec.levels}) == len(spec.levels),
        ),
        Rule[Any](
            field=".levels",
            cel="self.levels.all(a, self.levels.exists_one(b, a.nodeLabel == b.nodeLabel))",
            message="two levels use the same nodeLabel",
            holds=lambda spec: len({level.node_label for level in spec.levels}) == len(spec.levels),
        ),
        Rule[Any](
            field=".levels",
            cel="self.levels.all(a, a.name != 'node')",
            message="the level 'node' is implied as the innermost one: leave it out",
            holds=lambda spec: all(level.name != NODE_LEVEL for level in spec.levels),
        ),
        Rule[Any](
            field=".storage",
            cel="!has(self.storage) || self.storage.all(s, self.levels.exists(l, l.name == s.level))",
            message="every storage must name one of the group's levels",
            holds=lambda spec: {store.level for store in spec.storage} <= {level.name for level in spec.levels},
        ),
        Rule[Any](
            field=".storage",
            cel="!has(self.storage) || self.storage.all(a, self.storage.exists_one(b, a.name == b.name))",
            message="two storages have the same name",
            holds=lambda spec: len({store.name for store in spec.storage}) == len(spec.storage),
        ),
    )

    node_selector: NodeSelector = Field(description="Nodes that are wired together.")
    levels: list[LevelSpec] = Field(
        min_length=1,
        max_length=MAX_LEVELS,
        description="Levels, outermost first, such as spine before supernode. The node itself is implied as innermost.",
    )
    storage: list[StorageSpec] = Field(
        default_factory=list, max_length=64, description="Storage, and the domain that each is close to."
    )


class GroupRoomModel(RoomModel):
    """Room of one pool on one level of the group."""

    pool: str = Field(description="Name of the AcceleratorPool.")


class SuperNodeGroupStatus(Status):
    """How the group stands; written by the operator."""

    observed_generation: int = Field(default=0, description="Generation of the spec that this status is about.")
    conditions: list[ConditionModel] = Field(
        default_factory=list, description="Accepted and Ready.", json_schema_extra=CONDITIONS_EXTRA
    )
    nodes: int = Field(default=0, description="Nodes that are wired in.")
    unlabelled_nodes: int = Field(
        default=0, description="Nodes that the selector finds but that lack a level's label; Ready names them."
    )
    domains: dict[str, int] = Field(default_factory=dict, description="Number of domains per level.")
    capacity: int = Field(default=0, description="Accelerators of all its nodes, over all pools.")
    allocated: int = Field(default=0, description="Accelerators that workers hold.")
    free: int = Field(default=0, description="Accelerators that a worker could have now.")
    unhealthy: int = Field(
        default=0,
        description="Accelerators on nodes that can't take a worker now, and those that are called unhealthy.",
    )
    room: list[GroupRoomModel] = Field(
        default_factory=list,
        max_length=128,
        description="The largest gang of each pool that each level can take now, outermost first.",
    )
    effective: EffectiveModel | None = Field(default=None, description="What running jobs get out of the group.")


class SuperNodeGroup(Spec):
    """The wiring of a set of nodes as a tree: levels from the outside in, each with a node label and link figures.

    Cluster-wide. Jobs name levels in `spec.scheduling.constraints`.
    """

    api_version: str = ""
    kind: Literal["SuperNodeGroup"] = "SuperNodeGroup"
    metadata: Metadata
    spec: SuperNodeGroupSpec = Field(description="How the nodes are wired.")
    status: SuperNodeGroupStatus | None = Field(default=None, description="How the group stands.")
