"""The scheduling cycle: one at a time, each on one view of the cluster.

Flows in: what has changed. Flows out: decisions carried out. A cycle looks at the jobs that may need something, then
puts the gangs that want a place in order (priority, age, name), places one after the other on the same snapshot, and
carries the placements out concurrently: status first, then pods.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from supernode.cluster.cache import Key
from supernode.cluster.kinds import JOBS, Json
from supernode.errors import InputError
from supernode.handlers.again import Again
from supernode.handlers.answers import Answers
from supernode.handlers.context import Context
from supernode.handlers.growth import Growth
from supernode.handlers.jobs import Jobs
from supernode.handlers.jobstatus import Placed, Wait
from supernode.handlers.masks import Masks
from supernode.handlers.measure import JobGauges
from supernode.handlers.migration import Migrations
from supernode.handlers.pools import Pools
from supernode.handlers.preemption import Preemptions
from supernode.handlers.reading import Readings
from supernode.handlers.rehearse import Rehearsals
from supernode.handlers.services import Services
from supernode.handlers.sweep import sweep
from supernode.handlers.waiting import Candidate
from supernode.scheduling.demand import GangDemand
from supernode.telemetry.logs import bound

logger = logging.getLogger(__name__)

# Seconds to gather changes that come together, before a cycle, and how often that is done while more of them come:
# jobs that are applied together are placed together, instead of some when the pods of the others are made.
GATHER: Final = 0.008
GATHERS: Final = 10
# Seconds after which everything is looked at even if nothing seems to have changed.
RESYNC: Final = 60.0
# Jobs looked at concurrently.
CONCURRENT: Final = 32


class Cycle:
    """Runs the cycles.

    Args:
        context: what handlers share.
        jobs: looks after single jobs.
        pools: looks after pools and groups.
        readings: reads jobs.
        on_end: called after each cycle.
    """

    def __init__(
        self, context: Context, jobs: Jobs, pools: Pools, readings: Readings, on_end: Callable[[], None]
    ) -> None:
        self._context = context
        self._jobs = jobs
        self._pools = pools
        self._readings = readings
        self._gauges = JobGauges(context)
        self._again = Again(context, jobs, readings)
        self._rehearsals = Rehearsals(context, jobs.due.wake_at)
        self._services = Services(context, readings)
        self._services_due = True
        self._preemptions = Preemptions(context, readings, self._rehearsals)
        self._migrations = Migrations(context, readings, self._rehearsals)
        self._growth = Growth(context, readings, jobs.due.wake_at)
        self._answers = Answers(context, self._preemptions, self._migrations)
        self._on_end = on_end
        self._count = 0
        # (generation of the state, gangs, who gives way) that the last answers were given for.
        self._answered: tuple[object, ...] | None = None

    async def run(self) -> None:
        """Cycle whenever something changes, until cancelled."""
        wake = self._context.wake
        clock = asyncio.get_running_loop().time
        looked_at_all = clock()
        while True:
            await self._wait()
            wake.clear()
            if clock() - looked_at_all > RESYNC:
                looked_at_all = clock()
                self._answered = None
                self._jobs.due.touch_all()
                live = {obj["metadata"]["uid"] for obj in self._context.stores.jobs.objects().values()}
                self._services_due = True
                for part in (self._again, self._preemptions, self._migrations, self._growth, self._rehearsals):
                    part.prune(live)
            await self.once()

    async def _wait(self) -> None:
        """Until something changes, a job's time has come, or it is time to look at everything."""
        next_wake = self._jobs.due.next_wake()
        seconds = RESYNC if next_wake is None else min(RESYNC, max(0.0, next_wake - self._context.now()))
        try:
            # Not wait_for: until Python 3.12 that can swallow a cancellation that comes together with the wake.
            async with asyncio.timeout(seconds):
                await self._context.wake.wait()
        except TimeoutError:
            return
        for _ in range(GATHERS):
            self._context.wake.clear()
            await asyncio.sleep(GATHER)
            if not self._context.wake.is_set():
                return

    async def once(self) -> None:
        """One cycle."""
        self._count += 1
        began = time.perf_counter()
        with bound(cycle=str(self._count)):
            rewired = self._context.observer.take_rewired()
            self._context.observer.snapshot()
            if rewired:
                self._jobs.due.touch_all()
            await self._safely("who gives way", self._give_way)
            due = self._jobs.due.take(self._context.now())
            await self._each(due)
            if due:
                self._gauges.tell()
                self._pools.measure()
            await self._pools.offer()
            await self._safely("who goes on", self._go_on)
            await self._place_waiting()
            await self._safely("who asked for moves", self._clear_requests)
            await self._safely("who grows", self._grow)
            if self._services_due:
                self._services_due = False
                await self._safely("which Services are gone", self._services.look)
            await self._safely("who gives way", self._give_way)
            await sweep(self._context)
            await self._pools.report()
        self._context.metrics.count("supernode_cycles")
        self._context.metrics.observe("supernode_cycle_seconds", time.perf_counter() - began)
        self._on_end()

    async def _safely(self, what: str, step: Callable[[], Awaitable[None]]) -> None:
        """A step that concerns gangs that run: a fault of ours in it must not keep others from being placed."""
        try:
            await step()
        except Exception:
            self._context.metrics.count("supernode_reconcile_errors", "TrainingJob")
            logger.exception("%s can't be told now", what)

    async def _each(self, keys: list[Key]) -> None:
        """Reconcile several jobs, some at a time; never one twice at once."""
        slots = asyncio.Semaphore(CONCURRENT)

        async def one(key: Key) -> None:
            async with slots:
                await self._jobs.reconcile(key)

        await asyncio.gather(*(one(key) for key in keys))

    # --- placing ---------------------------------------------------------------------------------------------------
    async def _go_on(self) -> None:
        """Gangs that have stopped and hold their places go on there, before anybody else is asked."""
        await self._each(await self._again.go_on())

    async def _give_way(self) -> None:
        """Take back what would be in vain, and tell those that are to give way."""
        nominations = self._preemptions.nominations()
        for obj in self._preemptions.in_vain(nominations):
            await self._jobs.disrupt(obj, None)
        for obj in self._migrations.in_vain(nominations):
            await self._jobs.disrupt(obj, None)
        due = self._preemptions.due(nominations) + self._migrations.due(nominations)
        await asyncio.gather(*(self._jobs.disrupt(obj, plan) for obj, plan in due))

    async def _clear_requests(self) -> None:
        """Take the annotations off that were dealt with, and say so where nothing is done."""
        for obj, why in self._migrations.requests_to_clear():
            # Whether it stays there or is soon there again: it is a new question, though all else may be the same.
            self._answered = None
            if not await self._jobs.clear_request(obj):
                metadata = obj["metadata"]
                self._jobs.due.wake_at((metadata.get("namespace", ""), metadata["name"]), self._context.now() + 1.0)
            elif why:
                self._context.events.warning(JOBS, obj, "NotDefragmented", f"nobody moves for it: {why}")

    async def _place_waiting(self) -> None:
        """Answer every gang that wants a place; nothing is done when nothing has changed since the last answers."""
        candidates = self._jobs.waiting.candidates()
        self._context.metrics.gauge("supernode_queue_length", len(candidates))
        snapshot = self._context.observer.snapshot()
        nominations = self._preemptions.nominations()
        asked = frozenset((c.key, c.uid, c.generation, c.demand.priority) for c in candidates)
        kept = frozenset((name, each.victims, each.moves) for name, each in nominations.items())
        wishes, at = self._migrations.wishes(candidates)
        if at is not None:
            self._jobs.due.wake_at(candidates[0].key, at)
        question = (snapshot.generation, asked, kept, frozenset(wishes.items()), self._rehearsals.standing())
        if candidates and (question != self._answered or self._answers.out_of_the_way()):
            answers = self._answers.decide(snapshot, candidates, nominations, wishes)
            # Concurrently from here on: each answer is about another job.
            written = await asyncio.gather(*(self._carry_out(candidate, answer) for candidate, answer in answers))
            self._answered = question if all(written) else None
            if self._answered is None:
                self._context.wake.set()

    async def _grow(self) -> None:
        """Let a gang that has fewer workers than it wants have more, where devices are free."""
        snapshot, masks = self._context.observer.snapshot(), None

        def demand_at(key: Key, obj: Json, workers: int) -> GangDemand:
            nonlocal masks
            masks = masks or Masks(self._context, snapshot)
            model = self._readings.read(key, obj).model
            if model is None:
                raise InputError("is not valid", obj=f"TrainingJob {key[0]}/{key[1]}")
            return masks.on(self._readings.demand(obj, model, workers), obj)

        for obj in self._growth.in_vain(snapshot, demand_at):
            await self._jobs.disrupt(obj, None)
        for obj, plan in self._growth.plans(snapshot, self._jobs.waiting.candidates, demand_at):
            await self._jobs.disrupt(obj, plan)

    async def _carry_out(self, candidate: Candidate, answer: Placed | Wait) -> bool:
        """True when the answer has been written, and for a place: when the gang's pods were made too."""
        if isinstance(answer, Wait):
            return await self._jobs.tell_wait(candidate.key, await self._rehearsals.checked(candidate, answer))
        if not await self._jobs.take_place(candidate.key, answer):
            self._context.observer.drop(candidate.key)
            return False
        self._context.observer.written(candidate.key)
        self._context.metrics.count("supernode_placements", str(answer.status["pool"]))
        waited = self._context.now() - candidate.demand.created
        self._context.metrics.observe("supernode_wait_seconds", max(0.0, waited))
        await self._jobs.reconcile(candidate.key)
        return True
