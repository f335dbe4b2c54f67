"""How large a job may become: its status, and what its workers are told of each other. Pure.

The API server keeps an object only up to a size (etcd's 1.5 MiB as it comes), and most of a large job's is its
placement: a node's name for each worker, and in the worst case a pool's and devices too. A gang whose placement would
not fit is told so before it is placed, because it could never be written down. Some frameworks want the addresses of
all workers in one variable, and Linux starts no program with one that is too long. Flows in: a gang's sizes and names.
Flows out: a sentence, or nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Final

from supernode.cluster.rendezvous import LONGEST_VARIABLE, Gang, most_workers, overflow
from supernode.names import ENV_TOPOLOGY
from supernode.scheduling.demand import MOST_DEVICES

#: Bytes of a placement at most; the rest is for the job's spec, the other fields, and who has set which of them.
LARGEST_PLACEMENT: Final = 2**20
#: Workers that fit whatever their nodes and pools are called and however many devices they have.
ALWAYS_FITS: Final = 1000

# {"pool":"","nodes":[""],"devices":[""]}, without the names and numbers, for a worker that is in nothing like its
# neighbours; and what a placement says besides.
_LINE: Final = 40
_REST: Final = 64 * 1024


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


def too_much_wiring(workers: int, text: str) -> str:
    """Why the sidecars of a gang can't be told how it is wired; empty where they can.

    Args:
        workers: of the gang.
        text: what they are told, as ``SUPERNODE_TOPOLOGY``.
    """
    size = len(ENV_TOPOLOGY) + len(text.encode()) + 2
    if size <= LONGEST_VARIABLE:
        return ""
    return (
        f"{workers:,} workers are too many for emulated devices here: {ENV_TOPOLOGY} would have {size:,} bytes with "
        f"the wiring between all, and Linux starts a program with at most {LONGEST_VARIABLE:,}; fewer workers with "
        "more accelerators each would do"
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
    line = _LINE + longest + max(map(len, pools), default=0) + _longest_text(devices)
    most = (LARGEST_PLACEMENT - _REST) // line
    if workers <= most:
        return ""
    return (
        f"{workers:,} workers are too many for one job: with node names of up to {longest} characters its status has "
        f"room for the places of {most:,}; fewer workers with more accelerators each would do"
    )


def _longest_text(devices: int) -> int:
    """Most letters of a set of so many indices: alone two digits and a comma, two neighbours twice that.

    The fewer are left out, the fewer runs there can be.
    """
    return min(3 * devices, 6 * (MOST_DEVICES + 1 - devices))
