"""Asks the API server whether it would take a gang's objects, before others stop for it.

Flows in: the answer to a gang that others are to make room for. Flows out: the same answer, or that nobody does,
because the gang's pods would be refused: by admission, Pod Security, a policy, a webhook or a ResourceQuota. Else who
may not run such pods in a namespace could still make others stop for them, again and again. Nothing is made (dry
runs), and nothing is remembered but when to ask again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from supernode.cluster import manifests
from supernode.cluster.cache import Key
from supernode.cluster.kinds import PODS, RESOURCE_QUOTAS, Json
from supernode.cluster.manifests import GangPlan, WorkerPlan
from supernode.cluster.resourcequota import shortage
from supernode.errors import ClusterError, ConflictError, ForbiddenError, InputError
from supernode.handlers import gang, shared
from supernode.handlers.context import Context
from supernode.handlers.jobstatus import Wait
from supernode.handlers.lifecycle import FIRST_PAUSE, LONGEST_PAUSE
from supernode.handlers.waiting import Candidate
from supernode.scheduling.placement import Placement

logger = logging.getLogger(__name__)

#: Why a gang waits for which nobody gives way or moves, because it could not start afterwards.
PODS_REFUSED: Final = "PodsRefused"


@dataclass(frozen=True, slots=True)
class _Refused:
    """A job, as its spec was then, that would be refused; `tries`: in a row; `until`: when it is asked about again."""

    generation: int
    sentence: str
    tries: int
    until: float


class Rehearsals:
    """Remembers which gangs would be refused, and asks anew from time to time.

    Args:
        context: what handlers share.
        wake_at: asks for a job to be looked at again at a time.
    """

    def __init__(self, context: Context, wake_at: Callable[[Key, float], None]) -> None:
        self._context = context
        self._wake_at = wake_at
        self._refused: dict[str, _Refused] = {}

    def prune(self, live: set[str]) -> None:
        """Remember nothing of jobs that are gone; `live`: uids of those that are there."""
        self._refused = {uid: known for uid, known in self._refused.items() if uid in live}

    def standing(self) -> frozenset[tuple[str, int]]:
        """(uid, generation) of the jobs for which nobody is asked to give way now."""
        now = self._context.now()
        return frozenset((uid, known.generation) for uid, known in self._refused.items() if _holds(known, now))

    def refusal(self, candidate: Candidate) -> Wait | None:
        """Why nobody may be asked to give way for a gang now; None if it may be asked about (again)."""
        known = self._refused.get(candidate.uid)
        if known is None or known.generation != candidate.generation or not _holds(known, self._context.now()):
            return None
        return Wait(PODS_REFUSED, known.sentence)

    async def checked(self, candidate: Candidate, wait: Wait) -> Wait:
        """The answer that a gang may be given: as it is, unless others are to make room for pods that are refused."""
        if wait.placement is None:
            return wait
        why = await self._asked(candidate, wait.placement)
        known = self._refused.pop(candidate.uid, None)
        if not why:
            return wait
        tries = known.tries + 1 if known is not None and known.generation == candidate.generation else 1
        until = self._context.now() + min(FIRST_PAUSE * 2 ** min(tries - 1, 20), LONGEST_PAUSE)
        sentence = f"nobody is asked to make room for it, because it could not start then: {why}; it is tried again"
        self._refused[candidate.uid] = _Refused(candidate.generation, sentence, tries, until)
        logger.info("nobody makes room for it: %s", why)
        self._wake_at(candidate.key, until)
        # Others may have been planned around the room that this one was to get.
        self._context.wake.set()
        return Wait(PODS_REFUSED, sentence)

    async def _asked(self, candidate: Candidate, placement: Placement) -> str:
        """Why the gang could not start in this place; empty if it could."""
        obj = self._context.stores.jobs.get(candidate.key)
        if obj is None:
            return "the job is gone"
        try:
            plan = gang.plan_at(self._context, obj, candidate.model, placement, candidate.attempt)
            return plan if isinstance(plan, str) else await _would_be_refused(self._context, plan)
        except InputError as exc:
            return str(exc)
        except ClusterError as exc:
            logger.warning("the API server can't tell whether it would take the gang's pods: %s", exc)
            return "the API server can't tell now whether it would take its pods"


async def _would_be_refused(context: Context, plan: GangPlan) -> str:
    """What the server, asked for a dry run of each kind of object and pod, says against it; empty if nothing.

    Raises:
        ClusterError: it could not be asked, or does not know.
    """
    try:
        taken = await shared.rehearse(context, plan)
    except gang.FINAL as exc:
        if isinstance(exc, ConflictError):
            raise
        return str(exc)
    if taken:
        return taken
    asked = _one_of_each(plan)
    made = await asyncio.gather(*(_dry_run(context, plan, worker) for worker in asked))
    refused = next((each for each in made if isinstance(each, str)), "")
    if refused:
        return refused
    quotas = await _quotas(context, plan.namespace)
    # Each kind of pod counts for all workers: kinds differ in pool and rank, hardly ever in what they ask for.
    words = (shortage(quotas, pod, len(plan.workers)) for pod in made if not isinstance(pod, str))
    return next(filter(None, words), "")


def _one_of_each(plan: GangPlan) -> list[WorkerPlan]:
    """The first worker, and the last of each pool."""
    last = {worker.pool: worker for worker in plan.workers}
    found = {worker.rank: worker for worker in (plan.workers[0], *last.values())}
    return list(found.values())


async def _dry_run(context: Context, plan: GangPlan, worker: WorkerPlan) -> Json | str:
    """The pod as the server would make it, or why it would not."""
    async with context.slots:
        try:
            return await context.client.create(PODS, manifests.pod(plan, worker), plan.namespace, dry_run=True)
        except gang.FINAL as exc:
            if isinstance(exc, ConflictError):
                raise
            return f"worker {worker.rank} would be refused: {exc}"


async def _quotas(context: Context, namespace: str) -> list[Json]:
    """The namespace's ResourceQuotas; none where the operator may not read them."""
    try:
        items: list[Json] = (await context.client.list_page(RESOURCE_QUOTAS, namespace)).get("items") or []
    except ForbiddenError as exc:
        logger.warning("without the right to read ResourceQuotas only single pods are known to be taken: %s", exc)
        return []
    return items


def _holds(known: _Refused, now: float) -> bool:
    """Whether it is not asked again yet; a clock that was put back makes nobody wait longer."""
    return now < known.until <= now + LONGEST_PAUSE
