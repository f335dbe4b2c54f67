"""From what users write to what the scheduler decides on, and back to what pods need.

Flows in: validated API models and raw nodes. Flows out: `PoolSpec`, `GroupSpec`, `NodeInfo`, `GangDemand`,
`GangPlan`. Pure; the operator and `supernode place` both use it. Units change here: GB/s become bytes/s,
microseconds become seconds.

Not here: reading the API server, deciding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from supernode.api.conditions import seconds_of
from supernode.api.group import SuperNodeGroup
from supernode.api.job import TrainingJob, TrainingJobSpec
from supernode.api.pool import AcceleratorPool
from supernode.api.training import ParallelismSpec
from supernode.api.validate import pool_chip
from supernode.cluster import manifests, nodes, pods, shares
from supernode.cluster.assignment import assignment_json, workers_of
from supernode.cluster.kinds import Json
from supernode.cluster.quotas import promised_json, promised_of, quota_of
from supernode.cluster.stages import RANK_ORDER, stages_json, stages_of
from supernode.cluster.storage import storage_use, stores_in
from supernode.cluster.template import check_template
from supernode.errors import InputError
from supernode.names import MANAGER
from supernode.scheduling.demand import GangDemand, LevelConstraint, Slice
from supernode.scheduling.placement import Placement, StageShare
from supernode.scheduling.snapshot import PoolInfo, Snapshot
from supernode.scheduling.state import GroupSpec, NodeInfo, PoolSpec
from supernode.scheduling.topology import Level
from supernode.steptime.model import ModelShape, Parallelism

# Links between the cards of a node where neither pool nor catalogue say more: PCIe 4.0 x16, one direction.
DEFAULT_NODE_BANDWIDTH: Final = 32e9
DEFAULT_NODE_LATENCY: Final = 2e-6
# A restart policy of the template that means: decide by the exit code (Kubeflow's word).
EXIT_CODE: Final = "ExitCode"


def pool_spec(pool: AcceleratorPool) -> PoolSpec:
    """A pool as the scheduler sees it.

    Raises:
        InputError: an unknown chip, or no resource name to request; names the field.
    """
    chip = pool_chip(pool.spec)
    link = pool.spec.interconnect
    latency = link.latency_microseconds if link is not None else None
    return PoolSpec(
        name=pool.metadata.name,
        chip=chip,
        resource=chip.resource_names[0],
        emulated=pool.spec.mode == "Emulated",
        devices_per_node=pool.spec.devices_per_node or 0,
        bandwidth=chip.link_bandwidth or DEFAULT_NODE_BANDWIDTH,
        latency=latency * 1e-6 if latency is not None else DEFAULT_NODE_LATENCY,
        quotas=tuple(quota_of(quota) for quota in pool.spec.quotas),
    )


def group_spec(group: SuperNodeGroup) -> GroupSpec:
    """A group as the scheduler sees it."""
    levels = tuple(
        Level(level.name, level.bandwidth_gbps * 1e9, level.latency_microseconds * 1e-6) for level in group.spec.levels
    )
    return GroupSpec(group.metadata.name, levels, stores_in(group))


def by_age(pools: Sequence[AcceleratorPool]) -> list[AcceleratorPool]:
    """Pools with the oldest first: a node that several select belongs to the oldest of them."""
    return sorted(pools, key=lambda pool: (pool.metadata.creation_timestamp, pool.metadata.name))


def pools_selecting(node: Json, pools: Sequence[AcceleratorPool]) -> list[str]:
    """Names of the pools that select a node, in the order given."""
    labels = dict(nodes.labels_of(node))
    return [pool.metadata.name for pool in pools if pool.spec.node_selector.matches(labels)]


def node_info(
    node: Json, pool: PoolSpec | None, groups: Sequence[SuperNodeGroup], *, advertised: bool = True
) -> NodeInfo:
    """A node as the scheduler sees it.

    Args:
        node: raw Node object.
        pool: that it belongs to, or None.
        groups: all valid groups.
        advertised: an emulated pool's devices must be in the node's status before a pod may come.
    """
    labels = dict(nodes.labels_of(node))
    capacity = nodes.allocatable(node)
    usable = nodes.is_usable(node)
    if pool is not None and pool.emulated and advertised:
        usable = usable and capacity.get(pool.resource) == pool.devices_per_node
    return NodeInfo(
        name=node["metadata"]["name"],
        capacity=capacity,
        usable=usable,
        pool=pool.name if pool is not None else "",
        groups={
            group.metadata.name: tuple(labels.get(level.node_label) or None for level in group.spec.levels)
            for group in groups
            if group.spec.node_selector.matches(labels)
        },
        unhealthy=nodes.unhealthy_devices(node),
        marks=nodes.marks(node),
    )


def unlabelled(group: SuperNodeGroup, all_nodes: Mapping[tuple[str, str], Json]) -> dict[str, str]:
    """Nodes that a group selects but that lack a level's label -> the first label that is missing."""
    result: dict[str, str] = {}
    for (_, name), node in sorted(all_nodes.items()):
        labels = dict(nodes.labels_of(node))
        if group.spec.node_selector.matches(labels):
            missing = next((level.node_label for level in group.spec.levels if not labels.get(level.node_label)), None)
            if missing is not None:
                result[name] = missing
    return result


