"""Gangs that move so that a waiting one can start: plans them, tells those that move, and where each goes on.

Flows in: gangs that can't be placed although enough is free, and what runs. Flows out: `status.nomination` of the gang
that waits (`moves`: who goes where; `nodes`: what is kept meanwhile), then `status.disruption` (Migration) of each that
moves. Both are in the API, so an operator that was killed between any two writes goes on from there. A gang that moves
saves a checkpoint, stops, and goes on in its new place; `lifecycle` and `again` see to that.

Asked for by the annotation `supernode.dev/defragment` on the job that waits, or by its pools
(`spec.defragmentation: {mode: Automatic}`). Never moved: gangs of `disruptionMode: Single` (their workers may only go
one by one), of higher priority, with something else being done to them; nor any, if what stands still would be more
than what is gained.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from supernode.api.conditions import timestamp
from supernode.api.rules import Problem
from supernode.cluster import translate
from supernode.cluster.assignment import nodes_of
from supernode.cluster.cache import Key
from supernode.cluster.kinds import Json
from supernode.errors import InputError
from supernode.handlers.context import Context
from supernode.handlers.facts import disruption_of, is_ours, job_facts, state_of
from supernode.handlers.jobstatus import Wait
from supernode.handlers.life import Disruption, DisruptionKind, State
from supernode.handlers.masks import Masks
from supernode.handlers.nomination import Move, Nomination, attempt_of, cause_of, entry, holder
from supernode.handlers.reading import Readings
from supernode.handlers.rehearse import Rehearsals
from supernode.handlers.waiting import Candidate
from supernode.names import ANNOTATION_DEFRAGMENT
from supernode.scheduling import discretion
from supernode.scheduling.defragment import Defragmentation, Limits, Movable, plan_moves
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.place import place_in
from supernode.scheduling.placement import Placement
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.unplaceable import Reason, Unplaceable
from supernode.scheduling.work import Work
from supernode.telemetry.logs import bound

logger = logging.getLogger(__name__)

# Moves of one plan where nobody says else, and at most.
MOVES: Final = 4
MOST_MOVES: Final = 16
# Seconds that stopping a gang and starting it elsewhere takes, beside the work since its last checkpoint.
RESTART_SECONDS: Final = 120.0
LISTED: Final = 3


@dataclass(frozen=True, slots=True)
class Wish:
    """That others move for a gang. `moves`: of how many at most. `automatic`: nobody has asked; `pools`: those meant;
    `rest`: seconds that a gang stays in a place at least.
    """

    moves: int
    automatic: bool = False
    pools: frozenset[str] = frozenset()
    rest: float = 0.0


def asked_moves(obj: Json) -> int | None:
    """The number of moves that the job's annotation allows; None without one that can be read."""
    text = (obj["metadata"].get("annotations") or {}).get(ANNOTATION_DEFRAGMENT)
    if not isinstance(text, str) or not text.isdecimal():
        return None
    return min(int(text[:6]), MOST_MOVES) or None


