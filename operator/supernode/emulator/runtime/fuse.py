"""Several elementwise launches in one pass over memory: block by block, each block small enough for the cache.

A run of launches that follow each other on a stream, each elementwise over as many elements, is computed together. A
result that the client has dropped, and that nothing outside the run reads, is never written to memory. What comes out
is what the launches give one by one, bit by bit; so are errors, and so is device time: the virtual clock charges every
launch what the device would take for it, because the card runs what the program asks for. Only the host is faster.

Flows in: the work items of a stream. Flows out: data in buffers, device seconds. Not here: one launch (`launch`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from supernode.emulator.dtypes import DTYPES
from supernode.emulator.kernels import Spec
from supernode.emulator.kernels.table import AnyArray
from supernode.emulator.runtime.buffer import Buffer, Storage
from supernode.emulator.runtime.host import check_room
from supernode.emulator.runtime.launch import Launch

if TYPE_CHECKING:
    from supernode.emulator.runtime.stream import Stream, Work

#: Launches in one pass; bytes of one array's block.
_LONGEST: Final = 64
_BLOCK_BYTES: Final = 128 << 10


def collect(items: Sequence[Work], first: int) -> list[Launch]:
    """The launches from `first` on that can be computed in one pass; fewer than two: none of them."""
    run: list[Launch] = []
    seen: dict[Storage, Buffer | None] = {}
    written: set[Storage] = set()
    made: set[Buffer] = set()
    size = -1
    for item in items[first : first + _LONGEST]:
        if type(item) is not Launch or not item.signature.fusable:
            break
        output = item.outputs[0]
        if size not in (-1, output.spec.size):
            break
        size = output.spec.size
        if not all(_usable(buffer, made) for buffer in item.inputs):
            break
        if item.signature.into and not _usable(output, made):
            break
        if not _apart(item, seen, written):
            break
        made.add(output)
        run.append(item)
    return run


def _apart(item: Launch, seen: dict[Storage, Buffer | None], written: set[Storage]) -> bool:
    """Take a launch's arrays into account, unless one is written that others see as another part of the same memory.

    Such views would meet each other's blocks at the wrong time.

    Args:
        item: the launch.
        seen: memory -> the one array that it is seen as; None: several.
        written: memory that existing arrays are written in.
    """
    output = item.outputs[0]
    for buffer in (*item.inputs, output):
        storage = buffer.storage
        if seen.setdefault(storage, buffer) is not buffer:
            if storage in written:
                return False
            seen[storage] = None
    if item.signature.into:
        if seen[output.storage] is None:
            return False
        written.add(output.storage)
    return True


def _usable(buffer: Buffer, made: set[Buffer]) -> bool:
    return buffer in made or (buffer.error is None and buffer.data is not None)


class Fused:
    """A run of launches, ready to be computed in one pass."""

    def __init__(self, run: Sequence[Launch]) -> None:
        self._run = run
        uses: dict[Buffer, int] = {}
        for item in run:
            for buffer in item.inputs:
                uses[buffer] = uses.get(buffer, 0) + 1
            if item.signature.into:
                uses[item.outputs[0]] = uses.get(item.outputs[0], 0) + 1
        new = [item.outputs[0] for item in run if not item.signature.into]
        #: Results that somebody may still see.
        self._kept = {buffer for buffer in new if buffer.held or buffer.uses != uses.get(buffer, 0)}
        if run[-1].outputs[0] in new:
            self._kept.add(run[-1].outputs[0])
        self._last = {item.outputs[0]: item for item in run if item.signature.into}

    def run(self, stream: Stream) -> None:
        """Compute, and spend the device time of each launch."""
        if stream.aborted:
            return
        try:
            done = self._compute(stream)
        except Exception as exc:
            if self._last:
                # Arrays that existed may be written in part.
                error = self._run[0].signature.call(self._run[0].number).failed(exc, stream.device.name)
                for item in self._run:
                    item.spoil(error)
                return
            # One by one, so that the call that cannot be done is the one that is told.
            for item in self._run:
                item.run(stream)
            return
        if not done:
            return
        for stream.ahead, item in enumerate(self._run):
            start = max([item.issued, *(buffer.storage.ready_seconds for buffer in item.inputs)])
            item.spend(stream, start)
        stream.ahead = 0

    def _compute(self, stream: Stream) -> bool:
        size = self._run[0].outputs[0].spec.size
        whole: dict[Buffer, AnyArray] = {}
        for item in self._run:
            for buffer in item.inputs:
                if buffer.data is not None:
                    whole[buffer] = buffer.data.reshape(-1)
            output = item.outputs[0]
            if output in self._last and output.data is not None:
                whole[output] = output.data.reshape(-1)
        kept = {}
        for buffer in self._kept:
            check_room(buffer.spec.nbytes)
            kept[buffer] = np.empty(buffer.spec.shape, DTYPES[buffer.spec.dtype])
            whole[buffer] = kept[buffer].reshape(-1)
        widest = max(array.itemsize for array in whole.values())
        length = max(1, _BLOCK_BYTES // widest)
        steps = self._steps(length, set(whole))
        for start in range(0, size, length):
            if stream.aborted:
                return False
            _block(steps, whole, start, min(size, start + length))
        for buffer, data in kept.items():
            buffer.data = data
        return True

    def _steps(self, length: int, stored: set[Buffer]) -> list[_Step]:
        """What is done with each block; a place for a block is used again once nothing reads it any more."""
        reads: dict[Buffer, int] = {}
        for number, item in enumerate(self._run):
            for buffer in item.inputs:
                reads[buffer] = number
        free: dict[Any, list[AnyArray]] = {}
        places: dict[Buffer, AnyArray] = {}
        steps = []
        for number, item in enumerate(self._run):
            signature, output = item.signature, item.outputs[0]
            place = None
            if signature.direct is not None and (output not in self._kept or output in self._last):
                dtype = DTYPES[output.spec.dtype]
                waiting = free.setdefault(dtype, [])
                place = waiting.pop() if waiting else np.empty(length, dtype)
                if output not in self._last:
                    places[output] = place
            step = _Step(item, place, store=output in stored)
            steps.append(step)
            for buffer in {*item.inputs, output}:
                if reads.get(buffer, number) <= number and buffer in places:
                    gone = places.pop(buffer)
                    free[gone.dtype].append(gone)
        return steps


class _Step:
    """One launch on a block.

    Attributes:
        place: where the function writes its result; None: into the array itself, or it makes a new one.
        store: the result's array is in memory.
    """

    __slots__ = ("constants", "direct", "inputs", "item", "output", "place", "store")

    def __init__(self, item: Launch, place: AnyArray | None, *, store: bool) -> None:
        self.item = item
        self.direct = item.signature.direct
        self.constants = item.signature.constants
        self.inputs = item.inputs
        self.output = item.outputs[0]
        self.place = place
        self.store = store


def _block(steps: Sequence[_Step], whole: dict[Buffer, AnyArray], start: int, stop: int) -> None:
    blocks: dict[Buffer, AnyArray] = {}
    count = stop - start
    for step in steps:
        arrays = []
        for buffer in step.inputs:
            block = blocks.get(buffer)
            if block is None:
                array = whole[buffer]
                block = array if array.size == 1 else array[start:stop]
                blocks[buffer] = block
            arrays.append(block)
        output = step.output
        if step.direct is None:
            signature = step.item.signature
            spec = Spec(output.spec.dtype, (count,))
            (result,) = signature.plan.kernel.run(arrays, signature.full, (spec,))  # type: ignore[union-attr]
            if step.store:
                target = whole[output][start:stop]
                np.copyto(target, result)
                result = target
        elif step.place is None:
            result = step.direct(*arrays, *step.constants, out=whole[output][start:stop])
        else:
            result = step.direct(*arrays, *step.constants, out=step.place[:count])
            if step.store:
                target = whole[output][start:stop]
                np.copyto(target, result)
                result = target
        blocks[output] = result
