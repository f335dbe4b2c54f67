"""AcceleratorPool: which nodes carry which chip, how many per node, how they are linked, and who may use how much."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from supernode.api.document import Metadata, Spec, Status
from supernode.api.fields import CONDITIONS_EXTRA, ConditionModel, Name, NodeSelector, QualifiedName, RoomModel
from supernode.api.rules import Rule
from supernode.chips import DTYPES

# Devices of a node are kept as bits of a 64-bit mask.
MAX_DEVICES_PER_NODE = 64
Rate = Annotated[float, Field(gt=0, le=1e9)]


class Peaks(Spec):
    """Peak rates of a chip, in TFLOPS (int8: TOPS), dense."""

    f64: Rate | None = Field(default=None, description="Peak in 64-bit floating point, TFLOPS.")
    f32: Rate | None = Field(default=None, description="Peak in 32-bit floating point, TFLOPS.")
    tf32: Rate | None = Field(default=None, description="Peak in TF32, TFLOPS.")
    bf16: Rate | None = Field(default=None, description="Peak in bfloat16, TFLOPS.")
    f16: Rate | None = Field(default=None, description="Peak in 16-bit floating point, TFLOPS.")
    fp8: Rate | None = Field(default=None, description="Peak in 8-bit floating point, TFLOPS.")
    int8: Rate | None = Field(default=None, description="Peak in 8-bit integers, TOPS.")


if set(Peaks.model_fields) != set(DTYPES):
    raise TypeError("Peaks and chips.DTYPES must name the same formats")


def _extended(names: list[str]) -> bool:
    return all("/" in name and "kubernetes.io/" not in name and not name.startswith("requests.") for name in names)


# Kubernetes' own rule for extended resources. Without it an emulated pool could overwrite a node's `cpu`.
_EXTENDED = Rule[Any](
    field=".resourceNames",
    cel="!has(self.resourceNames) || self.resourceNames.all(n, n.contains('/') && !n.contains('kubernetes.io/') "
    "&& !n.startsWith('requests.'))",
    message="must be names of extended resources, such as example.com/gpu: with a domain that is not kubernetes.io",
    holds=lambda spec: _extended(spec.resource_names),
)


class ChipSpec(Spec):
    """Figures of a chip, for one that the catalogue lacks or where you know better."""

    rules: ClassVar[tuple[Rule[Any], ...]] = (_EXTENDED,)

    name: Name = Field(description="Name of the chip, as messages and metrics will show it.")
    memory_gib: Rate | None = Field(default=None, description="Device memory in GiB.")
    memory_gbps: Rate | None = Field(default=None, description="Peak memory bandwidth in GB/s (10^9 bytes/s).")
    tflops: Peaks = Field(default=Peaks(), description="Peak rate per number format.")
    link_gbps: Rate | None = Field(
        default=None, description="Scale-up bandwidth of one device, all links together, one direction, in GB/s."
    )
    link_domain: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="Devices that the scale-up links join."
    )
    scale_out_gbps: Rate | None = Field(
        default=None, description="Bandwidth of one device to the network between nodes, one direction, in GB/s."
    )
    resource_names: list[QualifiedName] = Field(
        default_factory=list,
        max_length=8,
        description="Extended resources that count the device; pods request the first.",
    )


class Interconnect(Spec):
    """Links between the cards of one node."""

    bandwidth_gbps: Rate | None = Field(
        default=None, description="GB/s (10^9 bytes/s) per accelerator in one direction. Default: the catalogue's."
    )
    latency_microseconds: float | None = Field(
        default=None, ge=0, le=1e6, description="Microseconds for a small message. Default: a usual value."
    )


class Quota(Spec):
    """What one namespace may use of the pool, in accelerators, in effective TFLOPS, or in both: then both count."""

    rules: ClassVar[tuple[Rule[Any], ...]] = (
        Rule[Any](
            field=".limit",
            cel="!has(self.limit) || self.guaranteed <= self.limit",
            message="must be at least `guaranteed`",
            holds=lambda quota: quota.limit is None or quota.guaranteed <= quota.limit,
            explain=lambda quota: f"limit {quota.limit} is below guaranteed {quota.guaranteed}",
        ),
        Rule[Any](
            field=".limitTFLOPS",
            cel="!has(self.limitTFLOPS) || self.guaranteedTFLOPS <= self.limitTFLOPS",
            message="must be at least `guaranteedTFLOPS`",
            holds=lambda quota: quota.limit_tflops is None or quota.guaranteed_tflops <= quota.limit_tflops,
            explain=lambda quota: (
                f"limitTFLOPS {quota.limit_tflops:g} is below guaranteedTFLOPS {quota.guaranteed_tflops:g}"
            ),
        ),
    )

    namespace: Name = Field(description="Namespace that the quota is for.")
    guaranteed: int = Field(
        default=0,
        ge=0,
        le=10_000_000,
        description="Accelerators that the namespace gets back when it needs them; others may borrow them meanwhile.",
    )
    limit: int | None = Field(
        default=None,
        ge=0,
        le=10_000_000,
        description="Accelerators that the namespace may use at most, borrowed ones included. Default: no limit.",
    )
    guaranteed_tflops: Annotated[float, Field(ge=0, le=1e12)] = Field(
        default=0.0,
        alias="guaranteedTFLOPS",
        description="Effective TFLOPS that the namespace gets back when it needs them, as its gangs' places promise "
        "them; others may borrow them meanwhile.",
    )
    limit_tflops: Annotated[float, Field(gt=0, le=1e12)] | None = Field(
        default=None,
        alias="limitTFLOPS",
        description="Effective TFLOPS that the namespace may use at most: what its gangs' places promise by their "
        "predicted step times. Default: no limit.",
    )


class DefragmentationPolicy(Spec):
    """Whether gangs may be moved so that one that waits finds enough devices together."""

    mode: Literal["OnRequest", "Automatic"] = Field(
        default="OnRequest",
        description="OnRequest: only when somebody asks (`kubectl supernode defrag`). Automatic: also for gangs that "
        "have waited for afterSeconds.",
    )
    after_seconds: int = Field(
        default=600, ge=0, le=31_536_000, description="Automatic: seconds since a job's creation before others move."
    )
    max_moves: int = Field(default=2, ge=1, le=16, description="Automatic: gangs that move at most for one job.")
    rest_seconds: int = Field(
        default=3600,
        ge=0,
        le=31_536_000,
        description="Automatic: seconds that a gang has been in its place before it may be moved.",
    )


class AcceleratorPoolSpec(Spec):
    """What the pool is."""

    rules: ClassVar[tuple[Rule[Any], ...]] = (
        Rule[Any](
            field=".chip",
            cel="has(self.chip) != has(self.chipSpec)",
            message="give exactly one of chip (a catalogue name) and chipSpec (the figures themselves)",
            holds=lambda spec: (spec.chip is None) != (spec.chip_spec is None),
        ),
        Rule[Any](
            field=".devicesPerNode",
            cel="(self.mode == 'Emulated') == has(self.devicesPerNode)",
            message="mode Emulated needs devicesPerNode; mode Hardware reads it from the nodes, so leave it out there",
            holds=lambda spec: (spec.mode == "Emulated") == (spec.devices_per_node is not None),
        ),
        Rule[Any](
            field=".quotas",
            cel="",  # the schema's list-map-keys say it
            message="a namespace may have one quota only",
            holds=lambda spec: len({quota.namespace for quota in spec.quotas}) == len(spec.quotas),
        ),
        Rule[Any](
            field=".resourceNames",
            cel="",  # the schema's list-type says it
            message="a resource is named twice",
            holds=lambda spec: len(set(spec.resource_names)) == len(spec.resource_names),
        ),
        _EXTENDED,
        Rule[Any](
            field=".mode",
            cel="self.mode == oldSelf.mode",
            message="can't change: make another pool, and delete this one when its jobs have ended",
        ),
    )

    chip: str | None = Field(
        default=None,
        min_length=1,
        max_length=63,
        description="Catalogue name or alias of the chip, such as hygon-bw1000; `supernode chips` lists them.",
    )
    chip_spec: ChipSpec | None = Field(default=None, description="Figures of the chip, instead of a catalogue name.")
    mode: Literal["Hardware", "Emulated"] = Field(
        default="Hardware",
        description="Hardware: devices come from a device plugin. Emulated: from a sidecar that computes on the CPU; "
        "the operator advertises them on the nodes.",
    )
    node_selector: NodeSelector = Field(description="Nodes that belong to the pool. A node may be in one pool only.")
    resource_names: list[QualifiedName] = Field(
        default_factory=list,
        max_length=8,
        description="Extended resources that count the device; pods request the first. Default: the catalogue's.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    devices_per_node: int | None = Field(
        default=None,
        ge=1,
        le=MAX_DEVICES_PER_NODE,
        description="Emulated only: devices of each node. For Hardware it is read from the node's allocatable.",
    )
    interconnect: Interconnect | None = Field(
        default=None, description="Links between the cards of one node. Default: the catalogue's."
    )
    defragmentation: DefragmentationPolicy = Field(
        default=DefragmentationPolicy(), description="Whether gangs are moved so that others find room."
    )
    quotas: list[Quota] = Field(
        default_factory=list,
        max_length=256,
        description="What namespaces may use. A namespace without a quota uses what nobody else needs.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["namespace"]},
    )


class LevelRoomModel(RoomModel):
    """Room of the pool on one level of a group's wiring."""

    group: str = Field(description="Name of the SuperNodeGroup.")


