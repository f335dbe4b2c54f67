"""The server's only source of time: wall time for stamps and deadlines, so that tests can pass their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime


class Clock:
    """Wall time.

    Args:
        seconds: seconds since the epoch; `time.time` unless a test brings its own.
    """

    def __init__(self, seconds: Callable[[], float] = time.time) -> None:
        self.seconds = seconds

    def timestamp(self, ahead: float = 0) -> str:
        """Now (plus `ahead` seconds) as the API writes it: RFC 3339, whole seconds, UTC."""
        return datetime.fromtimestamp(self.seconds() + ahead, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def microtime(self) -> str:
        """Now with microseconds (leases, events)."""
        return datetime.fromtimestamp(self.seconds(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