def worker_request(template: Json, *, emulated: bool) -> dict[str, int]:
    """What one worker takes from its node, without the accelerators; in canonical units.

    Raises:
        InputError: a template that can't be read; names the field.
    """
    check_template(template)
    spec = template.get("spec") or {}
    request = pods.request_of(spec)
    if emulated:
        shares.leave_out(spec, request)
        for name, amount in manifests.sidecar_request().items():
            request[name] = request.get(name, 0) + amount
    return request


def request_in(template: Json, pools: Sequence[PoolSpec]) -> dict[str, int]:
    """`worker_request` in any of these pools: with the sidecar's part if one is emulated, without their accelerators.

    Raises:
        InputError: a template that can't be read; names the field.
    """
    request = worker_request(template, emulated=any(pool.emulated for pool in pools))
    for pool in pools:
        request.pop(pool.resource, None)
    return request


def demand(
    job: TrainingJob, template: Json, pools: Mapping[str, PoolSpec], *, workers: int | None = None, priority: int = 0
) -> GangDemand:
    """What a job's gang asks for; node masks are added by whoever has the snapshot.

    Args:
        job: the validated job.
        template: its pod template as the user wrote it.
        pools: all valid pools.
        workers: another number of workers than the spec's.
        priority: value of the job's PriorityClass.

    Raises:
        InputError: numbers that no gang can have; names the field.
    """
    spec = job.spec
    request = request_in(template, [pools[name] for name in spec.pools if name in pools])
    constraints = spec.scheduling.constraints
    created = job.metadata.creation_timestamp
    return GangDemand(
        key=job.key,
        pools=tuple(spec.pools),
        workers=workers or spec.workers,
        devices=spec.accelerators_per_worker,
        request=request,
        min_count=spec.scheduling.policy.gang.min_count,
        mix=spec.mix,
        constraints=tuple(LevelConstraint(wish.level, wish.mode == "Required") for wish in constraints.topology),
        slices=tuple(Slice(item.level, item.size) for item in constraints.slices),
        model=model_shape(spec),
        parallelism=parallelism(spec),
        priority=priority,
        created=seconds_of(created) if created else 0.0,
        seconds=spec.run_policy.active_deadline_seconds,
        disruption=spec.scheduling.disruption_mode,
        storage=storage_use(spec),
    )


def model_shape(spec: TrainingJobSpec) -> ModelShape | None:
    """The model's shape, or None where the job doesn't give it."""
    model = spec.model
    return None if model is None else ModelShape(**{name: getattr(model, name) for name in type(model).model_fields})


def parallelism(spec: TrainingJobSpec) -> Parallelism | None:
    """How the job is cut; None where neither model nor cut are given."""
    cut = spec.parallelism
    if spec.model is None and cut == ParallelismSpec():
        return None  # the server has filled in what the user left out: data-parallel, as if nothing were said
    figures = {name: getattr(cut, name) for name in type(cut).model_fields}
    return Parallelism(**{**figures, "data": spec.data})


def parallelism_json(spec: TrainingJobSpec, stages: Sequence[StageShare] = ()) -> Json:
    """The value of SUPERNODE_PARALLELISM: the cut with its defaults worked out.

    Args:
        spec: of the job.
        stages: of a gang that is placed by stages, what each got. Ranks count in another order then, which is said too.
    """
    cut: Json = spec.parallelism.model_dump(by_alias=True)
    cut["data"] = spec.data
    if stages:
        cut["rankOrder"] = list(RANK_ORDER)
        cut["stages"] = stages_json(stages)
    if cut.get("globalBatchSize") is None:
        cut["globalBatchSize"] = spec.data * spec.parallelism.micro_batch_size
    return cut


