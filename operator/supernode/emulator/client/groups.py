"""Groups of devices that do something together.

Flows in: one array per local device of the group, in rank order. Flows out: recorded collectives, asynchronous and in
stream order. Every member must make the same calls in the same order. Not here: one device's calls (`members`), how
they are carried (`fabric`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from supernode.emulator.client.arrays import Array
from supernode.emulator.client.devices import Device, Stream
from supernode.emulator.client.handles import Handle
from supernode.emulator.client.members import Member
from supernode.errors import InvalidHandleError, KernelValueError

if TYPE_CHECKING:
    from supernode.emulator.client.emulator import Emulator

Result = TypeVar("Result")
Streams = Sequence[Stream] | None


class Group:
    """Devices of a job, by global rank. Made by `Emulator.group`.

    Attributes:
        ranks: of all members, in order.
        local: the members of this pod that this program sees, in rank order.
        channel, generation: tell it from other groups of the same ranks, and from those before it that have failed.
        holding: calls wait for others of the same list.
    """

    def __init__(self, emulator: Emulator, ranks: tuple[int, ...], channel: int, generation: int = 0) -> None:
        self.ranks = ranks
        self.channel = channel
        self.generation = generation
        self.holding = False
        self._emulator = emulator
        self._next: Group | None = None
        by_rank = {device.rank: device for device in emulator.devices}
        self.local: tuple[Device, ...] = tuple(by_rank[rank] for rank in ranks if rank in by_rank)
        self._members = tuple(Member(self, device) for device in self.local)

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
        return self._members[self.local.index(device)]

    def again(self) -> Group:
        """The group made again after it has failed, if the pods of all members still live; all must ask for it.

        From then on `Emulator.group` gives the new one, too. A group whose pod is lost needs the job's next attempt.
        """
        if self._next is None:
            self._next = Group(self._emulator, self.ranks, self.channel, self.generation + 1)
            self._emulator.replace_group(self._next)
        return self._next

    def all_reduce(self, arrays: Sequence[Array], op: str = "sum", *, streams: Streams = None) -> None:
        """Every member gets the reduction of all members' arrays, in place. op: sum, product, min, max, average."""
        self._same(arrays)
        self._each(streams, lambda i, member, stream: member.all_reduce(arrays[i], op, stream=stream))

    def broadcast(self, arrays: Sequence[Array], root: int = 0, *, streams: Streams = None) -> None:
        """Every member gets the root's array, in place. `root` is a global rank."""
        self._same(arrays)
        self._each(streams, lambda i, member, stream: member.broadcast(arrays[i], root, stream=stream))

    def reduce(self, arrays: Sequence[Array], root: int = 0, op: str = "sum", *, streams: Streams = None) -> None:
        """The root gets the reduction of all members' arrays, in place."""
        self._same(arrays)
        self._each(streams, lambda i, member, stream: member.reduce(arrays[i], root, op, stream=stream))

    def all_gather(self, arrays: Sequence[Array], *, streams: Streams = None) -> list[Array]:
        """Every member gets all members' arrays, stacked along a new first axis in rank order."""
        self._same(arrays)
        return self._each(streams, lambda i, member, stream: member.all_gather(arrays[i], stream=stream))

    def reduce_scatter(self, arrays: Sequence[Array], op: str = "sum", *, streams: Streams = None) -> list[Array]:
        """Member i gets the reduction of everyone's i-th part along the first axis."""
        self._same(arrays)
        return self._each(streams, lambda i, member, stream: member.reduce_scatter(arrays[i], op, stream=stream))

    def all_to_all(self, arrays: Sequence[Array], *, streams: Streams = None) -> list[Array]:
        """Member i gets everyone's i-th part along the first axis, in rank order."""
        self._same(arrays)
        return self._each(streams, lambda i, member, stream: member.all_to_all(arrays[i], stream=stream))

    def all_to_all_v(
        self, arrays: Sequence[Array], counts: Sequence[Sequence[int]], *, streams: Streams = None
    ) -> list[Array]:
        """As `all_to_all`, with `counts[i][j]` rows of the first axis from member i to member j of the whole group."""
        self._local(arrays)
        if len(counts) != self.size or any(len(row) != self.size for row in counts):
            raise KernelValueError(f"counts must be {self.size} rows of {self.size} numbers")

        def call(i: int, member: Member, stream: Stream | None) -> Array:
            due = [row[member.place] for row in counts]
            return member.all_to_all_v(arrays[i], counts[member.place], due, stream=stream)

        return self._each(streams, call)

    def gather(self, arrays: Sequence[Array], root: int = 0, *, streams: Streams = None) -> list[Array | None]:
        """The root gets all members' arrays, stacked in rank order; the others get None."""
        self._same(arrays)
        return self._each(streams, lambda i, member, stream: member.gather(arrays[i], root, stream=stream))

    def scatter(
        self,
        array: Array | None,
        shape: Sequence[int],
        dtype: str = "f32",
        root: int = 0,
        *,
        streams: Streams = None,
    ) -> list[Array]:
        """Member i gets part i of the root's array [size, *shape]; elsewhere `array` is None."""
        return self._each(streams, lambda i, member, stream: member.scatter(array, shape, dtype, root, stream=stream))

    def barrier(self, *, streams: Streams = None) -> None:
        """Hold every member's stream until all have come."""
        self._each(streams, lambda i, member, stream: member.barrier(stream=stream))

    def send(self, array: Array, to: int, *, stream: Stream | None = None) -> None:
        """Send an array to another member (global rank), which must `recv` it."""
        self.member(array.device).send(array, to=to, stream=stream)

    def recv(
        self, device: Device, shape: Sequence[int], dtype: str = "f32", *, source: int, stream: Stream | None = None
    ) -> Array:
        """Receive an array that member `source` (global rank) sends to `device`."""
        return self.member(device).recv(shape, dtype, source=source, stream=stream)

    def start(self, kind: str, *arguments: Any, **settings: Any) -> Handle[list[Any]]:
        """Make a call beside the program's other work, on streams of the group's own; see `Member.start`.

        Args:
            kind: name of the method, such as ``all_reduce``.
            arguments, settings: of that method, without `streams`; lists have one entry per local member.
        """
        handles = []
        with self._held():
            for i, member in enumerate(self._members):
                own = [argument[i] if _per_member(argument) else argument for argument in arguments]
                if kind == "all_to_all_v" and len(own) == 2:
                    own = [own[0], own[1][member.place], [row[member.place] for row in own[1]]]
                handles.append(member.start(kind, *own, **settings))
        events = [event for handle in handles for event in handle._events]
        return Handle([handle.result for handle in handles], events, [s for handle in handles for s in handle._streams])

    def _each(self, streams: Streams, call: Callable[[int, Member, Stream | None], Result]) -> list[Result]:
        with self._held():
            return [call(i, member, None if streams is None else streams[i]) for i, member in enumerate(self._members)]

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Send the calls of a list together."""
        self.holding = True
        try:
            yield
        finally:
            self.holding = False
            self._emulator.connection.flush()

    def _local(self, arrays: Sequence[Array]) -> None:
        if tuple(array.device for array in arrays) != self.local:
            raise KernelValueError(f"this call needs one array on each of {list(self.local)}, not {list(arrays)}")

    def _same(self, arrays: Sequence[Array]) -> None:
        devices = tuple(array.device for array in arrays)
        if devices != self.local or any(array.spec != arrays[0].spec for array in arrays):
            raise KernelValueError(
                f"a collective of this group needs one array on each of {list(self.local)}, of one shape and dtype, "
                f"not {list(arrays)}"
            )


def _per_member(argument: object) -> bool:
    return isinstance(argument, Sequence) and any(isinstance(one, Array) for one in argument)
