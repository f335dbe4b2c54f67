"""`status.nomination`: nodes kept for a waiting gang, who gives way there, and who moves elsewhere. Pure.

Flows in: status as JSON. Flows out: `Nomination`s. What is not readable is none.

A gang of another namespace stands there by its uid alone, without its name, and so does on whose behalf something is
done to a gang (`status.disruption.by`): whoever may read a job learns nothing about jobs elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from supernode.cluster.assignment import worker_count
from supernode.cluster.cache import Store
from supernode.cluster.kinds import Json
from supernode.handlers.facts import state_of
from supernode.scheduling import discretion


@dataclass(frozen=True, slots=True)
class Move:
    """A gang that is to move, in this very attempt, and the nodes that it goes to."""

    key: str
    uid: str
    attempt: int
    nodes: tuple[str, ...]

    def names(self, key: str, uid: str, attempt: int) -> bool:
        """Whether this gang, in this attempt, is meant."""
        return (self.key, self.uid, self.attempt) == (key, uid, attempt)


@dataclass(frozen=True, slots=True)
class Nomination:
    """Nodes kept for a waiting gang; who gives way: (key, uid, attempt, workers kept); and who moves."""

    key: str
    priority: int
    nodes: frozenset[str]
    victims: tuple[tuple[str, str, int, int], ...]
    raw: Json
    moves: tuple[Move, ...] = ()
    uid: str = ""

    def names(self, key: str, uid: str, attempt: int) -> bool:
        """Whether a gang, in this very attempt, is to give way."""
        return any(victim[:3] == (key, uid, attempt) for victim in self.victims)

    def told(self, key: str) -> str:
        """The gang that waits, as the status of another one may tell it: by name in one namespace, else by uid."""
        return self.key if discretion.is_own(key.partition("/")[0], self.key) else self.uid


def nomination_of(key: str, priority: int, obj: Json, jobs: Store) -> Nomination | None:
    """The nomination in a job's status; None if there is none that can be read.

    Args:
        key: namespace and name of the job.
        priority: its priority.
        obj: the job.
        jobs: all jobs, to find those that are told by uid.
    """
    raw = (obj.get("status") or {}).get("nomination") or {}
    try:
        victims = tuple(
            (_key(v, jobs), str(v["uid"]), int(v.get("attempt") or 0), int(v.get("workers") or 0))
            for v in raw.get("victims") or ()
        )
        moves = tuple(
            Move(_key(m, jobs), str(m["uid"]), int(m.get("attempt") or 0), tuple(map(str, m.get("nodes") or ())))
            for m in raw.get("moves") or ()
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    if not victims and not moves:
        return None
    nodes, uid = frozenset(map(str, raw.get("nodes") or ())), str((obj.get("metadata") or {}).get("uid") or "")
    return Nomination(key, priority, nodes, victims, raw, moves, uid)


def entry(waiting: str, key: str, **rest: object) -> Json:
    """A gang that gives way or moves, as it stands in the nomination of the gang that waits."""
    return {"key": key if discretion.is_own(waiting.partition("/")[0], key) else "", **rest}


def cause_of(nominations: Mapping[str, Nomination], by: str) -> Nomination | None:
    """The nomination on whose behalf something is done, as `status.disruption.by` tells it."""
    found = nominations.get(by)
    return found or next((each for each in nominations.values() if by and each.uid == by), None)


def key_of(jobs: Store, uid: str) -> str:
    """Namespace and name of the job with that uid; empty if there is none."""
    found = (f"{key[0]}/{key[1]}" for key, obj in jobs.objects().items() if obj["metadata"]["uid"] == uid)
    return next(found, "") if uid else ""


def _key(given: Json, jobs: Store) -> str:
    return str(given.get("key") or "") or key_of(jobs, str(given["uid"]))


def attempt_of(status: Json) -> int:
    """The attempt that a place was given for; 0 without one."""
    attempt = (status.get("placement") or {}).get("attempt")
    return attempt if isinstance(attempt, int) else 0


def holder(jobs: Store, key: str, uid: str, attempt: int) -> Json | None:
    """A job as long as it holds the place that it was chosen for."""
    namespace, _, name = key.partition("/")
    obj = jobs.get((namespace, name))
    if obj is None or obj["metadata"]["uid"] != uid:
        return None
    status = obj.get("status") or {}
    if state_of(status).finished or not worker_count(status.get("placement") or {}):
        return None
    return obj if attempt_of(status) == attempt else None
