"""Gangs that have stopped and still hold their places: where they go on, one after the other.

Flows in: `Waiting.stopped`, the observer's snapshot. Flows out: each gang's new place in its status, or that it waits
for a part of it (`WaitingForRepair`), or that it gives it up. Each answer is written before the next is looked for,
so that what one gang gives back is never promised while its status still says that it holds it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from supernode.api.conditions import timestamp
from supernode.cluster import translate
from supernode.cluster.assignment import worker_count, workers_of
from supernode.cluster.cache import Key
from supernode.cluster.kinds import Json
from supernode.errors import ClusterError
from supernode.handlers import gang
from supernode.handlers.context import Context
from supernode.handlers.goingon import go_on, largest, lost_nodes
from supernode.handlers.jobs import Jobs
from supernode.handlers.jobstatus import Placed, Wait, placement_json
from supernode.handlers.life import Disruption, DisruptionKind, JobFacts, State
from supernode.handlers.masks import Masks
from supernode.handlers.migration import bound_to
from supernode.handlers.nomination import attempt_of, holder, key_of, nomination_of
from supernode.handlers.reading import Readings
from supernode.handlers.sizes import sizes_of
from supernode.handlers.waiting import Candidate
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.explain import explain
from supernode.scheduling.placement import Placement
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.unplaceable import Reason, Unplaceable

logger = logging.getLogger(__name__)

# Lost nodes that a sentence names.
LISTED = 5


class Again:
    """Lets gangs go on.

    Args:
        context: what handlers share.
        jobs: writes the answers.
        readings: reads jobs.
    """

    def __init__(self, context: Context, jobs: Jobs, readings: Readings) -> None:
        self._context = context
        self._jobs = jobs
        self._readings = readings
        # uid -> (generation of the snapshot, attempt) for which there was no place.
        self._held: dict[str, tuple[int, int]] = {}

    async def go_on(self) -> list[Key]:
        """Answer every gang that has stopped; gives those that have a place now, and need pods."""
        started = []
        for key in list(self._jobs.waiting.stopped):
            candidate = self._jobs.waiting.candidate(key)
            obj = self._context.stores.jobs.get(key)
            if candidate is None or obj is None:
                continue
            try:
                if await self._one(key, obj, candidate):
                    started.append(key)
            except ClusterError as exc:
                logger.warning("job %s/%s goes on later: %s", *key, exc)
                self._jobs.due.wake_at(key, self._context.now() + 1.0)
            except Exception as exc:
                # A status that somebody has spoiled, or a fault of ours: this gang must not stop the others.
                logger.warning("job %s/%s can't go on where it was: %s", *key, exc, exc_info=True)
                await self._jobs.give_up(key, f"its place can't be used any more: {exc}")
        return started

    def prune(self, live: set[str]) -> None:
        """Remember nothing of jobs that are gone; `live`: uids of those that are there."""
        self._held = {uid: stamp for uid, stamp in self._held.items() if uid in live}

    async def _one(self, key: Key, obj: Json, candidate: Candidate) -> bool:
        snapshot = self._context.observer.snapshot()
        stamp = (snapshot.generation, candidate.attempt)
        if self._held.get(candidate.uid) == stamp:
            return False
        facts, demand = candidate.facts, candidate.demand
        masks = Masks(self._context, snapshot)

        def demand_at(workers: int) -> GangDemand:
            return masks.on(self._readings.demand(obj, candidate.model, workers), obj)

        held = translate.placement_of(demand.key, candidate.status["placement"])
        plan = facts.disruption
        blamed = plan.nodes if plan is not None else ()
        sizes = sizes_of(candidate.model.spec)
        target = target_of(facts, len(held.node_of), sizes)
        here = masks.on(demand, obj)
        # Of a gang that runs on, only the workers that are replaced are looked at.
        alone = {rank for rank, _ in plan.replacing} if plan is not None else set()
        running = facts.state is not State.RESTARTING
        if running:
            sizes = ()
        where = {worker.node for worker in held.workers if not running or worker.rank in alone}
        lost = lost_nodes(snapshot, held, here, blamed) & where
        # The way was promised to as many as moved: who is of another size since goes by what there is now.
        same = target == len(held.node_of)
        moving = plan is not None and plan.kind is DisruptionKind.MIGRATION and not running and same
        result: Placement | Unplaceable | None = None
        if plan is not None and moving:
            way = self._way(snapshot, demand.key, candidate, plan, demand_at)
            if isinstance(way, str):
                return False  # until they have moved
            result = way
        if result is None:
            result = go_on(snapshot, held, lost, target, sizes, demand_at)
        if not isinstance(result, Placement) and blamed:
            # The nodes that were to blame may be well again.
            lost = lost_nodes(snapshot, held, here, ()) & where
            result = go_on(snapshot, held, lost, target, sizes, demand_at)
        if result is None:
            await self._jobs.give_up(key, f"there is no room for {target} workers where it was; it is queued again")
            return False
        if plan is not None and running and alone and isinstance(result, Placement) and _moves(held, result) - alone:
            await self._jobs.stop_all(key, f"{plan.message}; others must move too", replace(plan, replacing=()))
            return False
        if isinstance(result, Placement):
            self._held.pop(candidate.uid, None)
            status = placement_json(result, candidate.attempt, self._context.now())
            before = candidate.status["placement"]
            if (
                not _moves(held, result)
                and len(held.node_of) == len(result.node_of)
                and "predictedStepSeconds" in before
            ):
                status.setdefault("predictedStepSeconds", before["predictedStepSeconds"])
            if running and len(result.node_of) < len(held.node_of):
                # Once the place is written nothing tells any more that others still read of ranks that have gone.
                await gang.shrink(self._context, obj, candidate.model, result, candidate.attempt)
            return await self._jobs.take_place(key, Placed(status, _sentence(held, result)))
        if not await self._hold(key, snapshot, candidate, demand_at(target), result, lost):
            return False
        self._held[candidate.uid] = stamp
        return False

    def _way(
        self,
        snapshot: Snapshot,
        key: str,
        candidate: Candidate,
        plan: Disruption,
        demand_at: Callable[[int], GangDemand],
    ) -> Placement | str | None:
        """The place that a gang that moves was promised; whom it waits for there; None if there is no such promise."""
        jobs = self._context.stores.jobs
        by = plan.by if "/" in plan.by else key_of(jobs, plan.by)
        namespace, _, name = by.partition("/")
        nomination = nomination_of(by, 0, jobs.get((namespace, name)) or {}, jobs)
        attempt = attempt_of(candidate.status)
        if nomination is None:
            return None
        mine = next((move for move in nomination.moves if move.names(key, candidate.uid, attempt)), None)
        if mine is None:
            return None
        count = worker_count(candidate.status["placement"])
        found = largest(snapshot, key, [count], (), lambda workers: bound_to(demand_at(workers), snapshot, mine.nodes))
        if found is not None:
            return found
        others = [m.key for m in nomination.moves if m is not mine and holder(jobs, m.key, m.uid, m.attempt)]
        return ", ".join(others) or None

    async def _hold(
        self,
        key: Key,
        snapshot: Snapshot,
        candidate: Candidate,
        demand: GangDemand,
        result: Unplaceable,
        lost: frozenset[str],
    ) -> bool:
        """The gang keeps what it has, for as long as its policy says, and waits for the rest."""
        facts, now = candidate.facts, self._context.now()
        plan = facts.disruption
        if plan is None or plan.kind is not DisruptionKind.REPAIR:
            plan = Disruption(DisruptionKind.REPAIR, now, 0.0, "", "", facts.workers)
        if not plan.deadline or plan.deadline > now + facts.policy.hold:
            plan = replace(plan, deadline=now + facts.policy.hold)
        named = sorted(lost)
        count = sum(worker.node in lost for worker in workers_of(candidate.status["placement"]))
        more = f" and {len(named) - LISTED} more" if len(named) > LISTED else ""
        sentence = explain(result, snapshot, demand)
        message = (
            f"{count} of {facts.workers} workers can't be on {', '.join(named[:LISTED])}{more} and find no other "
            f"place; the gang keeps its other places until {timestamp(plan.deadline)}, then it is released whole; "
            f"{sentence}"
        )
        plan = replace(plan, message=message, nodes=plan.nodes or tuple(named[:1024]))
        return await self._jobs.hold(key, Wait(str(Reason.WAITING_FOR_REPAIR), message), plan)


def target_of(facts: JobFacts, placed: int, sizes: tuple[int, ...]) -> int:
    """Workers that a gang should go on with."""
    plan, wanted = facts.disruption, facts.wanted
    target = placed
    if plan is not None and plan.workers and plan.kind in (DisruptionKind.RESIZE, DisruptionKind.PREEMPTION):
        target = plan.workers
    if facts.state is not State.RESTARTING and target < placed:
        return target  # it runs on with its first workers
    target = min(target, wanted)
    if target in sizes:
        return target
    # A size that it may not have any more, or may not have at all: the next smaller one, else all of them.
    return next((size for size in sizes if size <= target), wanted)


def _moves(held: Placement, result: Placement) -> set[int]:
    """Ranks that are in another place afterwards."""
    old = {worker.rank: (worker.node, worker.devices) for worker in held.workers}
    return {worker.rank for worker in result.workers if old.get(worker.rank) != (worker.node, worker.devices)}


def _sentence(held: Placement, result: Placement) -> str:
    workers, before, ranks = len(result.node_of), len(held.node_of), _moves(held, result)
    moved = [worker for worker in result.workers if worker.rank in ranks]
    text = f"goes on with {workers} worker{'' if workers == 1 else 's'}"
    if workers != before:
        text += f" instead of {before}"
    if not moved:
        return f"{text} where {'it was' if workers == 1 else 'they were'}"
    nodes = list(dict.fromkeys(worker.node for worker in moved))
    more = f" and {len(nodes) - LISTED} more" if len(nodes) > LISTED else ""
    place = f"{', '.join(nodes[:LISTED])}{more}"
    return (
        f"{text} in a new place: {place}" if workers == 1 else f"{text}, {len(moved)} of them in a new place: {place}"
    )
