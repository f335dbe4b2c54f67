"""Device memory: what each client has of a card, by a caching allocator, and the error with numbers when it is short.

A client takes memory from the card in segments and keeps them; arrays are blocks of a segment. A freed block waits for
the next array of its size; where none fits, neighbours are joined and the smallest that is large enough is split; then
the card is asked for a segment; then segments that are free as a whole go back first. So a client can be short of
memory although the card has room: the free blocks may be too small (`largest`), or other clients hold it.

Flows in: sizes in the order of the client's program, so that the same program always fails at the same call. Flows
out: blocks. All of it is bookkeeping: host memory is taken when a kernel writes its result, and a 64 GiB card costs
nothing until then. Not here: the data (`buffer`).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from supernode.errors import InputError, OutOfDeviceMemoryError

#: Blocks are rounded up to this many bytes, as allocators of cards do.
GRANULE: Final = 256
#: Blocks up to this many bytes share segments, and do not split those of larger ones.
SMALL: Final = 1 << 20
#: Segments for small blocks, for larger ones, and what the largest are rounded up to; less on a small card.
_SMALL_SEGMENT: Final = 2 << 20
_LARGE_SEGMENT: Final = 20 << 20
_ROUND: Final = 2 << 20


def human_bytes(count: float) -> str:
    """``1536`` as ``1.5 KiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def _words(label: object) -> str:
    return " ".join(map(str, label)) if isinstance(label, tuple) else str(label)


class Bins(dict[int, "list[Block]"]):
    """Free blocks by size; `loose`: some were freed since neighbours were joined."""

    loose = False


class Segment:
    """Memory that a client has from the card, cut into blocks; `bins` is where they wait."""

    __slots__ = ("bins", "number", "size")

    def __init__(self, number: int, size: int, bins: Bins) -> None:
        self.number = number
        self.size = size
        self.bins = bins


class Block:
    """A piece of a segment; while in use shared by an array and its views, given back when the last one goes."""

    __slots__ = ("label", "offset", "pool", "references", "segment", "size")

    def __init__(self, pool: Pool, segment: Segment, offset: int, size: int) -> None:
        self.pool = pool
        self.segment = segment
        self.offset = offset
        self.size = size
        self.references = 0
        self.label: object = ""


class MemoryUse(NamedTuple):
    """Bytes of a card, or of a client's share of it.

    Attributes:
        in_use: in arrays.
        peak: most that ever were.
        limit: of the card.
        allocations: arrays that have memory of their own.
        reserved: in segments, which arrays can be made in without asking the card.
        largest: the largest array that could be made now; of a card: without any segments.
    """

    in_use: int
    peak: int
    limit: int
    allocations: int
    reserved: int
    largest: int


class Memory:
    """The memory of one device. All methods may be called from any thread.

    Args:
        limit: bytes of the card.
        name: of the device, for messages.
    """

    def __init__(self, limit: int, name: str) -> None:
        if limit < GRANULE:
            raise InputError(f"{name} cannot have {limit} bytes of memory")
        self.limit = limit // GRANULE * GRANULE
        self.name = name
        self._lock = threading.Lock()
        self._pools: list[Pool] = []
        self._reserved = 0
        self._peak = 0

    def pool(self, owner: str) -> Pool:
        """A client's share; nothing yet."""
        made = Pool(self, owner)
        with self._lock:
            self._pools.append(made)
        return made

    def use(self) -> MemoryUse:
        """The figures of all clients now; `largest` is what no client has."""
        with self._lock:
            in_use = sum(pool.in_use for pool in self._pools)
            self._peak = max(self._peak, in_use)
            count = sum(pool.allocations for pool in self._pools)
            return MemoryUse(in_use, self._peak, self.limit, count, self._reserved, self.limit - self._reserved)

    def reserve(self, size: int) -> bool:
        """Take a segment's bytes from the card, if it has them."""
        with self._lock:
            if self._reserved + size > self.limit:
                return False
            self._reserved += size
            return True

    def give_back(self, size: int) -> None:
        """A segment is no longer needed."""
        with self._lock:
            self._reserved -= size

    def others(self, pool: Pool) -> tuple[int, int, int]:
        """How many other clients hold segments, the bytes of those, and the bytes of arrays in them."""
        with self._lock:
            held = [other for other in self._pools if other is not pool and other.reserved]
            return len(held), sum(other.reserved for other in held), sum(other.in_use for other in held)

    def left(self, pool: Pool) -> None:
        """A client is gone, with all it had."""
        with self._lock:
            self._pools.remove(pool)
            self._reserved -= pool.reserved