class Migrations:
    """Plans who moves, and tells them.

    Args:
        context: what handlers share.
        readings: reads jobs.
        rehearsals: whose pods would be refused.
    """

    def __init__(self, context: Context, readings: Readings, rehearsals: Rehearsals) -> None:
        self._context = context
        self._readings = readings
        self._rehearsals = rehearsals
        # uid -> generation of the snapshot for which no plan was found.
        self._hopeless: dict[str, int] = {}
        # Jobs whose request has been dealt with, and what came of it where nothing did.
        self.answered: dict[Key, str] = {}

    def prune(self, live: set[str]) -> None:
        """Remember nothing of jobs that are gone; `live`: uids of those that are there."""
        self._hopeless = {uid: generation for uid, generation in self._hopeless.items() if uid in live}

    # --- who wants it ------------------------------------------------------------------------------------------------
    def wishes(self, candidates: Sequence[Candidate]) -> tuple[dict[str, Wish], float | None]:
        """For whom others should move now, and when the next automatic wish is due (seconds since the epoch)."""
        now, found, times = self._context.now(), {}, []
        for candidate in candidates:
            obj = self._context.stores.jobs.get(candidate.key) or {"metadata": {}}
            moves = asked_moves(obj)
            if moves is not None:
                found[candidate.demand.key] = Wish(moves)
                continue
            rules = {
                name: pool.spec.defragmentation
                for name in candidate.demand.pools
                if (pool := self._context.observer.view.pools.get(name)) is not None
                and pool.spec.defragmentation.mode == "Automatic"
            }
            due = {name for name, rule in rules.items() if candidate.demand.created + rule.after_seconds <= now}
            times += [candidate.demand.created + rules[name].after_seconds for name in rules.keys() - due]
            if due:
                most = min(rules[name].max_moves for name in due)
                rest = max(rules[name].rest_seconds for name in due)
                found[candidate.demand.key] = Wish(most, automatic=True, pools=frozenset(due), rest=float(rest))
        return found, min(times, default=None)

    # --- deciding ----------------------------------------------------------------------------------------------------
    def plan(
        self,
        snapshot: Snapshot,
        refused: Sequence[tuple[Candidate, Unplaceable, GangDemand]],
        nominations: Mapping[str, Nomination],
        wishes: Mapping[str, Wish],
    ) -> dict[str, Wait]:
        """What gangs that can't be placed wait for, where others move; by key. At most one new plan at a time."""
        answers: dict[str, Wait] = {}
        running = any(self._pending(each) for each in nominations.values())
        for candidate, result, demand in refused:
            mine, wish = nominations.get(demand.key), wishes.get(demand.key)
            refusal = self._rehearsals.refusal(candidate)
            if refusal is not None:
                if wish is not None and not wish.automatic:
                    self.answered[candidate.key] = refusal.sentence
                continue
            if mine is not None and mine.moves and self._still_helps(snapshot, demand, mine):
                answers[demand.key] = Wait(str(Reason.WAITING_FOR_PREEMPTION), self._sentence(demand, mine), mine.raw)
                continue
            if wish is None or running or (mine is not None and mine.victims):
                continue
            if wish.automatic and self._hopeless.get(candidate.uid) == snapshot.generation:
                continue
            found = self.propose(snapshot, demand, wish, nominations) if result.possible else "it can never be placed"
            if isinstance(found, str):
                self._hopeless[candidate.uid] = snapshot.generation
                if not wish.automatic:
                    self.answered[candidate.key] = found
                continue
            nomination = self._nominate(demand, found)
            running = True
            sentence = self._sentence(demand, nomination)
            waits = str(Reason.WAITING_FOR_PREEMPTION)
            answers[demand.key] = Wait(waits, sentence, nomination.raw, found.placement)
        return answers

    def propose(
        self, snapshot: Snapshot, demand: GangDemand, wish: Wish, nominations: Mapping[str, Nomination]
    ) -> Defragmentation | str:
        """Who would move where, or why nobody does.

        Args:
            snapshot: the cluster.
            demand: of the gang that waits; its node masks belong to the snapshot.
            wish: how much may be done.
            nominations: those that hold: who gives way or moves already is left alone, and nodes that are kept.
        """
        if wish.pools:
            pools = tuple(name for name in demand.pools if name in wish.pools)
            demand = demand.with_eligible({n: demand.eligible[n] for n in pools if n in demand.eligible}, pools=pools)
        movable, why = self._movable(snapshot, demand, wish, nominations)
        if not movable:
            return why
        found = plan_moves(snapshot, demand, movable, Limits(moves=wish.moves))
        if found is None:
            return (
                f"no {wish.moves} moves or fewer of {len(movable)} gangs that may move make room for "
                f"{_size(demand)} and cost less than they gain"
            )
        if _in_circles(snapshot, found):
            return "gangs would have to change places with each other, which needs room for one of them in between"
        return found

    def _movable(
        self, snapshot: Snapshot, demand: GangDemand, wish: Wish, nominations: Mapping[str, Nomination]
    ) -> tuple[list[Movable], str]:
        taken = {victim[0] for each in nominations.values() for victim in each.victims}
        taken |= {move.key for each in nominations.values() for move in each.moves}
        shut = frozenset().union(*(each.nodes for each in nominations.values() if each.key != demand.key))
        masks, now = Masks(self._context, snapshot), self._context.now()
        found: list[Movable] = []
        passed = 0
        for key, holding in snapshot.holders.items():
            namespace, _, name = key.partition("/")
            obj = self._context.stores.jobs.get((namespace, name))
            if obj is None or key == demand.key or not set(holding.pools) & set(demand.pools) or not is_ours(obj):
                continue
            passed += 1
            model = self._readings.read((namespace, name), obj).model
            if model is None or key in taken or "deletionTimestamp" in obj["metadata"]:
                continue
            facts = job_facts(obj, model, accepted=True)
            placed = facts.placed_at or 0.0
            if (
                facts.state is not State.RUNNING
                or facts.disruption is not None
                or model.spec.scheduling.disruption_mode == "Single"
                or self._priority(model) > demand.priority
                or (wish.automatic and (not set(holding.pools) <= wish.pools or placed + wish.rest > now))
            ):
                continue
            try:
                theirs = masks.on(self._readings.demand(obj, model, facts.workers), obj, shut)
                where = translate.placement_of(key, obj["status"]["placement"])
            except InputError:
                continue
            since = max(at for at in (facts.saved_at, facts.placed_at, facts.started, 0.0) if at is not None)
            found.append(Movable(theirs, max(0.0, now - since) + RESTART_SECONDS, where))
        return found, f"none of {passed} gangs in its pools may be moved for it"

    def _nominate(self, demand: GangDemand, plan: Defragmentation) -> Nomination:
        moves = []
        for place in plan.moves:
            obj = self._object(place.key) or {"metadata": {}}
            uid, attempt = str(obj["metadata"].get("uid")), attempt_of(obj.get("status") or {})
            moves.append(Move(place.key, uid, attempt, tuple(sorted(place.nodes))))
        nodes = sorted({*plan.placement.nodes, *(node for move in moves for node in move.nodes)})
        raw: Json = {
            "since": timestamp(self._context.now()),
            "nodes": nodes,
            "moves": [
                entry(demand.key, move.key, uid=move.uid, attempt=move.attempt, nodes=list(move.nodes))
                for move in moves
            ],
        }
        uid = str((self._object(demand.key) or {"metadata": {}})["metadata"].get("uid") or "")
        return Nomination(demand.key, demand.priority, frozenset(nodes), (), raw, tuple(moves), uid)

    # --- carrying out ------------------------------------------------------------------------------------------------
    def due(self, nominations: Mapping[str, Nomination]) -> list[tuple[Json, Disruption]]:
        """Gangs that have not been told yet that they move, and what they are told."""
        now = self._context.now()
        found: list[tuple[Json, Disruption]] = []
        for nomination in nominations.values():
            for move in nomination.moves:
                obj = holder(self._context.stores.jobs, move.key, move.uid, move.attempt)
                status = (obj or {}).get("status") or {}
                if obj is None or disruption_of(status) is not None or state_of(status) is not State.RUNNING:
                    continue
                namespace, _, name = move.key.partition("/")
                model = self._readings.read((namespace, name), obj).model
                if model is None or model.spec.scheduling.disruption_mode == "Single":
                    continue  # whoever wrote that down: this one is not moved
                if self._priority(model) > nomination.priority:
                    continue
                seconds = float(model.spec.run_policy.checkpoint_seconds)
                whom = discretion.named(namespace, nomination.key)
                message = (
                    f"moves to make room for {whom}, to node{'' if len(move.nodes) == 1 else 's'} "
                    f"{_some(move.nodes)}; it has {seconds:g} s to save a checkpoint"
                )
                here = nodes_of(status["placement"])
                leave = tuple(sorted(here - set(move.nodes)))[:1024]
                kind = DisruptionKind.MIGRATION
                found.append((obj, Disruption(kind, now, now + seconds, nomination.told(move.key), message, 0, leave)))
                with bound(job=move.key):
                    logger.info("moves to make room for %s", nomination.key)
        return found

    def in_vain(self, nominations: Mapping[str, Nomination]) -> list[Json]:
        """Gangs that are about to move although nobody has a use for it any more."""
        found = []
        for key, obj in self._context.stores.jobs.objects().items():
            status = obj.get("status") or {}
            plan = disruption_of(status) if status.get("disruption") else None
            if plan is None or plan.kind is not DisruptionKind.MIGRATION or not is_ours(obj):
                continue
            cause = cause_of(nominations, plan.by)
            uid, attempt = obj["metadata"]["uid"], attempt_of(status)
            if cause is None or not any(m.names(f"{key[0]}/{key[1]}", uid, attempt) for m in cause.moves):
                found.append(obj)
        return found

    def requests_to_clear(self) -> list[tuple[Json, str]]:
        """Jobs whose annotation has been dealt with; with why nothing is done, or empty where it is being done."""
        found = [(obj, why) for key, why in self.answered.items() if (obj := self._context.stores.jobs.get(key))]
        self.answered.clear()
        for obj in self._context.stores.jobs.objects().values():
            if ANNOTATION_DEFRAGMENT not in (obj["metadata"].get("annotations") or {}):
                continue
            status = obj.get("status") or {}
            if (status.get("nomination") or {}).get("moves"):
                found.append((obj, ""))
            elif asked_moves(obj) is None:
                found.append((obj, f"the annotation must be a number of moves from 1 to {MOST_MOVES}"))
            elif status.get("placement") or state_of(status).finished:
                found.append((obj, "it does not wait for a place"))
        return found

    # --- looking -----------------------------------------------------------------------------------------------------
    def _pending(self, nomination: Nomination) -> list[Move]:
        """Gangs that have not moved yet."""
        return [m for m in nomination.moves if holder(self._context.stores.jobs, m.key, m.uid, m.attempt) is not None]

    def _still_helps(self, snapshot: Snapshot, demand: GangDemand, nomination: Nomination) -> bool:
        """Whether the gang can start when those that have not moved yet are where they are to go."""
        pending = [move for move in self._pending(nomination) if move.key in snapshot.holders]
        if not pending:
            return False
        work, masks = Work(snapshot), Masks(self._context, snapshot)
        for move in pending:
            work.release(move.key)
        for move in pending:
            obj = self._object(move.key) or {}
            namespace, _, name = move.key.partition("/")
            model = self._readings.read((namespace, name), obj).model
            if model is None:
                return False
            workers = int(snapshot.holders[move.key].workers.sum())
            theirs = bound_to(masks.on(self._readings.demand(obj, model, workers), obj), snapshot, move.nodes)
            placed = place_in(work, theirs, closed=False)
            if not isinstance(placed, Placement):
                return False
            work.claim(placed, theirs)
        return isinstance(place_in(work, demand, closed=False), Placement)

    def _sentence(self, demand: GangDemand, nomination: Nomination) -> str:
        pending = [move.key for move in self._pending(nomination)]
        count = len(nomination.moves)
        whom = discretion.listed(demand.namespace, pending, LISTED)
        return (
            f"needs {_size(demand)} together; {whom} "
            f"{'moves' if len(pending) == 1 else 'move'} to make room for it, {count - len(pending)} of {count} "
            f"{'has' if count - len(pending) == 1 else 'have'} moved"
        )

    def _object(self, key: str) -> Json | None:
        namespace, _, name = key.partition("/")
        return self._context.stores.jobs.get((namespace, name))

    def _priority(self, model: object) -> int:
        priority = self._readings.priority(model)  # type: ignore[arg-type]
        return 0 if isinstance(priority, Problem) else priority.value


