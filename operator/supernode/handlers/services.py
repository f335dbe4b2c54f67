"""Services of gangs that run, which somebody has deleted: without one, workers that restart don't find each other.

Flows in: the jobs that have a place. Flows out: a look at some of their Services at a time, in turn, and those that are
gone made anew. Services are not watched: there is one for each job, and hardly ever does one go.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from supernode.cluster import pods
from supernode.cluster.cache import Key
from supernode.cluster.kinds import JOBS, SERVICES, Json
from supernode.errors import ClusterError, NotFoundError
from supernode.handlers import gang, shared
from supernode.handlers.context import Context
from supernode.handlers.facts import is_ours, state_of
from supernode.handlers.life import State
from supernode.handlers.nomination import attempt_of
from supernode.handlers.reading import Readings

logger = logging.getLogger(__name__)

#: Services that are looked at in one round.
AT_ONCE: Final = 64


class Services:
    """Looks at the Services of gangs, some in each round.

    Args:
        context: what handlers share.
        readings: the jobs' specs.
    """

    def __init__(self, context: Context, readings: Readings) -> None:
        self._context = context
        self._readings = readings
        self._last: Key = ("", "")

    async def look(self) -> None:
        """One round: the next jobs in order of their names, from the first again after the last."""
        jobs = self._context.stores.jobs.objects()
        keys = sorted(key for key, obj in jobs.items() if self._has_one(obj))
        turn = [key for key in keys if key > self._last] + [key for key in keys if key <= self._last]
        turn = turn[:AT_ONCE]
        if turn:
            self._last = turn[-1]
        await asyncio.gather(*(self._look_at(key, jobs[key]["metadata"]["uid"]) for key in turn))

    async def _look_at(self, key: Key, uid: str) -> None:
        async with self._context.slots:
            try:
                await self._context.client.get(SERVICES, key[1], key[0])
            except NotFoundError:
                await self._restore(key, uid)
            except ClusterError as exc:
                logger.debug("service %s/%s can't be looked at: %s", *key, exc)

    async def _restore(self, key: Key, uid: str) -> None:
        obj = self._context.stores.jobs.get(key) or {}
        if not obj or obj["metadata"]["uid"] != uid or not self._has_one(obj):
            return  # it has ended while it was looked at
        plan = gang.plan_of(self._context, key, obj, self._readings.read(key, obj).model)
        if isinstance(plan, str):
            return  # at its next restart it is told so
        try:
            taken = await shared.restore_service(self._context, plan)
        except ClusterError as exc:
            logger.warning("service %s/%s is gone and can't be made: %s", *key, exc)
            return
        if not taken:
            words = f"Service {key[1]}, by which its workers find each other, was gone"
            self._context.events.warning(JOBS, obj, "ServiceRestored", words)

    def _has_one(self, obj: Json) -> bool:
        """Whether the job's Service has been made, and is needed: it is made before the pods of an attempt."""
        status = obj.get("status") or {}
        if state_of(status) not in (State.STARTING, State.RUNNING) or not is_ours(obj):
            return False
        attempt = attempt_of(status)
        there = self._context.observer.pods_of(obj["metadata"]["uid"])
        return "deletionTimestamp" not in obj["metadata"] and any(pods.attempt_of(pod) == attempt for pod in there)
