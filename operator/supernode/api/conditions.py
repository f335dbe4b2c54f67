"""Conditions: the words in which an object says how it stands, and how they change.

A condition's `lastTransitionTime` moves only when its `status` does. Times are passed in, RFC 3339 in UTC.
Writing them to the cluster is not here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, cast

from supernode.plaintext import plain

# Bound on text that comes from elsewhere (a pod's last words, say); the schema allows 32768 as Kubernetes does.
MESSAGE_LIMIT: Final = 1024


class ConditionType(StrEnum):
    """Types of condition. Jobs have all but `READY`; pools and groups have `ACCEPTED` and `READY`."""

    ACCEPTED = "Accepted"
    SCHEDULED = "Scheduled"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    RESTARTING = "Restarting"
    STRAGGLING = "Straggling"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    READY = "Ready"


@dataclasses.dataclass(frozen=True)
class Condition:
    """One condition, as it stands in `status.conditions`.

    Attributes:
        status: `True`, `False` or `Unknown`.
        reason: one CamelCase word for programs.
        message: one sentence for people.
        observed_generation: generation of the object that this was said about.
        last_transition_time: when `status` last changed.
    """

    type: str
    status: str
    reason: str
    message: str = ""
    observed_generation: int = 0
    last_transition_time: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The condition as Kubernetes writes it."""
        return {
            "type": str(self.type),
            "status": self.status,
            "observedGeneration": self.observed_generation,
            "lastTransitionTime": self.last_transition_time,
            "reason": self.reason,
            "message": self.message,
        }


def timestamp(seconds: float) -> str:
    """Seconds since 1970 as Kubernetes writes a time: whole seconds, UTC, `2026-01-02T03:04:05Z`."""
    # Not strftime: its %Y has fewer than four digits for early years on some systems.
    return datetime.fromtimestamp(int(seconds), UTC).replace(tzinfo=None).isoformat() + "Z"


def seconds_of(text: str) -> float:
    """The inverse of `timestamp`; accepts fractions of a second.

    Raises:
        ValueError: not such a time.
    """
    return datetime.fromisoformat(text).timestamp()


def find_condition(conditions: Iterable[Mapping[str, Any]], kind: str) -> Mapping[str, Any] | None:
    """The condition of that type, if it is there."""
    return next((condition for condition in conditions if condition.get("type") == kind), None)


def is_true(conditions: Iterable[Mapping[str, Any]], kind: str) -> bool:
    """Whether the condition of that type is there and `True`."""
    found = find_condition(conditions, kind)
    return found is not None and found.get("status") == "True"


def set_condition(conditions: Iterable[Mapping[str, Any]], wanted: Condition, *, now: str) -> list[dict[str, Any]]:
    """The conditions with `wanted` put in place of the one of its type, or at the end.

    `lastTransitionTime` is kept while `status` stays the same, else it is `now`. Nothing else changes and the input
    is left alone, so setting the same condition twice gives an equal list.
    """
    message = plain(wanted.message, MESSAGE_LIMIT)
    result: list[dict[str, Any]] = []
    placed = False
    for old in conditions:
        if old.get("type") != wanted.type:
            result.append(dict(old))
        elif not placed:
            since = old.get("lastTransitionTime") if old.get("status") == wanted.status else None
            result.append(_with(wanted, message, cast("str | None", since) or now))
            placed = True
    if not placed:
        result.append(_with(wanted, message, now))
    return result


def merge_conditions(
    conditions: Iterable[Mapping[str, Any]], wanted: Iterable[Condition], *, now: str
) -> list[dict[str, Any]]:
    """`set_condition` for each of `wanted`, in order."""
    result = [dict(condition) for condition in conditions]
    for condition in wanted:
        result = set_condition(result, condition, now=now)
    return result


def _with(wanted: Condition, message: str, since: str) -> dict[str, Any]:
    return dataclasses.replace(wanted, message=message, last_transition_time=since).as_dict()
