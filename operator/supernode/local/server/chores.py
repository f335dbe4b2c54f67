"""What the control plane does by itself: garbage, namespaces, default service accounts, CRDs.

Changes of the store put keys into a queue; the queue is worked off between requests, a bounded batch at a time, so
that a client sees the steps as it would on a real cluster (an object that is still there with its finalizer).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from supernode.local.server.statuses import StatusError

_BATCH: Final = 200
_LOG = logging.getLogger(__name__)

Chore = Callable[[], None]


class Chores:
    """A queue of small pieces of work, each at most once."""

    def __init__(self) -> None:
        self._queue: deque[tuple[object, Chore]] = deque()
        self._waiting: set[object] = set()
        self._scheduled = False
        self._stopped = False

    def add(self, key: object, chore: Chore) -> None:
        """Do `chore` soon, unless one with the same key is waiting."""
        if key in self._waiting or self._stopped:
            return
        self._waiting.add(key)
        self._queue.append((key, chore))
        self._schedule()

    def _schedule(self) -> None:
        if self._scheduled:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # no loop: whoever drives the server calls run()
        self._scheduled = True
        loop.call_soon(self._tick)

    def _tick(self) -> None:
        self._scheduled = False
        self.run(_BATCH)
        if self._queue and not self._stopped:
            self._schedule()

    def run(self, most: int | None = None) -> None:
        """Work off the queue, or its first `most` pieces."""
        done = 0
        while self._queue and not self._stopped and (most is None or done < most):
            key, chore = self._queue.popleft()
            self._waiting.discard(key)
            done += 1
            try:
                chore()
            except StatusError as exc:
                # The object changed meanwhile; its next change brings the chore back.
                _LOG.debug("chore %s: %s", key, exc)
            except Exception:
                # The other chores must still be done; nobody waits for this one who could be told.
                _LOG.exception("chore %s", key)

    def stop(self) -> None:
        """Drop what is waiting."""
        self._stopped = True
        self._queue.clear()