def template_of(obj: Json) -> Json:
    """The pod template as the user wrote it, from the raw job."""
    template: Json = (obj.get("spec") or {}).get("template") or {}
    return template


def managed_elsewhere(obj: Json) -> bool:
    """Whether another controller looks after the job (`spec.managedBy`): what its status says is not ours to hold."""
    manager = (obj.get("spec") or {}).get("managedBy")
    return manager is not None and manager != MANAGER


def restarts_by_exit_code(template: Json) -> bool:
    """Whether the exit code decides if a worker is tried again."""
    return (template.get("spec") or {}).get("restartPolicy") == EXIT_CODE


def eligible_rows(snapshot: Snapshot, pool: PoolInfo, raw: Mapping[str, Json], pod_spec: Json) -> Any:
    """bool (nodes,): which nodes of a pool the template lets its pods onto; None where all are.

    Args:
        snapshot: whose rows are meant.
        pool: only its rows are looked at.
        raw: Node objects by name.
        pod_spec: the template's spec.
    """
    mask = np.ones(len(snapshot.node_names), dtype=np.bool_)
    for row in pool.rows.tolist():
        node = raw.get(snapshot.node_names[row])
        if node is None or not nodes.allows(node, pod_spec):
            mask[row] = False
    return None if mask.all() else mask


def placement_status(placement: Placement, attempt: int) -> Json:
    """A placement as `status.placement`."""
    status: Json = {
        "attempt": attempt,
        "pool": placement.pool,
        "level": placement.level,
        "domain": "/".join(placement.domain),
        "assignment": assignment_json(placement.workers),
    }
    if placement.stages:
        status["stages"] = stages_json(placement.stages)
    if placement.predicted is not None:
        status["predictedStepSeconds"] = placement.predicted.seconds
    return status | promised_json(placement.promised)


def placement_of(key: str, status: Json) -> Placement:
    """The placement that a job's `status.placement` holds.

    Raises:
        InputError: a status that nobody can have written; names the field.
    """
    try:
        workers = workers_of(status)
        stages = stages_of(status)
        promised = promised_of(status)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as exc:
        raise InputError(f"can't be read: {exc}", field="status.placement", obj=f"TrainingJob {key}") from exc
    domain = tuple(part for part in str(status.get("domain") or "").split("/") if part)
    return Placement.of(
        key, workers, level=str(status.get("level") or ""), domain=domain, stages=stages, promised=promised
    )


def gang_plan(  # the one place where a decision meets everything that its pods are made of
    job: TrainingJob,
    template: Json,
    placement: Placement,
    *,
    attempt: int,
    pools: Mapping[str, AcceleratorPool],
    specs: Mapping[str, PoolSpec],
    topology: Json,
    emulator_image: str,
) -> manifests.GangPlan:
    """All that a placed gang's objects are made of."""
    used = sorted({worker.pool for worker in placement.workers})
    return manifests.GangPlan(
        job=job.metadata.name,
        namespace=job.metadata.namespace,
        uid=job.metadata.uid,
        attempt=attempt,
        framework=job.spec.framework,
        devices_per_worker=job.spec.accelerators_per_worker,
        workers=tuple(
            manifests.WorkerPlan(worker.rank, worker.node, worker.pool, worker.devices) for worker in placement.workers
        ),
        pools={
            name: manifests.PoolPlan(
                name, specs[name].resource, _chip_variable(pools[name]) if specs[name].emulated else None
            )
            for name in used
        },
        template=_startable(template),
        parallelism=parallelism_json(job.spec, placement.stages),
        topology=topology,
        emulator_image=emulator_image,
        priority_class=job.spec.scheduling.priority_class_name or "",
    )


def _startable(template: Json) -> Json:
    """The template with a restart policy that a pod may have."""
    if not restarts_by_exit_code(template):
        return template
    return {**template, "spec": {**template["spec"], "restartPolicy": "Never"}}


def _chip_variable(pool: AcceleratorPool) -> str:
    if pool.spec.chip_spec is None:
        return pool.spec.chip or ""
    return json.dumps(pool.spec.chip_spec.model_dump(by_alias=True, exclude_none=True), separators=(",", ":"))
