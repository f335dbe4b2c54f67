"""What may be told of a job a little later: how many of its pods are there, while it starts.

Flows in: keys of jobs of which nothing but a count is new, and that pods are being made. Flows out: when it is told.
A write of a status costs an API server as much as several pods: gangs get theirs first. Nothing is decided by counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from supernode.cluster.cache import Key
from supernode.handlers.life import Decision, JobFacts, State

# Seconds that changes of counts are gathered.
GATHERED: Final = 1.0
# Seconds without a new pod or place that count as calm.
CALM: Final = 1.0
# Longest that a count is kept back, however much is going on.
LONGEST: Final = 10.0


class Later:
    """Keeps counts back while there is something more urgent.

    Args:
        now: seconds since the epoch.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._since: dict[Key, float] = {}
        self._calm_at = 0.0

    def busy(self) -> None:
        """A gang got its place or its pods just now."""
        self._calm_at = self._now() + CALM

    def until(self, key: Key) -> float | None:
        """When the counts of this job may be told; None if that is now."""
        now = self._now()
        since = min(self._since.get(key, now), now)  # a clock that is put back makes nobody wait longer
        ready = min(max(since + GATHERED, self._calm_at), since + LONGEST)
        if now >= ready:
            self.told(key)
            return None
        self._since[key] = since
        return ready

    def told(self, key: Key) -> None:
        """Its status is written, or it is gone."""
        self._since.pop(key, None)


def only_counts(status: dict[str, object], facts: JobFacts, decision: Decision) -> bool:
    """Whether nothing but how many pods are there, or run, is new of a gang that starts, and nothing is to be done.

    Args:
        status: as it is written.
        facts: what is known of the job.
        decision: what was decided.
    """
    same = (decision.state, decision.attempt, decision.restarts, decision.started, decision.disruption)
    now = (facts.state, facts.attempt, facts.restarts, facts.started, facts.disruption)
    todo = decision.create or decision.delete or decision.ask or decision.unask or decision.release
    return (
        same == now
        and decision.state is State.STARTING
        and decision.reason == "WaitingForPods"
        and (decision.requeues, decision.retry_at) == (facts.requeues, facts.retry_at)
        and facts.accepted
        and not facts.deleting
        and not todo
        and bool(status.get("placement"))
    )
