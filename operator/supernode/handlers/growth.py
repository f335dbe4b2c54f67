"""Gangs with fewer workers than they want: more of them when devices are free.

Flows in: running gangs and the snapshot that this cycle's placements have left. Flows out: `Disruption`s (kind
Resize): the gang saves a checkpoint, stops and goes on with more workers. Nobody is stopped unless the larger gang
has a place now, and nobody grows past gangs that wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from supernode.cluster import translate
from supernode.cluster.assignment import worker_count
from supernode.cluster.cache import Key
from supernode.cluster.kinds import Json
from supernode.errors import InputError
from supernode.handlers.context import Context
from supernode.handlers.facts import job_facts
from supernode.handlers.goingon import largest, lost_nodes
from supernode.handlers.life import Disruption, DisruptionKind, JobFacts, State
from supernode.handlers.reading import Readings
from supernode.handlers.sizes import sizes_of
from supernode.handlers.waiting import Candidate
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.snapshot import Snapshot

# On whose behalf a gang grows.
BY_GROWTH: Final = "growth"
# Gangs that are looked at in one cycle.
MOST_LOOKED_AT: Final = 8

# Gives the demand of a job at a size, with node masks of the snapshot.
DemandAt = Callable[[Key, Json, int], GangDemand]


class Growth:
    """Finds gangs that can grow.

    Args:
        context: what handlers share.
        readings: reads jobs.
        wake_at: asks for a job to be looked at again at a time.
    """

    def __init__(self, context: Context, readings: Readings, wake_at: Callable[[Key, float], None]) -> None:
        self._context = context
        self._readings = readings
        self._wake_at = wake_at
        # uid -> generations of the snapshot and of the job at which it could not grow.
        self._tried: dict[str, tuple[int, int]] = {}
        # The same for those that were seen to fit, and are about to.
        self._fits: dict[str, tuple[int, int]] = {}

    def prune(self, live: set[str]) -> None:
        """Remember nothing of jobs that are gone; `live`: uids of those that are there."""
        self._tried = {uid: stamp for uid, stamp in self._tried.items() if uid in live}
        self._fits = {uid: stamp for uid, stamp in self._fits.items() if uid in live}

    def plans(
        self, snapshot: Snapshot, waiting: Callable[[], Sequence[Candidate]], demand_at: DemandAt
    ) -> list[tuple[Json, Disruption]]:
        """Gangs that grow now; each plan is made as if it were the only one, so the first in order goes.

        Args:
            snapshot: as this cycle's placements have left it.
            waiting: gives the gangs that wait for a place; asked only if somebody could grow.
            demand_at: gives the demand of a job at a size.
        """
        now, looked = self._context.now(), 0
        for name in sorted(snapshot.holders):
            namespace, _, job = name.partition("/")
            key = (namespace, job)
            obj = self._context.stores.jobs.get(key)
            model = self._readings.read(key, obj).model if obj is not None else None
            if obj is None or model is None or "deletionTimestamp" in obj["metadata"]:
                continue
            if worker_count((obj.get("status") or {}).get("placement") or {}) >= model.spec.workers:
                continue
            facts = job_facts(obj, model, accepted=True)
            if not 0 < facts.workers < facts.wanted or facts.state is not State.RUNNING or facts.disruption is not None:
                continue
            rigid = facts.workers < (facts.fewest or facts.wanted)
            due = (facts.placed_at or 0.0) + (0 if rigid else model.spec.scheduling.policy.gang.grow_after_seconds)
            if now < due:
                self._wake_at(key, due)
                continue
            uid, stamp = obj["metadata"]["uid"], (snapshot.generation, obj["metadata"].get("generation", 0))
            if self._tried.get(uid) == stamp or looked >= MOST_LOOKED_AT:
                continue
            if not rigid and self._somebody_first(waiting(), model.spec.pools, key):
                continue
            looked += 1
            plan = self._plan(snapshot, key, obj, facts, demand_at)
            if plan is not None:
                return [(obj, plan)]
            self._tried[uid] = stamp
        return []

    def in_vain(self, snapshot: Snapshot, demand_at: DemandAt) -> list[Json]:
        """Gangs that are about to stop in order to grow, but for which there is no room any more."""
        found = []
        for name in sorted(snapshot.holders):
            namespace, _, job = name.partition("/")
            key = (namespace, job)
            obj = self._context.stores.jobs.get(key)
            if obj is None or not (obj.get("status") or {}).get("disruption"):
                continue
            facts = job_facts(obj, self._readings.read(key, obj).model, accepted=True)
            plan = facts.disruption
            if plan is None or plan.by != BY_GROWTH or facts.state is not State.RUNNING:
                continue
            stamp = (snapshot.generation, obj["metadata"].get("generation", 0))
            if self._fits.get(obj["metadata"]["uid"]) == stamp:
                continue
            if self._plan(snapshot, key, obj, facts, demand_at) is None:
                found.append(obj)
            else:
                self._fits[obj["metadata"]["uid"]] = stamp
        return found

    def _somebody_first(self, waiting: Sequence[Candidate], pools: Sequence[str], key: Key) -> bool:
        """Whether a gang waits for the same pools: it comes before workers that a gang can do without."""
        return any(set(each.demand.pools) & set(pools) and each.key != key for each in waiting)

    def _plan(self, snapshot: Snapshot, key: Key, obj: Json, facts: JobFacts, demand_at: DemandAt) -> Disruption | None:
        model = self._readings.read(key, obj).model
        if model is None:
            return None
        name = f"{key[0]}/{key[1]}"
        try:
            held = translate.placement_of(name, obj["status"]["placement"])
            lost = lost_nodes(snapshot, held, demand_at(key, obj, facts.wanted), ())
        except InputError:
            return None
        sizes = [size for size in sizes_of(model.spec) if size > facts.workers]
        found = largest(snapshot, name, sizes, lost, lambda size: demand_at(key, obj, size))
        if found is None:
            return None
        workers, now = len(found.node_of), self._context.now()
        message = f"starts again with {workers} workers instead of {facts.workers}: devices for them are free"
        return Disruption(
            DisruptionKind.RESIZE, now, now + facts.policy.checkpoint_seconds, BY_GROWTH, message, workers
        )
