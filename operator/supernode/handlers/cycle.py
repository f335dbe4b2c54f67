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
from functools import partial
from typing import Final

from supernode.api.conditions import seconds_of
from supernode.cluster.cache import Key
from supernode.cluster.kinds import JOBS, Json
from supernode.errors import InputError
from supernode.handlers.again import Again
from supernode.handlers.context import Context
from supernode.handlers.goingon import largest
from supernode.handlers.growth import Growth
from supernode.handlers.jobs import Jobs
from supernode.handlers.jobstatus import Placed, Wait, placement_json
from supernode.handlers.masks import Masks
from supernode.handlers.measure import measure_jobs
from supernode.handlers.migration import Migrations, Wish
from supernode.handlers.nomination import Nomination
from supernode.handlers.pools import Pools
from supernode.handlers.preemption import Preemptions
from supernode.handlers.quotas import ComputeQuotas, in_turn, quota_words
from supernode.handlers.reading import Readings
from supernode.handlers.sizes import sized, sizes_of
from supernode.handlers.sweep import name_taken, sweep
from supernode.handlers.waiting import Candidate
from supernode.scheduling.alternatives import Running, alternatives
from supernode.scheduling.cycle import Decision, plan_cycle
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.explain import explain, explain_alternatives
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.unplaceable import Reason, Unplaceable
from supernode.telemetry.logs import bound

logger = logging.getLogger(__name__)

