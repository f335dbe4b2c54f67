"""An event loop in which time is a number: it jumps to the next timer instead of waiting, so hours take seconds.

With the same code and the same random numbers everything happens in the same order: a run can be played again.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any


class _Skipping(selectors.SelectSelector):
    """Waits for nothing: whoever would sleep finds the time gone by."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everything waits, and nothing will ever happen")
        self.loop.seconds += max(0.0, timeout)
        self.loop.turned()
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """`seconds`: the time, from 0. `turns`: how often whoever could go on has gone on to his next await."""

    def __init__(self) -> None:
        self.seconds, self.turns = 0.0, 0
        self._at: dict[int, list[Callable[[], None]]] = {}
        selector = _Skipping()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.seconds

    def in_turns(self, turns: int, call: Callable[[], None]) -> None:
        """Call it after so many turns: while everybody stands at some await."""
        self._at.setdefault(self.turns + turns, []).append(call)

    def turned(self) -> None:
        self.turns += 1
        for call in self._at.pop(self.turns, ()):
            call()
