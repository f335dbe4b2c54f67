"""Pods that are in the way or that nobody looks after: those of jobs that are gone.

Flows in: the stores. Flows out: deletes, and the pod that a new gang has to wait for.
"""

from __future__ import annotations

import logging

from supernode.cluster import pods
from supernode.cluster.kinds import JOBS, PODS, Json
from supernode.cluster.manifests import label_value
from supernode.errors import ClusterError, NotFoundError
from supernode.handlers.context import Context
from supernode.handlers.waiting import Candidate
from supernode.names import LABEL_JOB

logger = logging.getLogger(__name__)


async def sweep(context: Context) -> None:
    """Delete pods whose job is gone: from a create that was on its way while the operator was killed."""
    uids = {obj["metadata"]["uid"] for obj in context.stores.jobs.objects().values()}
    for uid in context.observer.uids_with_pods():
        if uid not in uids:
            for pod in context.observer.pods_of(uid):
                await _sweep_pod(context, pod, uid)


async def _sweep_pod(context: Context, pod: Json, uid: str) -> None:
    metadata = pod["metadata"]
    if "deletionTimestamp" in metadata:
        return
    namespace, job = metadata["namespace"], (metadata.get("labels") or {}).get(LABEL_JOB, "")
    if not job:
        return  # none of ours: they carry both labels
    try:
        obj = await context.client.get(JOBS, job, namespace)
        if obj["metadata"]["uid"] == uid:
            context.stores.jobs.offer(obj)
            return
    except NotFoundError:
        logger.debug("job %s/%s is gone", namespace, job)
    except ClusterError as exc:
        logger.warning("can't tell whether job %s/%s is gone: %s", namespace, job, exc)
        return
    logger.info("pod %s/%s belongs to no job any more and is deleted", namespace, metadata["name"])
    try:
        await context.client.delete(PODS, metadata["name"], namespace, uid=metadata["uid"])
    except ClusterError as exc:
        logger.warning("pod %s/%s: %s", namespace, metadata["name"], exc)


def in_the_way(context: Context, candidate: Candidate) -> Json | None:
    """A pod that has a name the gang needs and belongs to somebody else; None if there is none."""
    namespace, job = candidate.key
    there, workers = context.stores.pods.objects(), candidate.demand.workers
    names = {f"{job}-worker-{rank}" for rank in range(min(workers, len(there)))}
    if workers > len(there):
        # More ranks than pods, however many somebody asks for: look at the pods instead.
        ranks = {name.removeprefix(f"{job}-worker-") for space, name in there if space == namespace}
        names = {f"{job}-worker-{rank}" for rank in ranks if rank.isdecimal() and int(rank) < workers}
    for name in sorted(names):
        pod = there.get((namespace, name))
        if pod is not None and pods.job_uid(pod) != candidate.uid:
            return pod
    return None


def whose(pod: Json, job: str) -> str:
    """Why a gang of the job has to wait for a pod, in a sentence."""
    name, labels = pod["metadata"]["name"], pod["metadata"].get("labels") or {}
    if pods.job_uid(pod) and labels.get(LABEL_JOB) == label_value(job):
        return f"pod {name} of an earlier job of this name is still there; this one starts when it is gone"
    return f"pod {name} is there already and is not this job's, which needs that name; it starts when that pod is gone"
