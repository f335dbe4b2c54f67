"""What has happened in a schedule, counted by kind, so that nobody takes quiet schedules for hard ones.

In: one note for each thing that happened. Out: a table, and the names of what has never happened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

# What is injected, what users do, and what the operator must have had occasion to do.
INJECTED = (
    "409 conflict",
    "429 too many requests",
    "500 nothing done",
    "500 but done",
    "504 timeout",
    "done, no answer",
    "arrives late",
    "410 watch start",
    "410 watch midway",
    "410 list's next page",
    "watch dropped",
    "events delayed",
    "cache stale for long",
    "event twice",
    "events reordered",
    "killed",
    "killed at an await",
    "killed before a write",
    "killed after a write",
    "create outlives its sender",
    "stopped in order",
    "cut off",
    "clock jumped",
    "lease changed hands",
    "node not ready",
    "node tainted",
    "node cordoned",
    "node deleted",
    "device unhealthy",
    "pod failed",
    "pods refused by admission",
)
USERS = (
    "job made",
    "job deleted",
    "job suspended",
    "job resumed",
    "job scaled",
    "priority changed",
    "pod deleted",
    "moves asked for",
    "delete before a write",
    "delete after a write",
    "suspend before a write",
    "suspend after a write",
    "scale before a write",
    "scale after a write",
)
CARRIED_OUT = (
    "gang placed",
    "gang restarted",
    "preemption",
    "quota reclaimed",
    "shrunk for others",
    "started small",
    "grown",
    "scaled",
    "repaired in place",
    "worker replaced alone",
    "held wounded",
    "released whole",
    "moved to make room",
    "stages over two pools",
    "waits for quota",
    "checkpoint saved",
    "suspended",
    "succeeded",
    "failed by policy",
    "gone by ttl",
)
# Consequences that are not in every 50 schedules.
RARE = ("stray pod arrives", "stray pod swept", "pod refused by node", "job comes under an old name")
GROUPS = {"injected": INJECTED, "users": USERS, "carried out": CARRIED_OUT, "rare": RARE}
_KNOWN = frozenset(name for names in GROUPS.values() for name in names)
# From so many schedules on each of them must have happened: what is seen once in 60 is not to be missed by bad luck.
ENOUGH = {"injected": 50, "users": 50, "carried out": 500, "rare": 500}


class Ledger(Counter[str]):
    """Counts by name."""

    def note(self, name: str, times: int = 1) -> None:
        """It has happened.

        Raises:
            KeyError: a name that is not in the lists.
        """
        if name not in _KNOWN:
            raise KeyError(name)
        self[name] += times


def missing(ledger: Counter[str], schedules: int) -> list[str]:
    """What has not happened once, though it should have in so many schedules."""
    asked = [group for group, count in ENOUGH.items() if schedules >= count]
    return [name for group in asked for name in GROUPS[group] if not ledger[name]]


def table(ledger: Counter[str]) -> Iterable[str]:
    """Lines with all counts, three columns to a line."""
    for group, names in GROUPS.items():
        yield f"{group}:"
        cells = [f"{name:<27}{ledger[name]:>8,}" for name in names]
        for start in range(0, len(cells), 3):
            yield "  " + "   ".join(cells[start : start + 3])
