"""What is known of a call that a device makes again and again: worked out once, walked every time.

Flows in: the first call of its shape, with everything but its number. Flows out: what its buffers must be, the line of
text that pods compare, the way of its sum, the virtual time that it takes when it has its links alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from supernode.emulator.dtypes import DTYPES, WIDE, dtype_name
from supernode.emulator.fabric.boards import Layout
from supernode.emulator.fabric.call import CollectiveCall
from supernode.emulator.fabric.choice import Plan
from supernode.emulator.fabric.contention import Stretch
from supernode.emulator.fabric.pods import Flat
from supernode.emulator.fabric.timing import LinkClock


@dataclass(slots=True, eq=False)
class Standing:
    """A call as a device knows it.

    Attributes:
        dtype, wide: of the values, and of what they are reduced in.
        sends, receives: elements of the buffers; None where none is needed.
        line: the call as text, but for its number; empty where comparing that is not enough.
        numbered: the number is compared, too.
        plan: how an all-reduce of something goes between pods.
        latency, seconds, moves: when it has its links alone: until it holds them, until it ends, whether it holds any.
        layout: where it lies on boards, once it has.
    """

    dtype: np.dtype[Any]
    wide: np.dtype[Any]
    sends: int | None
    receives: int | None
    line: str
    numbered: bool
    plan: Plan | None
    latency: float
    seconds: float
    moves: bool
    layout: Layout | None = None

    def text(self, call: CollectiveCall) -> str:
        """The call as a line that is the same where calls are; empty where comparing it is not enough."""
        return f"{call.sequence} {self.line}" if self.line and self.numbered else self.line

    def alone(self, ready: float) -> tuple[float, tuple[Stretch, ...]]:
        """Finish time, and when it holds its links, of a call that has them alone."""
        finish = ready + self.seconds
        return finish, ((ready + self.latency, finish, 1.0),) if self.moves else ()

    def fits(self, send: Flat | None, recv: Flat | None) -> bool:
        """Whether buffers are as they must be, flat already: the common case, in few steps."""
        if self.sends is not None and not (
            send is not None and send.dtype == self.dtype and send.shape == (self.sends,) and send.flags.c_contiguous
        ):
            return False
        if self.receives is None:
            return True
        if recv is None or recv.dtype != self.dtype or recv.shape != (self.receives,):
            return False
        flags = recv.flags
        return flags.c_contiguous and flags.writeable


def standing(call: CollectiveCall, rank: int, plan: Callable[[CollectiveCall], Plan], clock: LinkClock) -> Standing:
    """What is known of a call that has been checked."""
    dtype = dtype_name(call.dtype)
    sends, receives = call.shares(rank)
    words = call.words()
    numbered = words.pop("sequence", None) is not None
    line = "" if call.uneven else json.dumps(words, separators=(",", ":"))
    need = clock.need(call)
    return Standing(
        DTYPES[dtype],
        WIDE[dtype],
        sends,
        receives,
        line,
        numbered,
        plan(call) if call.kind == "all_reduce" and call.count else None,
        need.latency,
        clock.seconds(call),
        bool(need.seconds),
    )
