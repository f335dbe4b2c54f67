"""What the pods of a gang share, a Service, a Secret and a ConfigMap: made, made anew for an attempt, and taken away.

Flows in: a `GangPlan`. Flows out: requests to the API server. Repeating everything here is harmless.

Whose an object is. Secret and ConfigMap have a part of the job's uid in their name, which the API server draws by lot:
nobody else's object has that name, so both are replaced and deleted by name alone and never looked at. (To delete by
label would be to read: the API server answers that with what it deletes.) The Service must be called as the job is;
one that is there already is ours only if this job controls it, or an earlier job of this name that is gone.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

from supernode.cluster import manifests
from supernode.cluster.kinds import CONFIG_MAPS, SECRETS, SERVICES, Json, Kind
from supernode.cluster.manifests import GangPlan
from supernode.cluster.ownership import controller_of
from supernode.errors import ConflictError, NotFoundError
from supernode.handlers.context import Context

# Times that an object is made before its name counts as taken by somebody else.
TRIES: Final = 3
_NOT_OURS: Final = "Service {} is there already and is not this job's, which needs that name"


async def create(context: Context, plan: GangPlan, *, fresh: bool) -> str:
    """Make what is not there yet; says what is in the way, if anything is.

    Args:
        context: what handlers share.
        plan: the gang.
        fresh: no pod of this attempt has been made, so none has read an old Secret: it is drawn anew.

    Raises:
        ClusterError: the server refused one, or was away.
    """
    # Of a gang on real devices single workers may have moved: whoever reads the wiring next must see where they are.
    # Sidecars have read it at their start, and of them none comes alone.
    moved = all(pool.chip is None for pool in plan.pools.values())
    if not manifests.reads_fabric(plan):
        return await _service(context, plan)
    taken = await asyncio.gather(
        _service(context, plan),
        _named(context, SECRETS, manifests.secret(plan, secrets.token_hex(32)), fresh=fresh),
        _named(context, CONFIG_MAPS, manifests.config_map(plan), fresh=fresh or moved),
    )
    return next(filter(None, taken), "")


async def rehearse(context: Context, plan: GangPlan) -> str:
    """What would keep `create` from making it all; empty if nothing would. Nothing is made.

    Raises:
        ClusterError: the server would refuse one, or was away.
    """
    wanted = [(SERVICES, manifests.service(plan))]
    if manifests.reads_fabric(plan):
        wanted += [(SECRETS, manifests.secret(plan, "")), (CONFIG_MAPS, manifests.config_map(plan))]
    for kind, obj in wanted:
        try:
            await context.client.create(kind, obj, plan.namespace, dry_run=True)
        except ConflictError as exc:
            if exc.reason != "AlreadyExists":
                raise
            if kind is SERVICES:
                return await _taken(context, plan)
    return ""


async def restore_service(context: Context, plan: GangPlan) -> str:
    """Make the Service that is gone; says what is in the way, if anything is.

    Raises:
        ClusterError: the server refused it, or was away.
    """
    return await _service(context, plan)


async def rewrite(context: Context, plan: GangPlan) -> None:
    """Make the lists that pods read anew, where there are any.

    Raises:
        ClusterError: the server refused them, or was away.
    """
    if manifests.reads_fabric(plan):
        await _named(context, CONFIG_MAPS, manifests.config_map(plan), fresh=True)


async def delete(context: Context, namespace: str, uid: str) -> None:
    """Take away what the pods of a job shared.

    Raises:
        ClusterError: something could not be deleted now.
    """
    jobs = context.stores.jobs.objects()
    job = next(
        (name for (space, name), obj in jobs.items() if space == namespace and obj["metadata"]["uid"] == uid), ""
    )
    if not job:
        return
    name = manifests.fabric_name(job, uid)
    await asyncio.gather(
        context.client.delete(SECRETS, name, namespace),
        context.client.delete(CONFIG_MAPS, name, namespace),
        _delete_service(context, namespace, job, uid),
    )


async def _named(context: Context, kind: Kind, obj: Json, *, fresh: bool) -> str:
    """An object whose name is the job's own."""
    name, namespace = obj["metadata"]["name"], obj["metadata"]["namespace"]
    for _ in range(TRIES):
        try:
            await context.client.create(kind, obj, namespace)
        except ConflictError as exc:
            if exc.reason != "AlreadyExists":
                raise
        else:
            return ""
        if not fresh:
            return ""
        # An earlier attempt's, or our own whose answer was lost.
        await context.client.delete(kind, name, namespace)
    return f"{kind.kind} {name} is deleted and does not go"


async def _service(context: Context, plan: GangPlan) -> str:
    for _ in range(TRIES):
        try:
            await context.client.create(SERVICES, manifests.service(plan), plan.namespace)
        except ConflictError as exc:
            if exc.reason != "AlreadyExists":
                raise
        else:
            return ""
        try:
            found = await context.client.get(SERVICES, plan.job, plan.namespace)
        except NotFoundError:
            continue
        owner = controller_of(found)
        if owner is not None and owner.uid == plan.uid:
            return ""
        if owner is None or owner.name != plan.job:
            return _NOT_OURS.format(plan.job)
        # An earlier job's of this name: Kubernetes' own garbage collector would take it too.
        await context.client.delete(SERVICES, plan.job, plan.namespace, uid=found["metadata"]["uid"])
    return f"Service {plan.job} of an earlier job of this name does not go"


async def _taken(context: Context, plan: GangPlan) -> str:
    """Whether the Service's name is somebody else's, in words."""
    try:
        owner = controller_of(await context.client.get(SERVICES, plan.job, plan.namespace))
    except NotFoundError:
        return ""
    ours = owner is not None and (owner.uid == plan.uid or owner.name == plan.job)
    return "" if ours else _NOT_OURS.format(plan.job)


async def _delete_service(context: Context, namespace: str, job: str, uid: str) -> None:
    try:
        found = await context.client.get(SERVICES, job, namespace)
    except NotFoundError:
        return
    owner = controller_of(found)
    if owner is not None and owner.uid == uid:
        await context.client.delete(SERVICES, job, namespace, uid=found["metadata"]["uid"])
