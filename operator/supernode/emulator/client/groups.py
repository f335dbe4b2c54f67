"""Groups of devices that do something together.

Flows in: one array per local device of the group, in rank order. Flows out: recorded collectives, asynchronous and in
stream order. Every member must make the same calls in the same order. Not here: how they are carried (`fabric`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from supernode.emulator.client.arrays import Array
from supernode.emulator.client.devices import Device, Stream
from supernode.emulator.kernels import Spec
from supernode.errors import InvalidHandleError, KernelError

if TYPE_CHECKING:
    from supernode.emulator.client.emulator import Emulator


class Group:
    """Devices of a job, by global rank. Made by `Emulator.group`.

    Attributes:
        ranks: of all members, in order.
        local: the members of this pod, in rank order.
    """

    def __init__(self, emulator: Emulator, ranks: tuple[int, ...], channel: int) -> None:
        self.ranks = ranks
        self._emulator = emulator
        self._channel = channel
        by_rank = {device.rank: device for device in emulator.devices}
        first = emulator.rank * emulator.local_devices
        hidden = [r for r in ranks if first <= r < first + emulator.local_devices and r not in by_rank]
        if hidden:
            raise InvalidHandleError(f"ranks {hidden} of the group are devices of this pod that are not visible here")
        self.local: tuple[Device, ...] = tuple(by_rank[rank] for rank in ranks if rank in by_rank)
        # Of the next call of each local member: members may be at different calls for a while.
        self._numbers = [itertools.count(0) for _ in self.local]

    @property
    def size(self) -> int:
        """Number of members."""
        return len(self.ranks)

    def member(self, device: Device) -> Member:
        """A device's own part in the group, for programs that are written per device.

        Raises:
            InvalidHandleError: the device is not a local member.
        """
        if device not in self.local:
            raise InvalidHandleError(f"{device} is not one of the local members {list(self.local)} of this group")
        return Member(self, device)

    def all_reduce(self, arrays: Sequence[Array], op: str = "sum", *, streams: Sequence[Stream] | None = None) -> None:
        """Every member gets the reduction of all members' arrays, in place. op: sum, product, min, max, average."""
        self._same(arrays)
        for i, array in enumerate(arrays):
            self._put("all_reduce", i, streams, array.dtype, array.size, op, -1, array, array)

    def broadcast(self, arrays: Sequence[Array], root: int = 0, *, streams: Sequence[Stream] | None = None) -> None:
        """Every member gets the root's array, in place. `root` is a global rank."""
        self._same(arrays)
        for i, array in enumerate(arrays):
            send = array if array.device.rank == root else None
            self._put("broadcast", i, streams, array.dtype, array.size, "sum", root, send, array)

    def reduce(
        self, arrays: Sequence[Array], root: int = 0, op: str = "sum", *, streams: Sequence[Stream] | None = None
    ) -> None:
        """The root gets the reduction of all members' arrays, in place."""
        self._same(arrays)
        for i, array in enumerate(arrays):
            receive = array if array.device.rank == root else None
            self._put("reduce", i, streams, array.dtype, array.size, op, root, array, receive)

    def all_gather(self, arrays: Sequence[Array], *, streams: Sequence[Stream] | None = None) -> list[Array]:
        """Every member gets all members' arrays, stacked along a new first axis in rank order."""
        self._same(arrays)
        results = []
        for i, array in enumerate(arrays):
            out = self._new(i, Spec(array.dtype, (self.size, *array.shape)))
            self._put("all_gather", i, streams, array.dtype, array.size, "sum", -1, array, out, new=True)
            results.append(out)
        return results

    def reduce_scatter(
        self, arrays: Sequence[Array], op: str = "sum", *, streams: Sequence[Stream] | None = None
    ) -> list[Array]:
        """Member i gets the reduction of everyone's i-th part along the first axis."""
        self._same(arrays)
        results = []
        for i, array in enumerate(arrays):
            out = self._new(i, Spec(array.dtype, (self._part(array), *array.shape[1:])))
            self._put("reduce_scatter", i, streams, array.dtype, out.size, op, -1, array, out, new=True)
            results.append(out)
        return results

    def all_to_all(self, arrays: Sequence[Array], *, streams: Sequence[Stream] | None = None) -> list[Array]:
        """Member i gets everyone's i-th part along the first axis, in rank order."""
        self._same(arrays)
        results = []
        for i, array in enumerate(arrays):
            self._part(array)
            out = self._new(i, array.spec)
            count = array.size // self.size
            self._put("all_to_all", i, streams, array.dtype, count, "sum", -1, array, out, new=True)
            results.append(out)
        return results

    def gather(
        self, arrays: Sequence[Array], root: int = 0, *, streams: Sequence[Stream] | None = None
    ) -> list[Array | None]:
        """The root gets all members' arrays, stacked in rank order; the others get None."""
        self._same(arrays)
        results: list[Array | None] = []
        for i, array in enumerate(arrays):
            at_root = array.device.rank == root
            out = self._new(i, Spec(array.dtype, (self.size, *array.shape))) if at_root else None
            self._put("gather", i, streams, array.dtype, array.size, "sum", root, array, out, new=at_root)
            results.append(out)
        return results

    def scatter(
        self,
        array: Array | None,
        shape: Sequence[int],
        dtype: str = "f32",
        root: int = 0,
        *,
        streams: Sequence[Stream] | None = None,
    ) -> list[Array]:
        """Member i gets part i of the root's array [size, *shape]; elsewhere `array` is None."""
        results = []
        for i, device in enumerate(self.local):
            send = array if device.rank == root else None
            out = self._new(i, Spec(dtype, tuple(shape)))
            self._put("scatter", i, streams, dtype, out.size, "sum", root, send, out, new=True)
            results.append(out)
        return results

    def barrier(self, *, streams: Sequence[Stream] | None = None) -> None:
        """Hold every member's stream until all have come."""
        for i in range(len(self.local)):
            self._put("barrier", i, streams, "f32", 0, "sum", -1, None, None)
        self._emulator.connection.flush()

    def send(self, array: Array, to: int, *, stream: Stream | None = None) -> None:
        """Send an array to another member (global rank), which must `recv` it."""
        place = self.local.index(array.device)
        streams = None if stream is None else {place: stream}
        self._put("send", place, streams, array.dtype, array.size, "sum", to, array, None)
        self._emulator.connection.flush()

    def recv(
        self, device: Device, shape: Sequence[int], dtype: str = "f32", *, source: int, stream: Stream | None = None
    ) -> Array:
        """Receive an array that member `source` (global rank) sends to `device`."""
        place = self.local.index(device)
        out = self._new(place, Spec(dtype, tuple(shape)))
        streams = None if stream is None else {place: stream}
        self._put("recv", place, streams, dtype, out.size, "sum", source, None, out, new=True)
        self._emulator.connection.flush()
        return out

    def _new(self, place: int, spec: Spec) -> Array:
        return Array(self.local[place], spec, self._emulator.connection.handle())

    def _part(self, array: Array) -> int:
        if not array.shape or array.shape[0] % self.size:
            raise KernelError(f"the first axis of {array.spec} does not divide into {self.size} parts")
        return array.shape[0] // self.size

    def _same(self, arrays: Sequence[Array]) -> None:
        devices = tuple(array.device for array in arrays)
        if devices != self.local or any(array.spec != arrays[0].spec for array in arrays):
            raise KernelError(
                f"a collective of this group needs one array on each of {list(self.local)}, of one shape and dtype, "
                f"not {list(arrays)}"
            )

    def _put(
        self,
        kind: str,
        place: int,
        streams: Any,
        dtype: str,
        count: int,
        op: str,
        peer: int,
        send: Array | None,
        receive: Array | None,
        *,
        new: bool = False,
        flush: bool = False,
    ) -> None:
        device = self.local[place]
        stream = device.ordinal if streams is None else streams[place].handle
        number = 0 if kind in ("send", "recv") else next(self._numbers[place])
        command = ["collective", stream, kind, self.ranks, number, dtype, count, op, peer, self._channel]
        command += [
            None if send is None else send.handle,
            None if receive is None else receive.handle,
            list(receive.shape) if new and receive is not None else None,
        ]
        connection = self._emulator.connection
        connection.record(command)
        if flush or place == len(self.local) - 1:
            # Others wait for us: do not sit on the call until the batch is full.
            connection.flush()


