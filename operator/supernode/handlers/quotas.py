"""Quotas in effective compute, and what a gang that waits is told about quotas.

Flows in: quotas of pools, running gangs with what their places promised, and gangs that wait. Flows out: which pools
are closed to a gang for now, whether a place may be taken, and words: whose turn it is, and who borrows.

A gang counts with the useful FLOP/s that its place promised when it got it (model FLOPs of a step over the predicted
step time); one whose step can't be predicted counts with the peak of its devices in bf16, so that leaving the model out
gains nothing. The check is made on the place that was chosen, before it is written; what a gang would have taken is
remembered, so that the next cycle does not choose that pool for it again until there is room in the quota.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from supernode.api.job import TrainingJob
from supernode.cluster.kinds import Json
from supernode.cluster.translate import model_shape
from supernode.errors import InputError
from supernode.handlers.context import Context
from supernode.handlers.effective import TERA
from supernode.handlers.jobstatus import Wait
from supernode.handlers.progress import utilisation
from supernode.handlers.reading import Readings
from supernode.handlers.waiting import Candidate
from supernode.scheduling.demand import GangDemand
from supernode.scheduling.snapshot import Snapshot
from supernode.scheduling.unplaceable import Reason

# Formats by whose peak a gang counts that does not say what it computes in, the first that the chip has.
_FORMATS: Final = ("bf16", "f16", "f32")
# Namespaces that a sentence names.
LISTED: Final = 3


class ComputeQuotas:
    """The quotas in TFLOPS.

    Args:
        context: what handlers share.
        readings: reads jobs.
    """

    def __init__(self, context: Context, readings: Readings) -> None:
        self._context = context
        self._readings = readings
        # (uid, generation of the job) -> pool -> TFLOPS that it would have taken there.
        self._known: dict[tuple[str, int], dict[str, float]] = {}
        self._refused = False

    def prune(self, live: set[str]) -> None:
        """Remember nothing of jobs that are gone; `live`: uids of those that are there."""
        self._known = {key: value for key, value in self._known.items() if key[0] in live}

    def limits(self) -> dict[tuple[str, str], float]:
        """(pool, namespace) -> TFLOPS that it may use at most."""
        pools = self._context.observer.view.pools
        return {
            (name, quota.namespace): quota.limit_tflops
            for name, pool in pools.items()
            for quota in pool.spec.quotas
            if quota.limit_tflops is not None
        }

    def held(self, snapshot: Snapshot) -> dict[tuple[str, str], float]:
        """(pool, namespace) -> TFLOPS that its gangs' places promised; of those with a limit."""
        limits = self.limits()
        found = dict.fromkeys(limits, 0.0)
        for key in snapshot.holders if limits else ():
            namespace, _, name = key.partition("/")
            obj = self._context.stores.jobs.get((namespace, name))
            placement = ((obj or {}).get("status") or {}).get("placement") or {}
            model = self._readings.read((namespace, name), obj).model if obj is not None else None
            for pool, tflops in promised(self._context, model, placement).items():
                if (pool, namespace) in found:
                    found[pool, namespace] += tflops
        return found

    def narrowed(
        self, candidate: Candidate, demand: GangDemand, held: Mapping[tuple[str, str], float]
    ) -> GangDemand | Wait:
        """The demand without pools in which it is known to exceed its namespace's quota; or why none is left."""
        limits = self.limits()
        known = dict(self._known.get((candidate.uid, candidate.generation)) or {})
        if limits and model_shape(candidate.model.spec) is None:
            # What it counts with does not depend on its place: known before there is one.
            count = demand.fewest * demand.devices
            for name in demand.pools:
                worker = {"pool": name, "devices": range(count)}
                known.update(promised(self._context, candidate.model, {"workers": [worker]}))
        if not known:
            return demand
        shut = {
            pool
            for pool, tflops in known.items()
            if (limit := limits.get((pool, demand.namespace))) is not None
            and tflops + held.get((pool, demand.namespace), 0.0) > limit
        }
        if not shut & set(demand.pools):
            return demand
        left = tuple(name for name in demand.pools if name not in shut)
        if left and demand.mix == "None":
            masks = {name: demand.eligible[name] for name in left if name in demand.eligible}
            return demand.with_eligible(masks, pools=left)
        pool = next(name for name in demand.pools if name in shut)
        return self._wait(pool, demand.namespace, known[pool], held, limits)

    def refusal(
        self, candidate: Candidate, demand: GangDemand, placement: Json, held: dict[tuple[str, str], float]
    ) -> Wait | None:
        """Why this place may not be taken; None if it may, and then it counts in `held`."""
        limits = self.limits()
        wanted = promised(self._context, candidate.model, placement) if limits else {}
        for pool, tflops in wanted.items():
            limit = limits.get((pool, demand.namespace))
            if limit is not None and held.get((pool, demand.namespace), 0.0) + tflops > limit:
                self._known.setdefault((candidate.uid, candidate.generation), {})[pool] = tflops
                self._refused = True
                return self._wait(pool, demand.namespace, tflops, held, limits)
        for pool, tflops in wanted.items():
            if (pool, demand.namespace) in held:
                held[pool, demand.namespace] += tflops
        return None

    def grows_past(self, obj: Json, workers: int, held: Mapping[tuple[str, str], float]) -> bool:
        """Whether a running gang with so many workers would exceed its namespace's quota."""
        namespace, name = str(obj["metadata"].get("namespace", "")), str(obj["metadata"]["name"])
        placement = (obj.get("status") or {}).get("placement") or {}
        now = max(1, len(placement.get("workers") or []))
        limits = self.limits()
        more = promised(self._context, self._readings.read((namespace, name), obj).model, placement) if limits else {}
        return any(
            (limit := limits.get((pool, namespace))) is not None
            and held.get((pool, namespace), 0.0) + tflops * (workers / now - 1) > limit
            for pool, tflops in more.items()
        )

    def take_refused(self) -> bool:
        """Whether a place was refused since this was asked last: what it would have taken is free for others."""
        refused, self._refused = self._refused, False
        return refused

    def _wait(
        self,
        pool: str,
        namespace: str,
        tflops: float,
        held: Mapping[tuple[str, str], float],
        limits: Mapping[tuple[str, str], float],
    ) -> Wait:
        limit, used = limits[pool, namespace], held.get((pool, namespace), 0.0)
        text = (
            f"its place in pool {pool} promises {tflops:.4g} TFLOPS, namespace {namespace} uses {used:.4g} of at most "
            f"{limit:.4g} there"
        )
        if tflops > limit:
            return Wait(str(Reason.EXCEEDS_MAX_QUOTA), f"{text}; ask for less, or have limitTFLOPS of the quota raised")
        return Wait(str(Reason.WAITING_FOR_QUOTA), f"{text}; it starts when gangs of the namespace have ended")


