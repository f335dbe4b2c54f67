"""Which sidecars are asked next how far they are. Pure.

Flows in: running jobs with emulated devices, the store of pods. Flows out: `Target`s. Only pods that are asked are
looked at: with thousands of them the choice must cost no more than the questions.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from supernode.cluster import pods
from supernode.cluster.assignment import worker_count
from supernode.cluster.cache import Key, Store
from supernode.cluster.kinds import Json
from supernode.cluster.manifests import pod_name
from supernode.scheduling.state import PoolSpec

# Ranks beside rank 0 that are asked at a time: of one job, and of all together.
RANKS_AT_A_TIME: Final = 8
RANKS_OF_ALL: Final = 128


class Target(NamedTuple):
    """A sidecar that is asked."""

    job: Key
    uid: str
    attempt: int
    rank: int
    address: str


class Gang(NamedTuple):
    """A running gang with emulated devices."""

    job: Key
    uid: str
    attempt: int
    workers: int


def gang_of(key: Key, obj: Json, specs: Mapping[str, PoolSpec]) -> Gang | None:
    """The gang of a job that runs; None where nobody is to be asked."""
    status = obj.get("status") or {}
    placement = status.get("placement") or {}
    workers = worker_count(placement)
    if status.get("state") != "Running" or not workers:
        return None
    # Rank 0 tells; of a gang over several pools its own one counts.
    spec = specs.get(str(placement["assignment"][0].get("pool") or placement.get("pool") or ""))
    if spec is None or not spec.emulated:
        return None
    return Gang(key, obj["metadata"]["uid"], placement.get("attempt", 0), workers)


def targets(gangs: Sequence[Gang], store: Store, turn: int) -> list[Target]:
    """Rank 0 of every gang, and some of the others; in the next turn others of them."""
    asked = [(gang, 0) for gang in gangs]
    some = [(gang, rank) for gang in gangs for rank in in_turn(range(1, gang.workers), turn, RANKS_AT_A_TIME)]
    if len(some) > RANKS_OF_ALL:
        # All ranks but the first of all gangs, counted through.
        ends = list(accumulate(gang.workers - 1 for gang in gangs))
        places = in_turn(range(ends[-1]), turn, RANKS_OF_ALL)
        some = []
        for place in places:
            at = bisect_right(ends, place)
            some.append((gangs[at], place - ends[at] + gangs[at].workers))
    found = (_target(gang, rank, store) for gang, rank in asked + some)
    return [target for target in found if target is not None]


def in_turn(members: Sequence[int], turn: int, most: int) -> list[int]:
    """At most so many, others in the next turn, so that all have had their turn after a while."""
    if len(members) <= most:
        return list(members)
    start = turn * most % len(members)
    return [members[(start + index) % len(members)] for index in range(most)]


def _target(gang: Gang, rank: int, store: Store) -> Target | None:
    namespace, name = gang.job
    pod = store.get((namespace, pod_name(name, rank)))
    if pod is None or pods.attempt_of(pod) != gang.attempt or pods.job_uid(pod) != gang.uid:
        return None
    address = pods.address_of(pod)
    return Target(gang.job, gang.uid, gang.attempt, rank, address) if address else None