# Seconds to gather changes that come together, before a cycle.
GATHER: Final = 0.02
# Seconds after which everything is looked at even if nothing seems to have changed.
RESYNC: Final = 60.0
# Gangs at the head of the queue that are told in one cycle what would be possible instead.
ADVISED: Final = 2
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
        self._again = Again(context, jobs, readings)
        self._preemptions = Preemptions(context, readings)
        self._migrations = Migrations(context, readings)
        self._growth = Growth(context, readings, jobs.wake_at)
        self._wishes: dict[str, Wish] = {}
        self._quotas = ComputeQuotas(context, readings)
        # (pool, namespace) -> TFLOPS in use, with the places of this cycle.
        self._tflops: dict[tuple[str, str], float] = {}
        self._on_end = on_end
        self._count = 0
        # (generation of the state, gangs, who gives way) that the last answers were given for.
        self._answered: tuple[object, ...] | None = None

    async def run(self) -> None:
        """Cycle whenever something changes, until cancelled."""
        wake = self._context.wake
        looked_at_all = time.monotonic()
        while True:
            await self._wait()
            wake.clear()
            if time.monotonic() - looked_at_all > RESYNC:
                looked_at_all = time.monotonic()
                self._answered = None
                self._jobs.touch_all()
                live = {obj["metadata"]["uid"] for obj in self._context.stores.jobs.objects().values()}
                for part in (self._again, self._preemptions, self._migrations, self._quotas, self._growth):
                    part.prune(live)
            await self.once()

    async def _wait(self) -> None:
        """Until something changes, a job's time has come, or it is time to look at everything."""
        next_wake = self._jobs.next_wake()
        seconds = RESYNC if next_wake is None else min(RESYNC, max(0.0, next_wake - self._context.now()))
        try:
            # Not wait_for: until Python 3.12 that can swallow a cancellation that comes together with the wake.
            async with asyncio.timeout(seconds):
                await self._context.wake.wait()
        except TimeoutError:
            return
        await asyncio.sleep(GATHER)

    async def once(self) -> None:
        """One cycle."""
        self._count += 1
        began = time.perf_counter()
        with bound(cycle=str(self._count)):
            rewired = self._context.observer.take_rewired()
            self._context.observer.snapshot()
            if rewired:
                self._jobs.touch_all()
            await self._safely("who gives way", self._give_way)
            due = self._jobs.take_due(self._context.now())
            await self._each(due)
            if due:
                measure_jobs(self._context)
                self._pools.measure()
            await self._pools.offer()
            await self._safely("who goes on", self._go_on)
            await self._place_waiting()
            await self._safely("who asked for moves", self._clear_requests)
            await self._safely("who grows", self._grow)
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
            if await self._jobs.clear_request(obj) and why:
                self._context.events.warning(JOBS, obj, "NotDefragmented", f"nobody moves for it: {why}")

    async def _place_waiting(self) -> None:
        """Answer every gang that wants a place; nothing is done when nothing has changed since the last answers."""
        candidates = self._jobs.waiting.candidates()
        self._context.metrics.gauge("supernode_queue_length", len(candidates))
        snapshot = self._context.observer.snapshot()
        nominations = self._preemptions.nominations()
        asked = frozenset((c.key, c.uid, c.generation, c.demand.priority) for c in candidates)
        kept = frozenset((name, each.victims, each.moves) for name, each in nominations.items())
        self._wishes, at = self._migrations.wishes(candidates)
        if at is not None:
            self._jobs.wake_at(candidates[0].key, at)
        question = (snapshot.generation, asked, kept, frozenset(self._wishes.items()))
        if candidates and question != self._answered:
            answers = self._decide(snapshot, candidates, nominations)
            # Concurrently from here on: each answer is about another job.
            written = await asyncio.gather(*(self._carry_out(candidate, answer) for candidate, answer in answers))
            settled = all(written) and not self._quotas.take_refused()
            self._answered = question if settled else None
            if self._answered is None:
                self._context.wake.set()

    def _decide(
        self, snapshot: Snapshot, candidates: list[Candidate], nominations: dict[str, Nomination]
    ) -> list[tuple[Candidate, Placed | Wait]]:
        """Where each gang goes; a place is held from here on, so that nobody else is given it."""
        answers: list[tuple[Candidate, Placed | Wait]] = []
        by_key = {candidate.demand.key: candidate for candidate in candidates}
        masks = Masks(self._context, snapshot)
        self._tflops = self._quotas.held(snapshot)
        demands, over = [], list[tuple[Candidate, Wait]]()
        for candidate in candidates:
            blocking = name_taken(self._context, candidate)
            if blocking:
                sentence = f"pod {blocking} of an earlier job is still there; this job starts when it is gone"
                answers.append((candidate, Wait(str(Reason.WAITING_FOR_REPAIR), sentence)))
                continue
            try:
                obj = self._context.stores.jobs.get(candidate.key) or {}
                shut = self._preemptions.kept_for_others(candidate, nominations)
                asked = self._quotas.narrowed(candidate, candidate.demand, self._tflops)
                if isinstance(asked, Wait):
                    over.append((candidate, asked))
                    continue
                demands.append(masks.on(asked, obj, shut))
            except Exception as exc:
                # A fault of ours with this one gang must not stop the others.
                logger.exception("job %s can't be matched with nodes", candidate.demand.key)
                answers.append((candidate, Wait(str(Reason.MISCONFIGURED), _unexpected(exc))))
        decisions, refused = _plan(snapshot, demands, self._ends(snapshot))
        answers += [(by_key[key], Wait(str(Reason.MISCONFIGURED), why)) for key, why in refused.items()]
        unplaced: list[tuple[Candidate, Decision, Unplaceable]] = []
        for decision in decisions:
            candidate, result = by_key[decision.demand.key], decision.result
            if isinstance(result, Unplaceable):
                unplaced.append((candidate, decision, result))
                continue
            sentence = explain(result, decision.snapshot, decision.demand)
            status = placement_json(result, candidate.attempt, self._context.now())
            refusal = self._quotas.refusal(candidate, decision.demand, status, self._tflops)
            if refusal is not None:
                over.append((candidate, refusal))
                continue
            try:
                self._context.observer.hold(candidate.key, candidate.uid, result, decision.demand.request, status)
            except InputError as exc:
                logger.error("job %s can't hold its place: %s", decision.demand.key, exc)
                self._context.wake.set()
                continue
            answers.append((candidate, Placed(status, sentence)))
        return [*answers, *in_turn(over), *self._waits(unplaced, nominations)]

    def _waits(
        self, unplaced: list[tuple[Candidate, Decision, Unplaceable]], nominations: dict[str, Nomination]
    ) -> list[tuple[Candidate, Placed | Wait]]:
        """What each gang that has no place waits for."""
        if not unplaced:
            return []
        answers, unplaced = self._smaller(unplaced)
        left = self._context.observer.snapshot()
        asked = [(candidate, result, decision.demand) for candidate, decision, result in unplaced]
        try:
            ways = self._migrations.plan(left, asked, nominations, self._wishes)
            asked = [each for each in asked if each[2].key not in ways]
            ways |= self._preemptions.plan(left, asked, nominations)
        except Exception:
            logger.exception("who could give way can't be planned")
            ways = {}
        advised, queue = 0, [decision.demand for _, decision, _ in unplaced]
        for candidate, decision, result in unplaced:
            wait = ways.get(candidate.demand.key)
            if wait is None:
                sentence = explain(result, decision.snapshot, decision.demand)
                sentence += quota_words(left, decision.demand, str(result.code), queue)
                if advised < ADVISED:
                    advised += 1
                    sentence += self._advice(left, decision.demand)
                wait = Wait(str(result.code), sentence)
            self._context.metrics.count("supernode_unplaceable", wait.code)
            answers.append((candidate, wait))
        return answers

    def _advice(self, snapshot: Snapshot, demand: GangDemand) -> str:
        """What would be possible instead, as the end of a sentence; only what stays true while nothing changes."""
        try:
            found = explain_alternatives(alternatives(snapshot, demand, Running({})))
        except Exception:
            logger.exception("what job %s could have instead can't be told", demand.key)
            return ""
        return f"; instead: {found}" if found else ""

    def _smaller(
        self, unplaced: list[tuple[Candidate, Decision, Unplaceable]]
    ) -> tuple[list[tuple[Candidate, Placed | Wait]], list[tuple[Candidate, Decision, Unplaceable]]]:
        """Gangs that can do with fewer workers, cut for fewer replicas, as far as nobody waits before them; the rest.

        The scheduler places gangs that are cut by a parallelism whole: their other sizes are cut here.
        """
        answers: list[tuple[Candidate, Placed | Wait]] = []
        rest: list[tuple[Candidate, Decision, Unplaceable]] = []
        waited_for: set[str] = set()
        for candidate, decision, result in unplaced:
            demand = decision.demand
            try:
                placed = None if waited_for & set(demand.pools) else self._as_many_as_fit(candidate, demand)
            except Exception:
                logger.exception("fewer workers of job %s can't be placed", demand.key)
                placed = None
            if placed is not None:
                answers.append((candidate, placed))
                continue
            waited_for |= set(demand.pools)
            rest.append((candidate, decision, result))
        return answers, rest

    def _as_many_as_fit(self, candidate: Candidate, demand: GangDemand) -> Placed | None:
        """A place for fewer workers than were asked for; it is held from here on."""
        sizes = sizes_of(candidate.model.spec)[1:] if demand.fewest == demand.workers else ()
        if not sizes:
            return None
        snapshot = self._context.observer.snapshot()
        found = largest(snapshot, demand.key, sizes, (), partial(sized, demand))
        if found is None:
            return None
        status = placement_json(found, candidate.attempt, self._context.now())
        if self._quotas.refusal(candidate, demand, status, self._tflops) is not None:
            return None
        self._context.observer.hold(candidate.key, candidate.uid, found, demand.request, status)
        sentence = explain(found, snapshot, sized(demand, len(found.node_of)))
        return Placed(status, f"{sentence}; {demand.workers} workers found no place")

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
            if not self._quotas.grows_past(obj, plan.workers, self._quotas.held(snapshot)):
                await self._jobs.disrupt(obj, plan)

    def _ends(self, snapshot: Snapshot) -> dict[str, float]:
        """Seconds from now at which the gangs that hold devices end at the latest, as far as they have a deadline."""
        ends: dict[str, float] = {}
        for key in snapshot.holders:
            namespace, _, name = key.partition("/")
            obj = self._context.stores.jobs.get((namespace, name)) or {}
            started = (obj.get("status") or {}).get("startTime")
            limit = ((obj.get("spec") or {}).get("runPolicy") or {}).get("activeDeadlineSeconds")
            if started and limit is not None:
                ends[key] = max(0.0, seconds_of(started) + limit - self._context.now())
        return ends

    async def _carry_out(self, candidate: Candidate, answer: Placed | Wait) -> bool:
        """True when the answer has been written, and for a place: when the gang's pods were made too."""
        if isinstance(answer, Wait):
            return await self._jobs.tell_wait(candidate.key, answer)
        if not await self._jobs.take_place(candidate.key, answer):
            self._context.observer.drop(candidate.key)
            return False
        self._context.metrics.count("supernode_placements", str(answer.status["pool"]))
        waited = self._context.now() - candidate.demand.created
        self._context.metrics.observe("supernode_wait_seconds", max(0.0, waited))
        await self._jobs.reconcile(candidate.key)
        return True


def _plan(
    snapshot: Snapshot, demands: list[GangDemand], ends: dict[str, float]
) -> tuple[tuple[Decision, ...], dict[str, str]]:
    """Decide about all; a gang that can't even be asked about is left out, with the reason, for the others' sake."""
    try:
        return plan_cycle(snapshot, demands, ends), {}
    except Exception as exc:
        logger.warning("looking for the gang that can't be planned: %s", exc, exc_info=not isinstance(exc, InputError))
    good: list[GangDemand] = []
    refused: dict[str, str] = {}
    for demand in demands:
        try:
            plan_cycle(snapshot, [demand])
            good.append(demand)
        except InputError as exc:
            refused[demand.key] = str(exc)
        except Exception as exc:
            refused[demand.key] = _unexpected(exc)
    return plan_cycle(snapshot, good, ends), refused


def _unexpected(exc: Exception) -> str:
    return f"an unexpected error of the operator, which its log tells more about: {type(exc).__name__}: {exc}"
