"""What a cycle answers the gangs that want a place: where each goes, or what it waits for.

Flows in: one snapshot, the candidates, what is kept for whom. Flows out: an answer per gang; places that are given
are held in the observer at once. No requests are made here.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

from supernode.api.conditions import seconds_of
from supernode.cluster.cache import Key
from supernode.errors import InputError
from supernode.handlers.bounds import too_many_workers
from supernode.handlers.context import Context
from supernode.handlers.goingon import largest
from supernode.handlers.jobstatus import Placed, Wait, placement_json
from supernode.handlers.keeping import kept_sentence
from supernode.handlers.masks import Masks
from supernode.handlers.migration import Migrations, Wish
from supernode.handlers.nomination import Nomination
from supernode.handlers.preemption import Preemptions
from supernode.handlers.quotas import quota_words
from supernode.handlers.sizes import sized, sizes_of
from supernode.handlers.sweep import in_the_way, whose
from supernode.handlers.waiting import Candidate
from supernode.scheduling.alternatives import Running, alternatives
from supernode.scheduling.cycle import Decision, plan_cycle
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.explain import explain, explain_alternatives
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.unplaceable import Reason, Unplaceable

logger = logging.getLogger(__name__)

# Gangs at the head of the queue that are told in one cycle what would be possible instead.
ADVISED: Final = 2


class Answers:
    """Decides about all gangs that wait, together.

    Args:
        context: what handlers share.
        preemptions: who could give way.
        migrations: who could move.
    """

    def __init__(self, context: Context, preemptions: Preemptions, migrations: Migrations) -> None:
        self._context = context
        self._preemptions = preemptions
        self._migrations = migrations
        self._wishes: dict[str, Wish] = {}
        # Pods that were in the way of gangs when they were answered, with their uids.
        self._blocking: dict[Key, str] = {}

    def out_of_the_way(self) -> bool:
        """Whether a pod is gone that was in the way of a gang when all were answered."""
        pods = self._context.stores.pods
        there = ((pods.get(key) or {"metadata": {}}, uid) for key, uid in self._blocking.items())
        return any(pod["metadata"].get("uid") != uid for pod, uid in there)

    def decide(
        self,
        snapshot: Snapshot,
        candidates: list[Candidate],
        nominations: dict[str, Nomination],
        wishes: dict[str, Wish],
    ) -> list[tuple[Candidate, Placed | Wait]]:
        """Where each gang goes; a place is held from here on, so that nobody else is given it.

        Args:
            snapshot: the cluster of this cycle.
            candidates: who wants a place.
            nominations: nodes that are kept for gangs, by the gang's key.
            wishes: who may be helped by moving others, by the gang's key.
        """
        self._wishes = wishes
        self._blocking.clear()
        answers: list[tuple[Candidate, Placed | Wait]] = []
        by_key = {candidate.demand.key: candidate for candidate in candidates}
        masks = Masks(self._context, snapshot)
        demands: list[GangDemand] = []
        kept: dict[str, list[Nomination]] = {}
        for candidate in candidates:
            pod = in_the_way(self._context, candidate)
            if pod is not None:
                self._blocking[pod["metadata"]["namespace"], pod["metadata"]["name"]] = pod["metadata"]["uid"]
                answers.append((candidate, Wait(str(Reason.WAITING_FOR_REPAIR), whose(pod, candidate.key[1]))))
                continue
            asked = candidate.demand
            unwritable = too_many_workers(asked.workers, asked.devices, asked.pools, snapshot.node_names)
            if unwritable:
                answers.append((candidate, Wait(str(Reason.MISCONFIGURED), unwritable)))
                continue
            try:
                obj = self._context.stores.jobs.get(candidate.key) or {}
                keepers = self._preemptions.kept_for_others(candidate, nominations)
                shut = frozenset().union(*(each.nodes for each in keepers))
                demands.append(masks.on(candidate.demand, obj, shut))
                if shut:
                    kept[candidate.demand.key] = keepers
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
            try:
                self._context.observer.hold(candidate.key, candidate.uid, result, decision.demand.request, status)
            except InputError as exc:
                logger.error("job %s can't hold its place: %s", decision.demand.key, exc)
                self._context.wake.set()
                continue
            answers.append((candidate, Placed(status, sentence)))
        return [*answers, *self._waits(unplaced, nominations, kept)]

    def _waits(
        self,
        unplaced: list[tuple[Candidate, Decision, Unplaceable]],
        nominations: dict[str, Nomination],
        kept: dict[str, list[Nomination]],
    ) -> list[tuple[Candidate, Placed | Wait]]:
        """What each gang that has no place waits for; `kept`: who has nodes kept from it, by its key."""
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
            # A fault of ours in what would be nice to have: places are still to be answered.
            logger.exception("who could give way can't be planned")
            ways = {}
        # Who can never start as things are is before nobody.
        advised, queue = 0, [decision.demand for _, decision, result in unplaced if result.possible]
        for candidate, decision, result in unplaced:
            wait = ways.get(candidate.demand.key)
            if wait is None and decision.demand.key in kept:
                wait = Wait(str(result.code), self._kept(left, candidate, kept[decision.demand.key]))
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

    def _kept(self, snapshot: Snapshot, candidate: Candidate, keepers: list[Nomination]) -> str:
        """That nodes are kept for others, as it is on those that it may use otherwise."""
        obj = self._context.stores.jobs.get(candidate.key) or {}
        return kept_sentence(snapshot, Masks(self._context, snapshot).on(candidate.demand, obj), keepers)

    def _advice(self, snapshot: Snapshot, demand: GangDemand) -> str:
        """What would be possible instead, as the end of a sentence; only what stays true while nothing changes."""
        try:
            found = explain_alternatives(alternatives(snapshot, demand, Running({})))
        except Exception:
            # The same: the sentence is true without its end.
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
                # The same, with this one gang.
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
        self._context.observer.hold(candidate.key, candidate.uid, found, demand.request, status)
        sentence = explain(found, snapshot, sized(demand, len(found.node_of)))
        return Placed(status, f"{sentence}; {demand.workers} workers found no place")

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


def _plan(
    snapshot: Snapshot, demands: list[GangDemand], ends: dict[str, float]
) -> tuple[tuple[Decision, ...], dict[str, str]]:
    """Decide about all; a gang that can't even be asked about is left out, with the reason, for the others' sake."""
    try:
        return plan_cycle(snapshot, demands, ends), {}
    except Exception as exc:
        # Whichever gang it is must not stop the others.
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
            # A fault of ours with this one gang: it is told, and left out.
            refused[demand.key] = _unexpected(exc)
    return plan_cycle(snapshot, good, ends), refused


def _unexpected(exc: Exception) -> str:
    return f"an unexpected error of the operator, which its log tells more about: {type(exc).__name__}: {exc}"
