"""Work of one kernel shared out over the host's cores.

Flows in: a function and the pieces of its work, cut the same however many cores there are. Flows out: nothing; each
piece writes its own part of the results, so that they do not depend on the number of threads. NumPy lets go of the
interpreter inside its loops, which is why threads help. Not here: streams and devices (`runtime`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Final, TypeVar

import numpy as np

Piece = TypeVar("Piece")

#: Threads that work on one kernel at most: beyond the memory's speed more do not help.
_MOST: Final = 4
_lock = threading.Lock()
_pools: dict[int, ThreadPoolExecutor] = {}


def cores() -> int:
    """Threads that a kernel may use: the cores that this process may run on, up to four."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(found, _MOST)


def share(work: Callable[[Piece], Any], pieces: Iterable[Piece], *, worth: bool = True) -> None:
    """Do every piece, in any order, on this thread and some more.

    Args:
        work: must write to places that no other piece writes or reads.
        pieces: as many as one likes.
        worth: False: too little work for threads; it is done here, in order.
    """
    todo = list(pieces)
    threads = min(cores(), len(todo)) if worth else 1
    if threads <= 1:
        for piece in todo:
            work(piece)
        return
    left = iter(todo)
    guard = threading.Lock()

    def loop() -> None:
        # NaN and infinity are results; the setting of the calling thread does not reach this one.
        with np.errstate(all="ignore"):
            while True:
                with guard:
                    piece = next(left, _END)
                if piece is _END:
                    return
                work(piece)  # type: ignore[arg-type]

    others = [_pool().submit(loop) for _ in range(threads - 1)]
    try:
        loop()
    finally:
        # Whatever happened here, nobody may still be writing when this returns. Those that other kernels have kept from
        # starting are not needed any more.
        begun = [other for other in others if not other.cancel()]
        wait(begun)
    for other in begun:
        other.result()


# Bytes of a block of rows, so that it and its temporaries stay in a core's cache.
_BLOCK_BYTES: Final = 1 << 18
# Elements of an array below which threads cost more than they bring.
WORTH: Final = 1 << 18


def row_blocks(rows: int, columns: int, itemsize: int) -> list[slice]:
    """Rows of a matrix in blocks; the cut depends on the sizes alone."""
    step = max(1, _BLOCK_BYTES // max(1, columns * itemsize))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


_END: Final = object()


def _pool() -> ThreadPoolExecutor:
    with _lock:
        process = os.getpid()
        pool = _pools.get(process)
        if pool is None:
            # A forked child has none of its parent's threads.
            _pools.clear()
            pool = _pools[process] = ThreadPoolExecutor(_MOST, thread_name_prefix="kernel")
        return pool
