"""`status.nomination`: nodes kept for a waiting gang, who gives way there, and who moves elsewhere. Pure.

Flows in: status as JSON. Flows out: `Nomination`s. What is not readable is none.
"""

from __future__ import annotations

from dataclasses import dataclass

from supernode.cluster.cache import Store
from supernode.cluster.kinds import Json
from supernode.handlers.facts import state_of


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

    def names(self, key: str, uid: str, attempt: int) -> bool:
        """Whether a gang, in this very attempt, is to give way."""
        return any(victim[:3] == (key, uid, attempt) for victim in self.victims)


def nomination_of(key: str, priority: int, status: Json) -> Nomination | None:
    """The nomination in a job's status; None if there is none that can be read."""
    raw = status.get("nomination") or {}
    try:
        victims = tuple(
            (str(v["key"]), str(v["uid"]), int(v.get("attempt") or 0), int(v.get("workers") or 0))
            for v in raw.get("victims") or ()
        )
        moves = tuple(
            Move(str(m["key"]), str(m["uid"]), int(m.get("attempt") or 0), tuple(map(str, m.get("nodes") or ())))
            for m in raw.get("moves") or ()
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    if not victims and not moves:
        return None
    return Nomination(key, priority, frozenset(map(str, raw.get("nodes") or ())), victims, raw, moves)


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
    if state_of(status).finished or not (status.get("placement") or {}).get("workers"):
        return None
    return obj if attempt_of(status) == attempt else None