def bound_to(demand: GangDemand, snapshot: Snapshot, nodes: Sequence[str]) -> GangDemand:
    """The demand on these nodes alone."""
    only = np.asarray([name in set(nodes) for name in snapshot.node_names], dtype=np.bool_)
    masks = {}
    for name in demand.pools:
        mask = demand.eligible.get(name)
        masks[name] = only if mask is None else mask & only
    return demand.with_eligible(masks)


def _in_circles(snapshot: Snapshot, plan: Defragmentation) -> bool:
    """Whether some of those that move wait for each other's places."""
    held: dict[str, dict[str, int]] = {}
    for place in plan.moves:
        holding = snapshot.holders[place.key]
        held[place.key] = dict(zip(holding.nodes, holding.masks.tolist(), strict=True))
    waits: dict[str, set[str]] = {}
    for place in plan.moves:
        wanted = dict(zip(place.nodes, place.masks().tolist(), strict=True))
        waits[place.key] = {
            other
            for other, there in held.items()
            if other != place.key and any(mask & there.get(node, 0) for node, mask in wanted.items())
        }
    while waits:
        ready = [key for key, others in waits.items() if not others & waits.keys()]
        if not ready:
            return True
        for key in ready:
            del waits[key]
    return False


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{', '.join(names[:LISTED])}{more}"


def _size(demand: GangDemand) -> str:
    """`1 worker x 4 devices`."""
    return f"{demand.fewest} worker{'' if demand.fewest == 1 else 's'} x {demand.devices} devices"