class EffectiveModel(Status):
    """What running jobs get out of the pool, in TFLOPS of the model, without recomputation."""

    peak_tflops: float = Field(
        default=0.0, alias="peakTFLOPS", description="Data sheet's peak of the accelerators that running jobs hold."
    )
    predicted_tflops: float = Field(
        default=0.0, alias="predictedTFLOPS", description="By the step times that the jobs were placed with."
    )
    observed_tflops: float = Field(
        default=0.0, alias="observedTFLOPS", description="By the step times that the jobs report."
    )


class QuotaUseModel(Status):
    """What a namespace has of the pool; TFLOPS as its gangs' places promised them."""

    namespace: str = Field(description="Namespace that it is about; `*`: all that have no quota.")
    used: int = Field(default=0, description="Accelerators that its gangs hold.")
    guaranteed: int = Field(default=0, description="Accelerators that it is guaranteed.")
    limit: int | None = Field(default=None, description="Accelerators that it may hold at most.")
    borrowed: int = Field(default=0, description="Accelerators beyond its guarantee, which others may take back.")
    used_tflops: float = Field(default=0.0, alias="usedTFLOPS", description="Effective TFLOPS that its gangs hold.")
    guaranteed_tflops: float = Field(
        default=0.0, alias="guaranteedTFLOPS", description="Effective TFLOPS that it is guaranteed."
    )
    limit_tflops: float | None = Field(
        default=None, alias="limitTFLOPS", description="Effective TFLOPS that it may hold at most."
    )
    borrowed_tflops: float = Field(
        default=0.0,
        alias="borrowedTFLOPS",
        description="Effective TFLOPS beyond its guarantee, which others may take back.",
    )


