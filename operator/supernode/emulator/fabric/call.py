"""What ranks do together: the call each device makes, and the buffers that a kind needs.

A call is compared between all ranks before any data moves, so its words must say everything on which ranks have to
agree. Counts are elements: of the whole vector for all_reduce, reduce and broadcast; of one rank's share for the rest
(NCCL's and MPI's usual meaning).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from supernode.emulator.dtypes import DTYPES, dtype_name
from supernode.errors import FabricError

# kind -> elements that (every rank sends, root sends, every rank receives, root receives), in shares of `count`:
# "1" one count, "n" one count per rank, "v" what `sends` or `receives` add up to, "" no buffer needed.
KINDS: Final[dict[str, tuple[str, str, str, str]]] = {
    "all_reduce": ("1", "1", "1", "1"),
    "reduce_scatter": ("n", "n", "1", "1"),
    "all_gather": ("1", "1", "n", "n"),
    "broadcast": ("", "1", "1", "1"),
    "reduce": ("1", "1", "", "1"),
    "gather": ("1", "1", "", "n"),
    "scatter": ("", "n", "1", "1"),
    "all_to_all": ("n", "n", "n", "n"),
    "all_to_all_v": ("v", "v", "v", "v"),
    "barrier": ("", "", "", ""),
    "send": ("1", "1", "", ""),
    "recv": ("", "", "1", "1"),
}
ROOTED: Final = frozenset({"broadcast", "reduce", "gather", "scatter"})
REDUCING: Final = frozenset({"all_reduce", "reduce_scatter", "reduce"})
PEER_TO_PEER: Final = frozenset({"send", "recv"})
REDUCTIONS: Final = ("sum", "product", "min", "max", "average")
MAX_ELEMENTS: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class CollectiveCall:
    """One device's part in a collective.

    Args:
        kind: a key of `KINDS`.
        group: global device ranks in the order of their places; the order decides who owns which share.
        sequence: the caller's own number for this call in the group; compared between ranks, but not for send/recv.
        dtype: element type, such as `f32` or `bf16`.
        count: elements, see the module's text; 0 is allowed.
        reduce: one of `REDUCTIONS`; only looked at by the kinds that reduce.
        root_or_peer: global device rank of the root, or of the other side of a send/recv; -1 where none is needed.
        channel: keeps several groups of the same ranks apart (two streams that run at the same time).
        generation: of the group: one that has failed is made again under the next number, by all its ranks.
        sends, receives: for all_to_all_v, elements to and from each rank of the group, in its order.
        where: the caller's line, for messages.
    """

    kind: str
    group: tuple[int, ...]
    sequence: int = 0
    dtype: str = "f32"
    count: int = 0
    reduce: str = "sum"
    root_or_peer: int = -1
    channel: int = 0
    generation: int = 0
    sends: tuple[int, ...] = ()
    receives: tuple[int, ...] = ()
    where: str = ""

    def check(self, world: int) -> None:
        """FabricError naming what is wrong with the call itself, in a job of `world` devices."""
        if self.kind not in KINDS:
            raise FabricError(f"collective {self.kind!r} is unknown; the fabric knows {', '.join(KINDS)}")
        if not self.group or len(set(self.group)) != len(self.group):
            raise FabricError(f"{self.kind}: group {list(self.group)} must name at least one rank, each once")
        outside = [rank for rank in self.group if not 0 <= rank < world]
        if outside:
            raise FabricError(f"{self.kind}: ranks {outside} are not in this job of {world} devices (0..{world - 1})")
        if not 0 <= self.count <= MAX_ELEMENTS:
            raise FabricError(f"{self.kind}: count {self.count} must be between 0 and {MAX_ELEMENTS}")
        if self.uneven:
            for name, counts in (("sends", self.sends), ("receives", self.receives)):
                if len(counts) != len(self.group) or not all(0 <= count <= MAX_ELEMENTS for count in counts):
                    raise FabricError(f"{self.kind}: {name} needs {len(self.group)} counts, not {list(counts)[:16]}")
        if self.kind in REDUCING and self.reduce not in REDUCTIONS:
            raise FabricError(f"{self.kind}: reduction {self.reduce!r} is unknown; use one of {', '.join(REDUCTIONS)}")
        if self.kind in ROOTED | PEER_TO_PEER and self.root_or_peer not in self.group:
            word = "root" if self.kind in ROOTED else "peer"
            raise FabricError(f"{self.kind}: {word} {self.root_or_peer} is not in group {list(self.group)}")
        if self.kind != "barrier" and dtype_name(self.dtype) == "bool" and self.kind in REDUCING:
            raise FabricError(f"{self.kind}: bool cannot be reduced; use u8 with min (and) or max (or)")

    def members(self, rank: int) -> tuple[int, ...]:
        """Ranks that take part, as one of them sees it: sender and receiver, or the group."""
        if self.kind not in PEER_TO_PEER:
            return self.group
        return (rank, self.root_or_peer) if self.kind == "send" else (self.root_or_peer, rank)

    def words(self) -> dict[str, Any]:
        """The call as plain values: what is compared between ranks and sent to them."""
        said: dict[str, Any] = {"kind": self.kind, "sequence": self.sequence}
        if self.kind != "barrier":
            said |= {"dtype": dtype_name(self.dtype)} | ({} if self.uneven else {"count": self.count})
        if self.kind in REDUCING:
            said["reduce"] = self.reduce
        if self.kind in ROOTED:
            said["root"] = self.root_or_peer
        if self.kind in PEER_TO_PEER:
            # Both sides of one transfer say the same; order alone tells which transfer it is.
            said["kind"] = "send/recv"
            del said["sequence"]
        return said

    @property
    def elements(self) -> int:
        """Elements that move at all; 0 means that there is nothing to do."""
        return 1 if self.uneven else self.count

    @property
    def uneven(self) -> bool:
        """Each pair of ranks has a count of its own."""
        return self.kind == "all_to_all_v"

    def shares(self, rank: int) -> tuple[int | None, int | None]:
        """Elements that `rank` sends and receives; None where the kind needs no buffer there."""
        each_sends, root_sends, each_gets, root_gets = KINDS[self.kind]
        is_root = self.kind in ROOTED and rank == self.root_or_peer
        sizes = {"": None, "1": self.count, "n": self.count * len(self.group)}
        if self.uneven:
            return sum(self.sends), sum(self.receives)
        return sizes[root_sends if is_root else each_sends], sizes[root_gets if is_root else each_gets]

    def buffers(
        self, rank: int, send: np.ndarray[Any, Any] | None, recv: np.ndarray[Any, Any] | None
    ) -> tuple[np.ndarray[Any, Any] | None, np.ndarray[Any, Any] | None]:
        """Both buffers as flat views, checked; None where the kind has no use for one.

        `recv` may be the same memory as `send` for all_reduce, reduce and broadcast.
        """
        sends, receives = self.shares(rank)
        return self._flat("send", sends, send, rank), self._flat("receive", receives, recv, rank)

    def _flat(
        self, role: str, elements: int | None, array: np.ndarray[Any, Any] | None, rank: int
    ) -> np.ndarray[Any, Any] | None:
        if elements is None:
            return None
        wanted = DTYPES[dtype_name(self.dtype)]
        if array is None:
            raise FabricError(f"{self.kind}: rank {rank} needs a {role} buffer of {elements} x {self.dtype}, got none")
        if array.dtype != wanted or array.size != elements:
            raise FabricError(
                f"{self.kind}: rank {rank} needs a {role} buffer of {elements} x {self.dtype}, "
                f"got {array.size} x {array.dtype.name}"
            )
        if not array.flags.c_contiguous:
            raise FabricError(f"{self.kind}: the {role} buffer of rank {rank} must be contiguous")
        if role == "receive" and not array.flags.writeable:
            raise FabricError(f"{self.kind}: the receive buffer of rank {rank} is read-only")
        return array.reshape(-1)


def say(words: Mapping[str, Any]) -> str:
    """A call's words as people read them: `all_reduce(sequence=3, dtype=bf16, count=4096, reduce=sum)`."""
    rest = ", ".join(f"{key}={value}" for key, value in words.items() if key != "kind")
    return f"{words.get('kind', '?')}({rest})"
