"""Faults on demand: what a client of a real, busy API server has to live with, from a seed.

A `Faults` value is given to the server by name; without one nothing is ever injected. The same seed and the same
order of requests give the same faults.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

from supernode.local.server import statuses
from supernode.local.server.statuses import StatusError

_WRITES: Final = frozenset({"update", "patch"})


@dataclass
class Faults:
    """Probabilities from 0 to 1 per request, unless said otherwise.

    Args:
        seed: of the random choice.
        conflict: 409 on update and patch, nothing written.
        throttle: 429 with `retry_after` seconds.
        error: 500, nothing written.
        lost_answer: the write is done, but the client gets 500.
        timeout: no answer until `timeout_seconds`, then 504; nothing written.
        drop_watch: a watch that ends after `drop_after` seconds at most.
        expire_watch: a watch that starts with 410.
        latency: at most so many seconds before each answer.
        delay_event: at most so many seconds before events are handed to a watch.
        exempt: user agents (prefixes) that are never disturbed, such as a test's own client.
    """

    seed: int = 0
    conflict: float = 0.0
    throttle: float = 0.0
    error: float = 0.0
    lost_answer: float = 0.0
    timeout: float = 0.0
    drop_watch: float = 0.0
    expire_watch: float = 0.0
    latency: float = 0.0
    delay_event: float = 0.0
    retry_after: int = 1
    timeout_seconds: float = 1.0
    drop_after: float = 1.0
    exempt: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def spares(self, agent: str) -> bool:
        """Whether a user agent is never disturbed."""
        return any(agent.startswith(each) for each in self.exempt)

    def _strikes(self, name: str, chance: float) -> bool:
        hit = chance > 0 and self._random.random() < chance
        if hit:
            self.counts[name] = self.counts.get(name, 0) + 1
        return hit

    def refusal(self, verb: str) -> StatusError | None:
        """What the request is refused with before it is looked at, if anything."""
        if verb in _WRITES and self._strikes("conflict", self.conflict):
            return statuses.StatusError(
                409, "Conflict", "Operation cannot be fulfilled: the object has been modified (injected)", {}
            )
        if self._strikes("throttle", self.throttle):
            return statuses.too_many_requests("too many requests, please try again later (injected)", self.retry_after)
        if self._strikes("error", self.error):
            return statuses.internal("injected")
        return None

    def times_out(self) -> bool:
        """Whether the request hangs and fails."""
        return self._strikes("timeout", self.timeout)

    def loses_answer(self, verb: str) -> bool:
        """Whether the answer to a write that was done is lost."""
        return verb not in ("get", "list", "watch") and self._strikes("lost_answer", self.lost_answer)

    def delay(self) -> float:
        """Seconds to wait before the request is looked at."""
        return self._random.uniform(0, self.latency) if self.latency else 0.0

    def event_delay(self) -> float:
        """Seconds to hold back a watch's next events."""
        return self._random.uniform(0, self.delay_event) if self.delay_event else 0.0

    def watch_lifetime(self) -> float | None:
        """Seconds after which a watch is dropped, or None."""
        if not self._strikes("drop_watch", self.drop_watch):
            return None
        return self._random.uniform(0, self.drop_after)

    def expires(self) -> bool:
        """Whether a watch starts with 410."""
        return self._strikes("expire_watch", self.expire_watch)