def in_turn(over: Sequence[tuple[Candidate, Wait]]) -> list[tuple[Candidate, Wait]]:
    """The answers to gangs that wait for a quota, each with whose turn it is in its namespace."""
    queue = [candidate.demand for candidate, wait in over if wait.code == Reason.WAITING_FOR_QUOTA]
    queue.sort(key=lambda demand: (-demand.priority, demand.created, demand.key))
    found = []
    for candidate, wait in over:
        if wait.code == Reason.WAITING_FOR_QUOTA:
            wait = replace(wait, sentence=f"{wait.sentence}; {_turn(candidate.demand, queue, own=True)}")
        found.append((candidate, wait))
    return found


def _turn(demand: GangDemand, queue: Sequence[GangDemand], *, own: bool) -> str:
    """Whose turn it is among the gangs that wait for the same pools; `own`: of the same namespace alone."""
    alike = [each for each in queue if set(each.pools) & set(demand.pools)]
    alike = [each for each in alike if not own or each.namespace == demand.namespace]
    place = next((index for index, each in enumerate(alike) if each.key == demand.key), 0)
    whose = "it is the next" if place == 0 else f"before it it is the turn of {alike[0].key}"
    return f"{whose}, place {place + 1} of {max(1, len(alike))} in the queue"


def promised(context: Context, model: TrainingJob | None, placement: Json) -> dict[str, float]:
    """TFLOPS of a gang by pool, as its place promises; of several pools by their devices' share of the peak."""
    shape = model_shape(model.spec) if model is not None else None
    peaks: dict[str, float] = {}
    for worker in placement.get("workers") or []:
        name = worker.get("pool") or placement.get("pool") or ""
        spec = context.observer.view.specs.get(name)
        for dtype in (shape.dtype,) if shape is not None else _FORMATS:
            try:
                peak = spec.chip.peak_flops(dtype) if spec is not None else 0.0
            except InputError:
                continue
            peaks[name] = peaks.get(name, 0.0) + peak * len(worker.get("devices") or [])
            break
    seconds = placement.get("predictedStepSeconds")
    share = None
    if model is not None and isinstance(seconds, int | float) and seconds > 0:
        share = utilisation(model, float(seconds), context.observer, placement)
    return {name: peak / TERA * (1.0 if share is None else share) for name, peak in peaks.items()}


def quota_words(snapshot: Snapshot, demand: GangDemand, code: str, queue: Sequence[GangDemand]) -> str:
    """Whose turn it is and who borrows, as the end of a sentence; empty where quotas play no part.

    Args:
        snapshot: the cluster.
        demand: of the gang that waits.
        code: why it waits.
        queue: all gangs that wait, in their order.
    """
    parts = []
    for name in demand.pools:
        pool = snapshot.pool(name)
        if pool is None or not pool.quotas:
            continue
        mine = pool.quota_of(demand.namespace)
        guaranteed = mine.guaranteed if mine is not None else 0
        held = snapshot.held(name, demand.namespace)
        waits_for_own = held + demand.fewest * demand.devices <= guaranteed
        if code != Reason.WAITING_FOR_QUOTA and not waits_for_own:
            continue
        if guaranteed:
            parts.append(f"in pool {name} its namespace holds {held} of {guaranteed} guaranteed")
        borrowed = _borrowers(snapshot, name, demand.namespace if waits_for_own else "")
        if borrowed:
            parts.append(f"{borrowed} in pool {name}")
    if parts or code == Reason.WAITING_FOR_QUOTA:
        parts.append(_turn(demand, queue, own=code == Reason.WAITING_FOR_QUOTA))
    return f"; {', '.join(parts)}" if parts else ""


def _borrowers(snapshot: Snapshot, name: str, but: str) -> str:
    """Namespaces that hold more of a pool than they are guaranteed."""
    pool = snapshot.pool(name)
    if pool is None:
        return ""
    found = []
    for namespace in sorted({key.partition("/")[0] for key, h in snapshot.holders.items() if name in h.pools}):
        quota = pool.quota_of(namespace)
        over = snapshot.held(name, namespace) - (quota.guaranteed if quota is not None else 0)
        if over > 0 and namespace != but and not namespace.startswith("pod "):
            found.append((over, namespace))
    found.sort(key=lambda each: (-each[0], each[1]))
    named = [f"{namespace} borrows {over}" for over, namespace in found[:LISTED]]
    more = f" and {len(found) - LISTED} more namespaces borrow" if len(found) > LISTED else ""
    return f"{', '.join(named)}{more}"
