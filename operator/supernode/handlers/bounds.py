"""How large a job may become: its status, and what its workers are told of each other. Pure.

The API server keeps an object only up to a size (etcd's 1.5 MiB as it comes), and most of a large job's is its
placement: a line for each worker. A gang whose placement would not fit is told so before it is placed, because it could
never be written down. Some frameworks want the addresses of all workers in one variable, and Linux starts no program
with one that is too long. Flows in: a gang's sizes and names. Flows out: a sentence, or nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Final

from supernode.cluster.rendezvous import Gang, most_workers, overflow

#: Bytes of a placement at most; the rest is for the job's spec, the other fields, and who has set which of them.
LARGEST_PLACEMENT: Final = 2**20
#: Workers that fit whatever their nodes and pools are called and however many devices they have.
ALWAYS_FITS: Final = 1000

# {"rank":,"node":"","pool":"","devices":[]}, without the names and numbers; and what a placement says besides.
_LINE: Final = 44
_REST: Final = 64 * 1024
# Two digits and a comma: a node has 64 devices at most.
_DEVICE: Final = 3


@lru_cache(maxsize=256)
def too_many_addresses(framework: str, gang: Gang, taken: frozenset[str] = frozenset()) -> str:
    """Why the workers of a gang can't be told of each other; empty where they can.

    Args:
        framework: a value of ``spec.framework``.
        gang: names and sizes.
        taken: variables that the template sets itself.
    """
    found = overflow(framework, gang, taken)
    if found is None:
        return ""
    what, size, most = found
    whose = "a ConfigMap holds" if framework == "MPI" else "Linux starts a program with"
    return (
        f"{gang.workers:,} workers are too many for {framework}: {what} would have {size:,} bytes with the addresses "
        f"of all, and {whose} at most {most:,}; with these names up to {most_workers(framework, gang, taken):,} "
        f"fit; fewer workers with more accelerators each would do"
    )


def too_many_workers(workers: int, devices: int, pools: Sequence[str], nodes: Collection[str]) -> str:
    """Why the placement of a gang can't be written down; empty where it can.

    Args:
        workers: of the gang.
        devices: of each worker.
        pools: names of the pools that it may use.
        nodes: names of all nodes.
    """
    if workers <= ALWAYS_FITS:
        return ""
    longest = max(map(len, nodes), default=0)
    line = _LINE + len(str(workers)) + longest + max(map(len, pools), default=0) + _DEVICE * devices
    most = (LARGEST_PLACEMENT - _REST) // line
    if workers <= most:
        return ""
    return (
        f"{workers:,} workers are too many for one job: with node names of up to {longest} characters its status has "
        f"room for the places of {most:,}; fewer workers with more accelerators each would do"
    )
