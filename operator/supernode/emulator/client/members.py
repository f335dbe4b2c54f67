"""One device's part in a group: the calls of a program that runs once per device, as those of MPI and NCCL.

Flows in: arrays of the device. Flows out: recorded collectives, asynchronous and in stream order. Every member must
make the same calls in the same order. Not here: lists of devices (`groups`), how bytes are carried (`fabric`).
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from supernode.emulator.client.arrays import Array
from supernode.emulator.client.devices import Device, Event, Stream
from supernode.emulator.client.handles import Handle
from supernode.emulator.kernels import Spec
from supernode.errors import InputError, KernelValueError

if TYPE_CHECKING:
    from supernode.emulator.client.groups import Group

#: Calls that `start` runs beside the program's other work.
STARTED: Final = (
    "all_reduce",
    "broadcast",
    "reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "all_to_all_v",
    "gather",
    "scatter",
    "barrier",
)
# Channels of calls beside the program's own streams: they follow each other, not the calls on those.
_BACKGROUND: Final = 1 << 40
_EXCHANGE: Final = 1 << 41
_OURS: Final = "supernode.emulator."


class Member:
    """A device in a group. Made by `Group.member`.

    A call is recorded and carried out when all members have made it; members of one pod may make theirs one after the
    other, because nothing here waits.

    Attributes:
        device: the member.
        place: among the group's ranks, counted from 0.
        size: number of members.
    """

    def __init__(self, group: Group, device: Device) -> None:
        self.device = device
        self.place = group.ranks.index(device.rank)
        self.size = group.size
        self._group = group
        self._connection = device.emulator.connection
        self._numbers: dict[int, itertools.count[int]] = {}
        self._streams: dict[tuple[str, int], Stream] = {}
        self._background = 0

    def all_reduce(self, array: Array, op: str = "sum", *, stream: Stream | None = None) -> None:
        """The reduction of all members' arrays, in place. op: sum, product, min, max, average."""
        self._put("all_reduce", stream, array.dtype, array.size, op, -1, array, array)

    def broadcast(self, array: Array, root: int = 0, *, stream: Stream | None = None) -> None:
        """The root's array, in place. `root` is a global rank."""
        send = array if self.device.rank == root else None
        self._put("broadcast", stream, array.dtype, array.size, "sum", root, send, array)

    def reduce(self, array: Array, root: int = 0, op: str = "sum", *, stream: Stream | None = None) -> None:
        """The root gets the reduction of all members' arrays, in place."""
        receive = array if self.device.rank == root else None
        self._put("reduce", stream, array.dtype, array.size, op, root, array, receive)

    def all_gather(self, array: Array, *, out: Array | None = None, stream: Stream | None = None) -> Array:
        """All members' arrays in rank order: stacked along a new first axis, or written into `out`.

        Raises:
            KernelError: `out` has another dtype or number of elements.
        """
        if out is not None and (out.dtype, out.size) != (array.dtype, array.size * self.size):
            raise KernelValueError(f"{self.size} times {array.spec} do not go into {out.spec}")
        result = self._new(Spec(array.dtype, (self.size, *array.shape))) if out is None else out
        self._put("all_gather", stream, array.dtype, array.size, "sum", -1, array, result, new=out is None)
        return result

    def reduce_scatter(self, array: Array, op: str = "sum", *, stream: Stream | None = None) -> Array:
        """This member's part, along the first axis, of the reduction of all members' arrays."""
        result = self._new(Spec(array.dtype, (self._part(array), *array.shape[1:])))
        self._put("reduce_scatter", stream, array.dtype, result.size, op, -1, array, result, new=True)
        return result

    def all_to_all(self, array: Array, *, stream: Stream | None = None) -> Array:
        """Everyone's part for this member along the first axis, in rank order."""
        self._part(array)
        result = self._new(array.spec)
        self._put("all_to_all", stream, array.dtype, array.size // self.size, "sum", -1, array, result, new=True)
        return result

    def all_to_all_v(
        self, array: Array, sends: Sequence[int], receives: Sequence[int], *, stream: Stream | None = None
    ) -> Array:
        """As `all_to_all`, with `sends[i]` rows of the first axis to member i and `receives[i]` rows from it.

        Raises:
            KernelError: the counts are not one per member, or do not add up to the array's first axis.
        """
        sent, due = [int(count) for count in sends], [int(count) for count in receives]
        rows = array.shape[0] if array.shape else 0
        if len(sent) != self.size or len(due) != self.size or sum(sent) != rows or min(*sent, *due) < 0:
            raise KernelValueError(f"{self.size} members cannot send {sent} and receive {due} rows of {array.spec}")
        width = array.size // rows if rows else Spec(array.dtype, array.shape[1:]).size
        result = self._new(Spec(array.dtype, (sum(due), *array.shape[1:])))
        more = {"sends": [count * width for count in sent], "receives": [count * width for count in due]}
        self._put("all_to_all_v", stream, array.dtype, 0, "sum", -1, array, result, new=True, more=more)
        return result

    def gather(self, array: Array, root: int = 0, *, stream: Stream | None = None) -> Array | None:
        """The root gets all members' arrays, stacked in rank order; the others get None."""
        at_root = self.device.rank == root
        result = self._new(Spec(array.dtype, (self.size, *array.shape))) if at_root else None
        self._put("gather", stream, array.dtype, array.size, "sum", root, array, result, new=at_root)
        return result

    def scatter(
        self,
        array: Array | None,
        shape: Sequence[int],
        dtype: str = "f32",
        root: int = 0,
        *,
        stream: Stream | None = None,
    ) -> Array:
        """This member's part of the root's array [size, *shape]; elsewhere `array` is None."""
        send = array if self.device.rank == root else None
        result = self._new(Spec(dtype, tuple(shape)))
        self._put("scatter", stream, dtype, result.size, "sum", root, send, result, new=True)
        return result

    def barrier(self, *, stream: Stream | None = None) -> None:
        """Hold the stream until all members have come."""
        self._put("barrier", stream, "f32", 0, "sum", -1, None, None)

    def send(self, array: Array, *, to: int, stream: Stream | None = None) -> None:
        """Send an array to another member (global rank), which must `recv` it."""
        self._put("send", stream, array.dtype, array.size, "sum", to, array, None)

    def recv(self, shape: Sequence[int], dtype: str = "f32", *, source: int, stream: Stream | None = None) -> Array:
        """Receive an array that member `source` (global rank) sends."""
        result = self._new(Spec(dtype, tuple(shape)))
        self._put("recv", stream, dtype, result.size, "sum", source, None, result, new=True)
        return result

    def exchange(
        self,
        sends: Sequence[tuple[Array, int]] = (),
        receives: Sequence[tuple[Sequence[int], str, int]] = (),
    ) -> list[Array]:
        """Several sends and receives as one: they go side by side, so no order among them can block.

        Args:
            sends: (array, to whom).
            receives: (shape, dtype, from whom).

        Returns:
            What was received, in the order of `receives`. Exchanges with one member follow each other.
        """
        channel = self._group.channel + _EXCHANGE
        for array, to in sends:
            self._put("send", self._side("to", to), array.dtype, array.size, "sum", to, array, None, channel=channel)
        results = []
        for shape, dtype, source in receives:
            result = self._new(Spec(dtype, tuple(shape)))
            side = self._side("from", source)
            self._put("recv", side, dtype, result.size, "sum", source, None, result, new=True, channel=channel)
            results.append(result)
        return results

    def start(self, kind: str, *arguments: Any, **settings: Any) -> Handle[Any]:
        """Make a call beside the program's other work: on a stream of the group's own, in the order of such calls.

        Args:
            kind: name of the method, such as ``all_reduce``.
            arguments, settings: of that method, without `stream`.

        Returns:
            Its handle, with the method's result. The call waits for what its arrays wait for; work that uses its
            result, or writes what it reads, waits for the call.

        Raises:
            InputError: there is no such call.
        """
        if kind not in STARTED:
            raise InputError(f"{kind!r} cannot be started; there are {', '.join(STARTED)}")
        stream = self._side("beside", 0)
        self._background += 1
        try:
            result = getattr(self, kind)(*arguments, **settings, stream=stream)
        finally:
            self._background -= 1
        event: Event = stream.record()
        self._connection.flush()
        return Handle(result, [event], [stream])

    def _side(self, purpose: str, peer: int) -> Stream:
        stream = self._streams.get((purpose, peer))
        if stream is None:
            stream = self._streams[purpose, peer] = self.device.stream()
        return stream

    def _new(self, spec: Spec) -> Array:
        return Array(self.device, spec, self._connection.handle())

    def _part(self, array: Array) -> int:
        if not array.shape or array.shape[0] % self.size:
            raise KernelValueError(f"the first axis of {array.spec} does not divide into {self.size} parts")
        return array.shape[0] // self.size

    def _put(
        self,
        kind: str,
        stream: Stream | None,
        dtype: str,
        count: int,
        op: str,
        peer: int,
        send: Array | None,
        receive: Array | None,
        *,
        new: bool = False,
        channel: int | None = None,
        more: dict[str, Any] | None = None,
    ) -> None:
        group = self._group
        if channel is None:
            channel = group.channel + (_BACKGROUND if self._background else 0)
        number = 0 if kind in ("send", "recv") else next(self._numbers.setdefault(channel, itertools.count(0)))
        command: list[Any] = [
            "collective",
            self.device.ordinal if stream is None else stream.handle,
            kind,
            group.ranks,
            number,
            dtype,
            count,
            op,
            peer,
            channel,
            None if send is None else send.handle,
            None if receive is None else receive.handle,
            list(receive.shape) if new and receive is not None else None,
            {"where": _caller(), "generation": group.generation} | (more or {}),
        ]
        self._connection.record(command)
        if not group.holding:
            # Others wait for us: do not sit on the call until the batch is full.
            self._connection.flush()


def _caller() -> str:
    """The program's line, as ``file:line``."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_OURS):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
