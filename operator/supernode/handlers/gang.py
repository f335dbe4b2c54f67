"""Carries out what was decided about a gang's pods: creates all of them, or says why that can't be; deletes.

Flows in: a `GangPlan`, ranks, references. Flows out: requests to the API server, and the answers into the store at
once. Repeating everything here is harmless: names are deterministic, deletes name one uid.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from supernode.api.conditions import timestamp
from supernode.api.job import TrainingJob
from supernode.cluster import manifests, pods, translate
from supernode.cluster.cache import Key
from supernode.cluster.creation import create_pod
from supernode.cluster.kinds import PODS, Json
from supernode.cluster.manifests import GangPlan, WorkerPlan
from supernode.cluster.protobuf import PodEncoder
from supernode.cluster.wiring import wiring
from supernode.errors import BadRequestError, ClusterError, ConflictError, ForbiddenError, InputError, NotFoundError
from supernode.handlers import shared
from supernode.handlers.bounds import too_much_wiring
from supernode.handlers.context import Context
from supernode.handlers.life import PodRef
from supernode.handlers.sizes import model_at
from supernode.names import ANNOTATION_CHECKPOINT
from supernode.scheduling.placement import Placement

#: Errors that a repeat would only repeat.
FINAL = (BadRequestError, ForbiddenError, NotFoundError, ConflictError)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The API server will not make a part of the gang; `permanent`: it would refuse the same again."""

    sentence: str
    permanent: bool


def plan_of(context: Context, key: Key, obj: Json, model: TrainingJob | None) -> GangPlan | str:
    """All that a placed job's objects are made of, or why that can't be told."""
    status = obj["status"]["placement"]
    if model is None:
        return "the job's spec is no longer valid"
    try:
        placement = translate.placement_of(f"{key[0]}/{key[1]}", status)
    except InputError as exc:
        return str(exc)
    return plan_at(context, obj, model, placement, status.get("attempt", 0))


def plan_at(context: Context, obj: Json, model: TrainingJob, placement: Placement, attempt: int) -> GangPlan | str:
    """All that a job's objects would be made of in a place, or why that can't be told."""
    observer = context.observer
    missing = set(placement.pools) - observer.view.pools.keys()
    if missing:
        return f"AcceleratorPool {', '.join(sorted(missing))} is gone"
    snapshot = observer.snapshot()
    gone = [name for name in placement.pools if snapshot.pool(name) is None]
    if gone:
        return f"AcceleratorPool {', '.join(gone)} is gone"
    plan = translate.gang_plan(
        model_at(model, len(placement.node_of)),
        translate.template_of(obj),
        placement,
        attempt=attempt,
        pools=observer.view.pools,
        specs=observer.view.specs,
        topology=wiring(placement, snapshot),
        emulator_image=context.image,
    )
    step = ((obj.get("status") or {}).get("checkpoint") or {}).get("step")
    return replace(plan, checkpoint_step=step if isinstance(step, int) and step >= 0 else None)


async def create(context: Context, plan: GangPlan, ranks: Sequence[int]) -> Refusal | None:
    """Create the shared objects, then the pods of `ranks`, concurrently; None when all are there.

    Raises:
        ClusterError: the server was away for too long; the next decision goes on where this stopped.
    """
    # Before the pods: containers can't start without some of it, and when all pods are there nobody would make it.
    refusal = await _create_shared(context, plan, fresh=len(ranks) == len(plan.workers))
    if refusal is not None:
        return refusal
    encoder = PodEncoder() if context.protobuf else None
    work = [_create_pod(context, plan, plan.workers[rank], encoder) for rank in ranks]
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, Refusal):
            return result
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return None


async def shrink(context: Context, obj: Json, model: TrainingJob, placement: Placement, attempt: int) -> None:
    """Tell pods that run on which others there still are (MPI's hosts, the wiring), before the new place is written.

    Raises:
        ClusterError: it could not be told now.
    """
    plan = plan_at(context, obj, model, placement, attempt)
    if not isinstance(plan, str):
        await shared.rewrite(context, plan)


async def delete(context: Context, namespace: str, refs: Iterable[PodRef]) -> None:
    """Delete exactly these pods.

    Raises:
        ClusterError: some could not be deleted now.
    """

    async def one(ref: PodRef) -> None:
        async with context.slots:
            grace = 0 if ref.force else None
            if await context.client.delete(PODS, ref.name, namespace, uid=ref.uid, grace=grace):
                context.metrics.count("supernode_pods_deleted")

    results = await asyncio.gather(*(one(ref) for ref in refs), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


async def ask(context: Context, namespace: str, refs: Iterable[PodRef], since: float | None) -> None:
    """Ask pods to save a checkpoint, as of `since`; None takes the request back. A pod that is gone needs nothing.

    Raises:
        ClusterError: some could not be asked now.
    """
    value = None if since is None else timestamp(since)

    async def one(ref: PodRef) -> None:
        patch = {"metadata": {"uid": ref.uid, "annotations": {ANNOTATION_CHECKPOINT: value}}}
        async with context.slots:
            try:
                context.stores.pods.offer(await context.client.patch(PODS, ref.name, patch, namespace))
            except (NotFoundError, ConflictError):
                return  # gone, or another pod has the name now

    results = await asyncio.gather(*(one(ref) for ref in refs), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


async def delete_shared(context: Context, namespace: str, uid: str) -> None:
    """Take away what a job's pods shared."""
    await shared.delete(context, namespace, uid)


async def _create_shared(context: Context, plan: GangPlan, *, fresh: bool) -> Refusal | None:
    """Service, Secret and ConfigMap. `fresh`: no pod of this attempt has been made, so none has read an old one."""
    if any(pool.chip is not None for pool in plan.pools.values()):
        refusal = too_much_wiring(len(plan.workers), manifests.topology_text(plan))
        if refusal:
            return Refusal(refusal, permanent=True)
    try:
        taken = await shared.create(context, plan, fresh=fresh)
    except FINAL as exc:
        return Refusal(str(exc), permanent=isinstance(exc, BadRequestError))
    return Refusal(taken, permanent=False) if taken else None


async def _create_pod(
    context: Context, plan: GangPlan, worker: WorkerPlan, encoder: PodEncoder | None
) -> Refusal | None:
    name = manifests.pod_name(plan.job, worker.rank)
    async with context.slots:
        try:
            made = await create_pod(context.client, manifests.pod(plan, worker), encoder)
            context.metrics.count("supernode_pods_created")
        except ConflictError:
            existing = context.stores.pods.get((plan.namespace, name))
            if existing is None:
                # Our own whose answer was lost, or one that goes just now: the watch tells before the next decision.
                raise ClusterError(f"pod {plan.namespace}/{name} is there, and not known yet") from None
            if pods.job_uid(existing) != plan.uid or pods.attempt_of(existing) != plan.attempt:
                return Refusal(f"pod {name} exists already and is not of this attempt", permanent=False)
            made = existing
        except FINAL as exc:
            return Refusal(f"worker {worker.rank} was refused: {exc}", permanent=isinstance(exc, BadRequestError))
    context.stores.pods.offer(made)
    return None
