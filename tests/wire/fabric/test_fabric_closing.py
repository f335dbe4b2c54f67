"""Fabrics that are closed at any moment of their start: no connection is left open and no thread ends in an error."""

from __future__ import annotations

import gc
import random
import sys
import time
from collections.abc import Iterator

import pytest
from tests.wire.emulator.conftest import CHIP

from supernode.emulator.fabric import FabricConfig
from supernode.emulator.fabric.fabric import Fabric
from supernode.emulator.server import _FabricDoor

STARTS = 60


@pytest.fixture
def hurried_threads() -> Iterator[None]:
    """Threads change places fifty times as often as usual, so that races show."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hurried_threads")
@pytest.mark.parametrize("seed", range(3))
def test_a_fabric_may_be_closed_at_any_moment_of_its_start(seed: int) -> None:
    # What fails here fails as a warning (an unclosed socket, an exception in a thread); warnings are errors.
    chance = random.Random(seed)
    for _ in range(STARTS // 3):
        workers = chance.choice([2, 3])
        doors: list[_FabricDoor] = []
        for rank in range(workers):
            first = ":".join(map(str, doors[0].fabric.address)) if doors else ""
            config = FabricConfig(
                rank, workers, 1, listen_port=0, rendezvous=first, secret="x" * 32, chip=CHIP, start_timeout=20.0
            )
            doors.append(_FabricDoor(Fabric(config)))
        time.sleep(chance.choice([0.0, 0.005, 0.02]) * chance.random())
        chance.shuffle(doors)
        for door in doors:
            door.close()
    del doors, door
    gc.collect()