class AcceleratorPoolStatus(Status):
    """How the pool stands; written by the operator."""

    observed_generation: int = Field(default=0, description="Generation of the spec that this status is about.")
    conditions: list[ConditionModel] = Field(
        default_factory=list, description="Accepted and Ready.", json_schema_extra=CONDITIONS_EXTRA
    )
    nodes: int = Field(default=0, description="Nodes in the pool.")
    capacity: int = Field(default=0, description="Accelerators of all nodes.")
    allocated: int = Field(default=0, description="Accelerators that workers hold.")
    free: int = Field(default=0, description="Accelerators that a worker could have now.")
    unhealthy: int = Field(
        default=0,
        description="Accelerators on nodes that can't take a worker now, and those that are called unhealthy.",
    )
    room: list[LevelRoomModel] = Field(
        default_factory=list,
        max_length=128,
        description="The largest gang that each level of each group can take now, outermost first.",
    )
    quotas: list[QuotaUseModel] = Field(
        default_factory=list,
        max_length=257,
        description="What namespaces have of the pool: each that has a quota, and all others together as `*`.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["namespace"]},
    )
    effective: EffectiveModel | None = Field(default=None, description="What running jobs get out of the pool.")


class AcceleratorPool(Spec):
    """Nodes that carry one kind of accelerator, how these are linked within a node, and who may use how many.

    Cluster-wide. Jobs name pools in `spec.pools`.
    """

    api_version: str = ""
    kind: Literal["AcceleratorPool"] = "AcceleratorPool"
    metadata: Metadata
    spec: AcceleratorPoolSpec = Field(description="What the pool is.")
    status: AcceleratorPoolStatus | None = Field(default=None, description="How the pool stands.")
