"""What share of a job's time was productive, and what the rest went into. Pure.

Flows in: a job's status before and after a change, and the time. Flows out: `status.goodput`. The sums are in the
status itself, so they outlive any operator; time is counted from one change of the status to the next, by the state
that the job had meanwhile, so a status in which nothing changes is not written again.

Goodput is the share of the time since the job's creation, without that in which it was suspended, in which steps were
computed for the first time. Waiting, starting and recomputation are outside of it. Stragglers and communication make
steps longer: they are told as well, but not taken off, because the MFU has them already. So goodput times MFU counts
nothing twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from supernode.api.conditions import seconds_of, timestamp
from supernode.cluster.kinds import Json
from supernode.handlers.life import State

# Causes of lost time, as people read them, and their fields; `INSIDE`: those that are in the MFU already.
CAUSES: Final = {
    "waiting": "waitingSeconds",
    "starting": "startingSeconds",
    "recomputation": "recomputationSeconds",
    "stragglers": "stragglerSeconds",
    "communication": "communicationSeconds",
}
INSIDE: Final = ("stragglers", "communication")

_FIELD: Final = {
    State.PENDING: "waitingSeconds",
    State.WAITING: "waitingSeconds",
    State.STARTING: "startingSeconds",
    State.RESTARTING: "startingSeconds",
    State.SUSPENDED: "suspendedSeconds",
    State.RUNNING: "runningSeconds",
}


@dataclass(frozen=True, slots=True)
class Inside:
    """Shares of a step's time, 0 to 1, that went into waiting for slow ranks, and into communication."""

    stragglers: float = 0.0
    communication: float = 0.0


def accounted(before: Json, after: Json, created: str | None, inside: Inside, now: float) -> Json | None:
    """`status.goodput` at a change of the status; None as long as there is nothing to count.

    Args:
        before: the status as the API has it.
        after: the status that is about to be written.
        created: of the job, when there is no count yet.
        inside: what slowed the steps down meanwhile.
        now: seconds since the epoch.
    """
    known: Json = dict(before.get("goodput") or {})
    state = _state(before)
    start = known.get("measuredAt") or created
    if start is None or state is None or state.finished:
        return known or None
    try:
        # Whole seconds from stamp to stamp: nothing is lost between two of them.
        elapsed = max(0, int(now) - int(seconds_of(start)))
    except ValueError:
        return known or None
    old, new = _step(before), _step(after)
    if state is State.RUNNING and old is None and new is not None:
        state = State.STARTING  # until the first report of an attempt its program was being loaded
    _add(known, _FIELD[state], elapsed)
    if state is State.RUNNING:
        again = _again(known, old, new)
        _add(known, "recomputationSeconds", elapsed * again)
        _add(known, "stragglerSeconds", elapsed * (1 - again) * _share(inside.stragglers))
        _add(known, "communicationSeconds", elapsed * (1 - again) * _share(inside.communication))
    if old is not None and new is None:
        known["redoneUntilStep"] = max(old, int(known.get("redoneUntilStep") or 0))
    known["measuredAt"] = timestamp(max(now, seconds_of(start)))
    known["share"] = share_of(known)
    return {name: value for name, value in known.items() if value is not None}


def counted_until(status: Json, created: str | None, now: float) -> Json:
    """What `status.goodput` would be if it were written now; empty as long as there is nothing to count.

    A job in whose status nothing changes is not written, perhaps for days: what is shown of it is reckoned by the state
    that it has. Of steps since the last report it isn't known what slowed them down.
    """
    return accounted(status, status, created, Inside(), now) or {}


def share_of(counted: Json) -> float | None:
    """The productive share by the sums of `status.goodput`; None while they are all 0."""
    whole = sum(_number(counted, name) for name in ("waitingSeconds", "startingSeconds", "runningSeconds"))
    if whole <= 0:
        return None
    good = max(0.0, _number(counted, "runningSeconds") - _number(counted, "recomputationSeconds"))
    return float(f"{good / whole:.4g}")


def losses_of(counted: Json) -> dict[str, float]:
    """Share of the same time that each cause took, 0 to 1."""
    whole = sum(_number(counted, name) for name in ("waitingSeconds", "startingSeconds", "runningSeconds"))
    return {cause: _number(counted, field) / whole if whole > 0 else 0.0 for cause, field in CAUSES.items()}


def _again(counted: Json, old: int | None, new: int | None) -> float:
    """The share of the steps between two reports that an earlier attempt had computed already."""
    until = int(_number(counted, "redoneUntilStep"))
    if old is None or new is None or new <= old:
        return 1.0 if new is not None and new < until else 0.0
    return (min(new, until) - min(old, until)) / (new - old)


def _add(counted: Json, name: str, seconds: float) -> None:
    value = round(_number(counted, name) + seconds, 3)
    if value:
        counted[name] = value


def _number(counted: Json, name: str) -> float:
    value: Any = counted.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else 0


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))


def _step(status: Json) -> int | None:
    step = (status.get("progress") or {}).get("step")
    return step if isinstance(step, int) and not isinstance(step, bool) else None


def _state(status: Json) -> State | None:
    try:
        return State(status.get("state") or "Pending")
    except ValueError:
        return None