class Pool:
    """One client's share of a device. Used by the client's session alone; figures may be read from any thread.

    Attributes:
        in_use, peak: bytes of blocks that arrays have, now and at most.
        allocations: such blocks.
        reserved: bytes of the segments.
        holders: gives the blocks in use, for the message when memory is short.
    """

    def __init__(self, memory: Memory, owner: str) -> None:
        self.memory = memory
        self.owner = owner
        self.in_use = 0
        self.peak = 0
        self.allocations = 0
        self.reserved = 0
        self.holders: Callable[[], Iterable[Block]] = tuple
        self._small = Bins()
        self._large = Bins()
        self._numbers = 0
        room = memory.limit
        self._small_segment = max(GRANULE, min(_SMALL_SEGMENT, room // 64 // GRANULE * GRANULE))
        self._large_segment = max(GRANULE, min(_LARGE_SEGMENT, room // 16 // GRANULE * GRANULE))
        self._round = max(GRANULE, min(_ROUND, room // 256 // GRANULE * GRANULE))
        self._small_limit = min(SMALL, self._small_segment // 2)

    def take(self, nbytes: int, label: object) -> Block:
        """Memory for an array.

        Args:
            nbytes: size of the data; rounded up to the granule.
            label: who holds it, for the message of a later failure: words, or a pair of a kernel and a spec, such as
                ``("matmul", f32[1024,1024])``, which is put into words only then.

        Raises:
            OutOfDeviceMemoryError: says what was asked, what is in use, free and reserved, and by whom.
        """
        size = (nbytes + (GRANULE - 1)) & -GRANULE
        waiting = (self._small if size <= self._small_limit else self._large).get(size)
        block = waiting.pop() if waiting else self._find(size, label)
        block.label = label
        block.references = 1
        self.allocations += 1
        self.in_use = total = self.in_use + size
        if total > self.peak:
            self.peak = total
            self.memory.use()
        return block

    def share(self, block: Block) -> None:
        """A view of the array: one more holder."""
        block.references += 1

    def release(self, block: Block) -> None:
        """One holder less; with the last one the block is free."""
        block.references -= 1
        if not block.references:
            size = block.size
            self.allocations -= 1
            self.in_use -= size
            bins = block.segment.bins
            bins.loose = True
            waiting = bins.get(size)
            if waiting is None:
                bins[size] = [block]
            else:
                waiting.append(block)

    def empty(self) -> int:
        """Give segments that are free as a whole back to the card; gives their bytes."""
        before = self.reserved
        for bins in (self._small, self._large):
            for block in self._join(bins):
                if block.size == block.segment.size:
                    bins[block.size].remove(block)
                    self.reserved -= block.size
                    self.memory.give_back(block.size)
        return before - self.reserved

    def close(self) -> None:
        """The client is gone."""
        self.memory.left(self)
        self.holders = tuple
        self.in_use = self.allocations = self.reserved = 0
        self._small.clear()
        self._large.clear()

    def use(self) -> MemoryUse:
        """The figures now; `largest` is the largest array that could be made, after giving back what is free."""
        largest = max(self._largest_block(), self.memory.use().largest + self._spare())
        return MemoryUse(self.in_use, self.peak, self.memory.limit, self.allocations, self.reserved, largest)

    # --- the slow way -------------------------------------------------------------------------------------------------

    def _find(self, size: int, label: object) -> Block:
        if not size:
            return Block(self, Segment(-1, 0, self._small), 0, 0)
        small = size <= self._small_limit
        bins = self._small if small else self._large
        found = self._fitting(bins, size) or self._grow(size, small)
        if found is None and self.empty():
            found = self._grow(size, small)
        if found is None:
            # No segment can be had: what the other kind of blocks has left will do.
            found = self._fitting(self._large if small else self._small, size)
        if found is None:
            raise OutOfDeviceMemoryError(self._explain(size, label))
        return self._split(found, size)

    def _fitting(self, bins: Bins, size: int) -> Block | None:
        for joined in (False, True):
            if joined:
                if not bins.loose:
                    break
                self._join(bins)
            fit = min((other for other, blocks in bins.items() if blocks and other >= size), default=0)
            if fit:
                return bins[fit].pop()
        return None

    def _join(self, bins: Bins) -> list[Block]:
        """Join free neighbours; gives the free blocks."""
        free = sorted(
            (block for blocks in bins.values() for block in blocks),
            key=lambda block: (block.segment.number, block.offset),
        )
        joined: list[Block] = []
        for block in free:
            last = joined[-1] if joined else None
            if last is not None and last.segment is block.segment and last.offset + last.size == block.offset:
                last.size += block.size
            else:
                joined.append(block)
        bins.clear()
        bins.loose = False
        for block in joined:
            bins.setdefault(block.size, []).append(block)
        return joined

    def _grow(self, size: int, small: bool) -> Block | None:
        if small:
            wanted = self._small_segment
        elif 2 * size <= self._large_segment:
            wanted = self._large_segment
        else:
            wanted = -(-size // self._round) * self._round
        bins = self._small if small else self._large
        for segment_size in (wanted, size):
            if segment_size >= size and self.memory.reserve(segment_size):
                self._numbers += 1
                self.reserved += segment_size
                return Block(self, Segment(self._numbers, segment_size, bins), 0, segment_size)
        return None

    def _split(self, block: Block, size: int) -> Block:
        rest = block.size - size
        if rest:
            block.size = size
            bins = block.segment.bins
            bins.setdefault(rest, []).append(Block(self, block.segment, block.offset + size, rest))
        return block

    def _largest_block(self) -> int:
        return max((block.size for bins in (self._small, self._large) for block in self._join(bins)), default=0)

    def _spare(self) -> int:
        whole = (block for bins in (self._small, self._large) for blocks in bins.values() for block in blocks)
        return sum(block.size for block in whole if block.size == block.segment.size)

    def _explain(self, size: int, label: object) -> str:
        memory = self.memory
        use = memory.use()
        count, held, used = memory.others(self)
        by_label: Counter[str] = Counter()
        for block in set(self.holders()):
            by_label[_words(block.label)] += block.size
        ranked = sorted(by_label.items(), key=lambda pair: (-pair[1], pair[0]))
        largest = ", ".join(f"{name} {human_bytes(taken)}" for name, taken in ranked[:3])
        other = ""
        if count:
            clients = "1 other client holds" if count == 1 else f"{count} other clients hold"
            kept = f" (only {human_bytes(used)} of it in arrays: empty_cache() there gives the rest back)"
            other = f", {clients} {human_bytes(held)}{kept if 2 * used < held else ''}"
        allocations = "1 allocation" if self.allocations == 1 else f"{self.allocations} allocations"
        free = human_bytes(memory.limit - held - self.in_use)
        return (
            f"{memory.name}: asked {human_bytes(size)} ({size} bytes) for {_words(label)}, but of "
            f"{human_bytes(memory.limit)} {self.owner} uses {human_bytes(self.in_use)} in {allocations}{other} "
            f"({free} free); reserved {human_bytes(self.reserved)}, largest free block "
            f"{human_bytes(max(self._largest_block(), use.largest))}; largest holders: {largest or 'none'}; "
            "use smaller batches, free arrays, or spread over more devices"
        )
