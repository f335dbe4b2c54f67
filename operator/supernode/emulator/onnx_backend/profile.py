"""How long each node takes on the device's clock, with its operations and bytes.

Flows in: which node runs now, and its launches. Flows out: `Row`s. Times are measured with events on the device's
stream, so copies and host operators count where they happen; FLOPs and bytes are those of the kernel table. Not here:
printing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from supernode.emulator.client import Device, Event
from supernode.emulator.kernels import Cost
from supernode.emulator.onnx_backend.graph import Node

# Events that wait for their time; the sidecar keeps only so many.
_PENDING: Final = 8192


@dataclass
class Row:
    """A node, all its runs together.

    Attributes:
        name, operator: of the node.
        where: `device`, `host` (reference implementation), `shapes` (arithmetic on shapes), `graph` (a node that runs
            nodes) or `copy` (of the model's inputs and outputs).
        runs: how often.
        seconds: of device time.
        flops, bytes_moved: of its launches.
        launches: of kernels.
    """

    name: str
    operator: str
    where: str = "device"
    runs: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    bytes_moved: float = 0.0
    launches: int = 0


@dataclass
class Profile:
    """What one run of a model took.

    Attributes:
        device: whose clock.
        rows: by node, in the order they ran first.
        seconds: from the first node's start to the last one's end.
    """

    device: Device
    rows: dict[int, Row] = field(default_factory=dict)
    seconds: float = 0.0
    _stack: list[Row] = field(default_factory=list)
    _marks: list[tuple[Event, Row | None]] = field(default_factory=list)

    def enter(self, node: Node, where: str) -> Row:
        """A node begins."""
        return self._enter(id(node), node.name, node.op_type, where)

    def leave(self) -> None:
        """The node that began last ends."""
        self._stack.pop()
        self._mark()

    @contextmanager
    def copying(self, name: str) -> Iterator[None]:
        """What happens inside are copies of inputs or outputs, which no node does."""
        self._enter(-1 - len(name), name, "(copy)", "copy")
        try:
            yield
        finally:
            self.leave()

    def _enter(self, key: int, name: str, operator: str, where: str) -> Row:
        row = self.rows.get(key)
        if row is None:
            row = self.rows[key] = Row(name, operator, where)
        row.where = where
        row.runs += 1
        self._stack.append(row)
        self._mark()
        return row

    def launched(self, cost: Cost) -> None:
        """A kernel was launched for the node that runs now."""
        if self._stack:
            row = self._stack[-1]
            row.launches += 1
            row.flops += cost.flops
            row.bytes_moved += cost.bytes_moved

    def _mark(self) -> None:
        self._marks.append((self.device.record(), self._stack[-1] if self._stack else None))
        if len(self._marks) >= _PENDING:
            self.settle()

    def settle(self) -> None:
        """Ask for the times of what ran so far; waits for it."""
        if not self._marks:
            return
        times = [event.seconds for event, _ in self._marks]
        for start, end, (_, row) in zip(times, times[1:], self._marks, strict=False):
            if row is not None:
                row.seconds += end - start
            self.seconds += end - start
        # The last one is where the next begins.
        self._marks = self._marks[-1:]


def by_operator(rows: Sequence[Row]) -> list[Row]:
    """The rows of each operator together, the slowest first; `runs` and the rest are sums, `name` is empty."""
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        total = found.setdefault((row.operator, row.where), Row("", row.operator, row.where))
        total.runs += row.runs
        total.seconds += row.seconds
        total.flops += row.flops
        total.bytes_moved += row.bytes_moved
        total.launches += row.launches
    return sorted(found.values(), key=lambda row: (-row.seconds, row.operator, row.where))
