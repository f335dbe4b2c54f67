"""What is said to fit into a job's status does fit, whatever the names."""

from __future__ import annotations

import json
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernode.api.job import MAX_WORKERS
from supernode.cluster import translate
from supernode.cluster.rendezvous import LONGEST_VARIABLE
from supernode.handlers.bounds import ALWAYS_FITS, LARGEST_PLACEMENT, too_many_workers, too_much_wiring
from supernode.scheduling.placement import Placement, WorkerPlacement


def size(workers: int, devices: int, pool: str, node: str) -> int:
    """Bytes of the largest placement with such names: no worker has the pool of the one before it."""
    places = [
        WorkerPlacement(0, node, pool, scattered(devices)),
        WorkerPlacement(1, f"{node[1:]}m", f"{pool[1:]}q", scattered(devices)),
    ]
    one, two = (
        len(json.dumps(translate.placement_status(Placement.of("team/job", places[:n]), 0), separators=(",", ":")))
        for n in (1, 2)
    )
    return one + (workers - 1) * (two - one - len(pool) - 1)  # the first `pool` names both


def scattered(devices: int) -> tuple[int, ...]:
    """So many of 64 devices, in as many pairs as there can be."""
    found, at = list[int](), 63
    while len(found) < devices:
        # The last run takes what must be neighbours, because too few are left out.
        free = at + 1 - (devices - len(found))
        for _ in range(2 if free > 0 else devices - len(found)):
            if len(found) < devices:
                found.append(at)
                at -= 1
        at -= 1
    return tuple(sorted(found))


names = st.integers(1, 253).map(lambda length: "n" * length)
pools = st.integers(1, 63).map(lambda length: "p" * length)


@given(st.integers(1, MAX_WORKERS), st.integers(1, 64), pools, names)
def test_what_fits_fits(workers: int, devices: int, pool: str, node: str) -> None:
    if not too_many_workers(workers, devices, [pool], [node]):
        assert size(workers, devices, pool, node) <= LARGEST_PLACEMENT


@given(st.integers(1, 64), pools, names)
def test_the_number_that_is_told_is_the_largest(devices: int, pool: str, node: str) -> None:
    said = too_many_workers(MAX_WORKERS, devices, [pool], [node])
    most = int(said.split("places of ")[1].split(";")[0].replace(",", ""))
    assert not too_many_workers(most, devices, [pool], [node])
    # Not far from what would really fit.
    assert size(most, devices, pool, node) > 0.85 * LARGEST_PLACEMENT


def test_a_thousand_workers_always_fit() -> None:
    assert size(ALWAYS_FITS, 64, "p" * 63, "n" * 253) < LARGEST_PLACEMENT // 1.5
    assert too_many_workers(ALWAYS_FITS, 64, ["p" * 63], ["n" * 253]) == ""


def test_it_says_how_many_there_may_be() -> None:
    said = too_many_workers(100_000, 8, ["dcu"], ["node-00001"])
    assert said == (
        "100,000 workers are too many for one job: with node names of up to 10 characters its status has room for the "
        "places of 12,766; fewer workers with more accelerators each would do"
    )


def test_a_wiring_that_no_program_could_be_started_with_is_refused_with_numbers() -> None:
    at_most = "x" * (LONGEST_VARIABLE - len("SUPERNODE_TOPOLOGY=") - 1)
    assert too_much_wiring(9000, at_most) == ""
    assert too_much_wiring(9000, f"{at_most}x") == (
        "9,000 workers are too many for emulated devices here: SUPERNODE_TOPOLOGY would have 131,073 bytes with the "
        "wiring between all, and Linux starts a program with at most 131,072; fewer workers with more accelerators "
        "each would do"
    )


def test_linux_has_that_limit() -> None:
    """`env` can't even be started with one byte more (execve(2), E2BIG)."""
    name = "SUPERNODE_TOPOLOGY"
    room = LONGEST_VARIABLE - len(name) - 2
    assert subprocess.run(["env"], env={name: "x" * room}, stdout=subprocess.DEVNULL).returncode == 0
    with pytest.raises(OSError, match="Argument list too long"):
        subprocess.run(["env"], env={name: "x" * (room + 1)}, stdout=subprocess.DEVNULL)