class Member:
    """One device's part in a group: the calls of a program that runs once per device, as those of MPI and NCCL.

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
        self._local = group.local.index(device)

    def all_reduce(self, array: Array, op: str = "sum", *, stream: Stream | None = None) -> None:
        """The reduction of all members' arrays, in place. op: sum, product, min, max, average."""
        self._put("all_reduce", stream, array.spec.dtype, array.size, op, -1, array, array)

    def broadcast(self, array: Array, root: int = 0, *, stream: Stream | None = None) -> None:
        """The root's array, in place. `root` is a global rank."""
        send = array if self.device.rank == root else None
        self._put("broadcast", stream, array.dtype, array.size, "sum", root, send, array)

    def all_gather(self, array: Array, *, out: Array | None = None, stream: Stream | None = None) -> Array:
        """All members' arrays in rank order: stacked along a new first axis, or written into `out`.

        Raises:
            KernelError: `out` has another dtype or number of elements.
        """
        if out is not None and (out.dtype, out.size) != (array.dtype, array.size * self.size):
            raise KernelError(f"{self.size} times {array.spec} do not go into {out.spec}")
        result = self._group._new(self._local, Spec(array.dtype, (self.size, *array.shape))) if out is None else out
        self._put("all_gather", stream, array.dtype, array.size, "sum", -1, array, result, new=out is None)
        return result

    def reduce_scatter(self, array: Array, op: str = "sum", *, stream: Stream | None = None) -> Array:
        """This member's part, along the first axis, of the reduction of all members' arrays."""
        spec = Spec(array.dtype, (self._group._part(array), *array.shape[1:]))
        result = self._group._new(self._local, spec)
        self._put("reduce_scatter", stream, array.dtype, result.size, op, -1, array, result, new=True)
        return result

    def send(self, array: Array, *, to: int, stream: Stream | None = None) -> None:
        """Send an array to another member (global rank), which must `recv` it."""
        self._group.send(array, to, stream=stream)

    def recv(self, shape: Sequence[int], dtype: str = "f32", *, source: int, stream: Stream | None = None) -> Array:
        """Receive an array that member `source` (global rank) sends."""
        return self._group.recv(self.device, shape, dtype, source=source, stream=stream)

    def _put(self, kind: str, stream: Stream | None, *words: Any, new: bool = False) -> None:
        streams = None if stream is None else {self._local: stream}
        self._group._put(kind, self._local, streams, *words, new=new, flush=True)
