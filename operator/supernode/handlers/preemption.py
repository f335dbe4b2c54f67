"""Gangs that give way to others: plans them, tells the victims, and takes it back when it would be in vain.

Flows in: gangs that can't be placed, and what runs. Flows out: `status.nomination` of the gang that waits (the intent:
which nodes are kept for it, and who gives way), then `status.disruption` of each victim. Both are in the API, so an
operator that was killed between any two writes goes on from there.

A victim is asked for a checkpoint, has a bounded time, stops, and is queued again; `lifecycle` sees to that. As long
as it holds its place, the nomination can be taken back: when the gang that waits has gone, found a place, or when the
plan would no longer help.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Final

from supernode.api.conditions import timestamp
from supernode.api.rules import Problem
from supernode.cluster.assignment import worker_count, workers_of
from supernode.cluster.kinds import Json
from supernode.handlers.context import Context
from supernode.handlers.facts import disruption_of, is_ours, job_facts, state_of
from supernode.handlers.jobstatus import Wait
from supernode.handlers.life import Disruption, DisruptionKind, State
from supernode.handlers.nomination import Nomination, attempt_of, cause_of, entry, holder, nomination_of
from supernode.handlers.reading import Readings
from supernode.handlers.rehearse import Rehearsals
from supernode.handlers.sizes import sizes_of
from supernode.handlers.waiting import Candidate
from supernode.scheduling import discretion
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.place import place_in
from supernode.scheduling.placement import Placement
from supernode.scheduling.preempt import Preemption, Victim, plan_preemption
from supernode.scheduling.quota import NO_QUOTA, Amount
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.unplaceable import Reason, Unplaceable
from supernode.scheduling.work import Work
from supernode.telemetry.logs import bound

logger = logging.getLogger(__name__)

# Plans made in one cycle: each may try hundreds of placements.
MOST_PLANS: Final = 2
# Victims that a sentence names.
LISTED: Final = 3
# Refusals that nobody's giving way would change.
_HOPELESS: Final = frozenset(
    {Reason.NO_MATCHING_POOL, Reason.EXCEEDS_MAX_QUOTA, Reason.OUT_OF_DEVICE_MEMORY, Reason.MISCONFIGURED}
)


class Preemptions:
    """Plans who gives way, and keeps places for those they give way to.

    Args:
        context: what handlers share.
        readings: reads jobs.
        rehearsals: whose pods would be refused.
    """

    def __init__(self, context: Context, readings: Readings, rehearsals: Rehearsals) -> None:
        self._context = context
        self._readings = readings
        self._rehearsals = rehearsals
        # uid -> generation of the snapshot, and who else waited, when no plan was found.
        self._hopeless: dict[str, tuple[int, frozenset[str]]] = {}

    # --- reading ---------------------------------------------------------------------------------------------------
    def nominations(self) -> dict[str, Nomination]:
        """Every nomination that holds, by the key of the gang that waits."""
        found: dict[str, Nomination] = {}
        for key, obj in self._context.stores.jobs.objects().items():
            status = obj.get("status") or {}
            if not status.get("nomination") or not is_ours(obj) or "deletionTimestamp" in obj["metadata"]:
                continue
            model = self._readings.read(key, obj).model
            if status.get("placement") or model is None or model.spec.run_policy.suspend:
                continue
            name = f"{key[0]}/{key[1]}"
            nomination = nomination_of(name, self._priority(model), obj, self._context.stores.jobs)
            if nomination is not None:
                found[name] = nomination
        return found

    def in_vain(self, nominations: dict[str, Nomination]) -> list[Json]:
        """Victims that nobody has a use for any more."""
        found = []
        for (namespace, name), obj in self._context.stores.jobs.objects().items():
            status = obj.get("status") or {}
            plan = disruption_of(status)
            if plan is None or plan.kind is not DisruptionKind.PREEMPTION or not is_ours(obj):
                continue
            cause = cause_of(nominations, plan.by)
            key, uid = f"{namespace}/{name}", obj["metadata"]["uid"]
            if cause is None or not cause.names(key, uid, attempt_of(status)):
                found.append(obj)
        return found

    def due(self, nominations: dict[str, Nomination]) -> list[tuple[Json, Disruption]]:
        """Victims that have not been told yet, and what they are told."""
        now = self._context.now()
        found: list[tuple[Json, Disruption]] = []
        for nomination in nominations.values():
            for key, uid, attempt, workers in nomination.victims:
                obj = self._holder(key, uid, attempt)
                if obj is None or busy(disruption_of(obj.get("status") or {})):
                    continue
                namespace, _, name = key.partition("/")
                model = self._readings.read((namespace, name), obj).model
                seconds = float(model.spec.run_policy.checkpoint_seconds) if model is not None else 0.0
                mine = self._priority(model) if model is not None else 0
                if mine >= nomination.priority and not self._owes(key, nomination.key):
                    continue  # whoever wrote that down: this one need not give way
                ends = f", keeping {workers} workers" if workers else ""
                whom = discretion.named(namespace, nomination.key)
                why = f"gives way to {whom} (priority {nomination.priority}, this job's is {mine})"
                if mine >= nomination.priority:
                    why = f"gives borrowed devices back to {whom}, whose namespace they are guaranteed to"
                message = f"{why}{ends}; it has {seconds:g} s to save a checkpoint"
                kind = DisruptionKind.PREEMPTION
                found.append((obj, Disruption(kind, now, now + seconds, nomination.told(key), message, workers)))
                with bound(job=key):
                    logger.info("gives way to %s", nomination.key)
        return found

    def kept_for_others(self, candidate: Candidate, nominations: dict[str, Nomination]) -> list[Nomination]:
        """The nominations whose nodes a gang must not take, because they are kept for another one.

        One of higher priority goes first in any case, unless it is itself to give way there, or unless it would
        borrow what the other one takes back within what its namespace is guaranteed.
        """
        key = candidate.demand.key
        kept = []
        for nomination in nominations.values():
            victim = any(each[0] == key for each in nomination.victims)
            victim = victim or any(move.key == key for move in nomination.moves)
            first = candidate.demand.priority > nomination.priority and not self._borrows_from(key, nomination.key)
            if nomination.key != key and (victim or not first):
                kept.append(nomination)
        return kept

    # --- deciding --------------------------------------------------------------------------------------------------
    def plan(
        self,
        snapshot: Snapshot,
        refused: Sequence[tuple[Candidate, Unplaceable, GangDemand]],
        nominations: dict[str, Nomination],
    ) -> dict[str, Wait]:
        """What gangs that can't be placed wait for, where others give way; by key.

        Args:
            snapshot: the cluster as it is left after this cycle's placements.
            refused: in the order of the queue, each with its demand (node masks belong to the snapshot).
            nominations: those that hold so far.
        """
        answers: dict[str, Wait] = {}
        plans = 0
        running: list[Victim] | None = None
        taken = {victim[0] for nomination in nominations.values() for victim in nomination.victims}
        taken |= {move.key for nomination in nominations.values() for move in nomination.moves}
        waiting = self._entitled(snapshot, refused)
        # Who waits decides with the cluster who may be asked.
        stamp = (snapshot.generation, frozenset(each.key for demands in waiting.values() for each in demands))
        for candidate, result, demand in refused:
            mine, refusal = nominations.get(demand.key), self._rehearsals.refusal(candidate)
            if refusal is not None:
                answers[demand.key] = refusal
                continue
            if mine is not None and self._still_helps(snapshot, demand, mine):
                answers[demand.key] = Wait(str(Reason.WAITING_FOR_PREEMPTION), self._sentence(demand, mine), mine.raw)
                continue
            if mine is not None:
                taken -= {victim[0] for victim in mine.victims}
            if plans >= MOST_PLANS or self._hopeless.get(candidate.uid) == stamp or not self._may(candidate, result):
                continue
            if running is None:
                running = self._victims(snapshot)
            victims = self._askable(snapshot, demand, running, taken)
            if not victims:
                continue
            plans += 1
            found = plan_preemption(snapshot, demand, victims, waiting)
            if found is None or not (found.gangs or found.shrunk):
                self._hopeless[candidate.uid] = stamp
                continue
            nomination = self._nominate(candidate, found)
            taken |= {victim[0] for victim in nomination.victims}
            sentence = self._sentence(demand, nomination)
            waits = str(Reason.WAITING_FOR_PREEMPTION)
            answers[demand.key] = Wait(waits, sentence, nomination.raw, found.placement)
        return answers

    def prune(self, live: set[str]) -> None:
        """Remember nothing of jobs that are gone; `live`: uids of those that are there."""
        self._hopeless = {uid: stamp for uid, stamp in self._hopeless.items() if uid in live}

    def _entitled(
        self, snapshot: Snapshot, refused: Sequence[tuple[Candidate, Unplaceable, GangDemand]]
    ) -> dict[str, list[GangDemand]]:
        """Those that may take back what their namespaces are guaranteed, by namespace."""
        quotas = {quota.namespace for info in snapshot.pools for quota in info.quotas if quota.guarantees}
        found: dict[str, list[GangDemand]] = {}
        for candidate, result, demand in refused if quotas else ():
            if demand.namespace in quotas and self._may(candidate, result):
                found.setdefault(demand.namespace, []).append(demand)
        return found

    def _may(self, candidate: Candidate, result: Unplaceable) -> bool:
        """Whether a gang may ask others to give way."""
        priority = self._readings.priority(candidate.model)
        if isinstance(priority, Problem) or not priority.preempts:
            return False
        return result.code not in _HOPELESS and result.possible and not result.reserved_for

    def _still_helps(self, snapshot: Snapshot, demand: GangDemand, nomination: Nomination) -> bool:
        """Whether the gang can start when those victims that still hold something have gone."""
        work = Work(snapshot)
        waiting = False
        for key, uid, attempt, workers in nomination.victims:
            obj, holding = self._holder(key, uid, attempt), snapshot.holders.get(key)
            if obj is None or holding is None:
                continue
            namespace, _, name = key.partition("/")
            model = self._readings.read((namespace, name), obj).model
            if model is None or (self._priority(model) >= demand.priority and not self._owes(key, demand.key)):
                return False  # whoever wrote that down
            there = int(holding.workers.sum())
            if workers < there:
                waiting = True
                work.release(key, there - workers if workers else None)
        return waiting and isinstance(place_in(work, demand, closed=False), Placement)

    def _askable(
        self, snapshot: Snapshot, demand: GangDemand, running: Sequence[Victim], taken: Iterable[str]
    ) -> list[Victim]:
        """Those that could give way to a gang as far as priorities and pools go; who borrows, the plan finds out."""
        quotas = any(pool.quotas for name in demand.pools if (pool := snapshot.pool(name)) is not None)
        if not quotas and all(victim.priority >= demand.priority for victim in running):
            return []
        spared = set(taken)
        return [
            victim
            for victim in running
            if (quotas or victim.priority < demand.priority)
            and victim.key not in spared
            and set(snapshot.holders[victim.key].pools) & set(demand.pools)
        ]

    def _victims(self, snapshot: Snapshot) -> list[Victim]:
        """Every gang that runs and could be asked."""
        now = self._context.now()
        found = []
        for key in snapshot.holders:
            namespace, _, name = key.partition("/")
            obj = self._context.stores.jobs.get((namespace, name))
            if obj is None:
                continue
            status = obj.get("status") or {}
            model = self._readings.read((namespace, name), obj).model
            plan, state = disruption_of(status), state_of(status)
            if model is None or busy(plan) or "deletionTimestamp" in obj["metadata"]:
                continue
            # One that waits wounded for repair computes nothing.
            if state not in (State.STARTING, State.RUNNING) and (plan is None or state is not State.RESTARTING):
                continue
            facts = job_facts(obj, model, accepted=True)
            since = max(at for at in (facts.saved_at, facts.placed_at, facts.started, 0.0) if at is not None)
            lost = max(0.0, now - since) if since and facts.state is State.RUNNING else 0.0
            surplus, quantum = spare(sizes_of(model.spec), facts.workers)
            if (status.get("placement") or {}).get("stages"):
                surplus, quantum = 0, 1  # its last ranks are a pipeline stage
            found.append(Victim(key, self._priority(model), lost, surplus, quantum))
        return found

    def _nominate(self, candidate: Candidate, plan: Preemption) -> Nomination:
        victims = []
        for key, given in [*((key, 0) for key in plan.gangs), *plan.shrunk]:
            namespace, _, name = key.partition("/")
            obj = self._context.stores.jobs.get((namespace, name)) or {}
            placement = (obj.get("status") or {}).get("placement") or {}
            kept = worker_count(placement) - given if given else 0
            victims.append((key, str(obj["metadata"]["uid"]), attempt_of(obj.get("status") or {}), kept))
        raw: Json = {
            "since": timestamp(self._context.now()),
            "nodes": sorted(plan.placement.nodes),
            "victims": [
                entry(candidate.demand.key, key, uid=uid, attempt=attempt, workers=kept)
                for key, uid, attempt, kept in victims
            ],
        }
        demand = candidate.demand
        nodes = frozenset(plan.placement.nodes)
        return Nomination(demand.key, demand.priority, nodes, tuple(victims), raw, (), candidate.uid)

    def _sentence(self, demand: GangDemand, nomination: Nomination) -> str:
        """What it waits for, in numbers; the same as long as nothing changes."""
        named, devices, others, theirs = list[str](), 0, 0, 0
        for key, uid, attempt, workers in nomination.victims:
            obj = self._holder(key, uid, attempt)
            if obj is None:
                continue
            placed = workers_of(obj["status"]["placement"])
            gives = sum(len(worker.devices) for worker in placed[workers:])
            devices += gives
            if not discretion.is_own(demand.namespace, key):
                others, theirs = others + 1, theirs + gives
                continue
            what = f"{len(placed) - workers} of {len(placed)} workers of {key}" if workers else key
            named.append(f"{what} ({gives} devices)")
        count = len(named) + others
        if len(named) > LISTED:
            named[LISTED:] = [f"{len(named) - LISTED} more"]
        if others:
            named.append(f"{discretion.others(others)} ({theirs} devices)")
        if not named:
            return f"needs {_size(demand)}; those that gave way have stopped"
        return (
            f"needs {_size(demand)} ({demand.fewest * demand.devices}) with "
            f"priority {demand.priority}; {discretion.joined(named)} "
            f"{'gives' if count == 1 else 'give'} way for it, {devices} devices are still held by "
            f"{count} of {len(nomination.victims)} gang{'' if len(nomination.victims) == 1 else 's'}"
        )

    def _holder(self, key: str, uid: str, attempt: int) -> Json | None:
        """A victim as long as it holds what it was chosen for."""
        return holder(self._context.stores.jobs, key, uid, attempt)

    def _owes(self, key: str, other: str) -> bool:
        """Whether a gang's namespace holds more than it is guaranteed, in a pool where the other's has a guarantee."""
        snapshot = self._context.observer.snapshot()
        namespace, theirs, holding = key.partition("/")[0], other.partition("/")[0], snapshot.holders.get(key)
        for name in holding.pools if holding is not None and namespace != theirs else ():
            pool = snapshot.pool(name)
            if pool is None or not (pool.quota_of(theirs) or NO_QUOTA).guarantees:
                continue
            if (pool.quota_of(namespace) or NO_QUOTA).borrowed(snapshot.amount(name, namespace)) != Amount():
                return True
        return False

    def _borrows_from(self, key: str, other: str) -> bool:
        """Whether a gang would live on borrowed devices, while another one waits for what it is guaranteed."""
        here, there = key.partition("/")[0], other.partition("/")[0]
        return here != there and self._within(other) and not self._within(key)

    def _within(self, key: str) -> bool:
        """Whether a gang that waits stays within what its namespace is guaranteed, in one of its pools."""
        namespace, _, name = key.partition("/")
        obj = self._context.stores.jobs.get((namespace, name))
        model = self._readings.read((namespace, name), obj).model if obj is not None else None
        if model is None:
            return False
        snapshot = self._context.observer.snapshot()
        needed = model.spec.min_count * model.spec.accelerators_per_worker
        for pool in model.spec.pools:
            info = snapshot.pool(pool)
            quota = info.quota_of(namespace) if info is not None else None
            if quota is not None and quota.guaranteed >= snapshot.held(pool, namespace) + needed:
                return True
        return False

    def _priority(self, model: object) -> int:
        priority = self._readings.priority(model)  # type: ignore[arg-type]
        return 0 if isinstance(priority, Problem) else priority.value


def busy(plan: Disruption | None) -> bool:
    """Whether something is done to a gang already that it can't be asked beside; waiting for repair is not."""
    return plan is not None and (plan.kind is not DisruptionKind.REPAIR or bool(plan.replacing))


def spare(sizes: Sequence[int], workers: int) -> tuple[int, int]:
    """(workers that a gang can do without, the multiples in which they go), by the sizes that it may have."""
    steps = [workers - size for size in sizes if size < workers]
    if not steps:
        return 0, 1
    even = steps == [steps[0] * count for count in range(1, len(steps) + 1)]
    # Sizes at uneven distances: all that can go, or none.
    return steps[-1], steps[0] if even else steps[-1]


def _size(demand: GangDemand) -> str:
    """`1 worker x 4 devices`."""
    return f"{demand.fewest} worker{'' if demand.fewest == 1 else 's'} x {demand.devices} devices"
