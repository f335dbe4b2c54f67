"""Seeded schedules in every test run: the promises hold, all that is said to happen does, and a seed plays again."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys

import pytest
from tests.soak.cluster import Plan
from tests.soak.ledger import ENOUGH, GROUPS, RARE, Ledger, missing, table
from tests.soak.scene import play
from tests.soak.schedule import Schedule

COUNT = os.environ.get("SUPERNODE_SOAK", "50")

pytestmark = pytest.mark.timeout(900)


def soak(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tests.soak", *arguments], capture_output=True, text=True, timeout=850)


def test_the_promises_hold_in_seeded_schedules() -> None:
    """It fails too when one of the faults or of the users' deeds has not occurred once."""
    done = soak("--count", COUNT)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-4000:]


def test_a_seed_is_the_same_run_every_time() -> None:
    first, second = soak("--seed", "1"), soak("--seed", "1")
    traces = [re.findall(r"trace ([0-9a-f]+)", done.stdout) for done in (first, second)]
    assert traces[0] == traces[1] != []


def test_an_operator_that_stops_may_be_killed_at_any_moment_of_it() -> None:
    """Its last request has no answer then: whoever waited for that waited for ever (seed 118)."""

    async def tell(schedule: Schedule) -> None:
        replica = schedule.replicas[0]
        for turns in range(1, 30):
            await asyncio.sleep(20)  # it leads again
            replica.world.loop.in_turns(turns, replica.kill)
            await schedule.step(replica.stop)

    assert play(Plan(), tell).problems == []


def test_a_step_that_never_ends_is_told() -> None:
    async def tell(schedule: Schedule) -> None:
        await schedule.step(asyncio.Event().wait)  # type: ignore[arg-type]

    with pytest.raises(TimeoutError):
        play(Plan(), tell)


def test_what_never_happened_is_told() -> None:
    everything = Ledger({name: 1 for names in GROUPS.values() for name in names})
    assert missing(everything, 1000) == []
    quiet = Ledger(everything)
    quiet["409 conflict"] = quiet["preemption"] = quiet[RARE[0]] = 0
    assert missing(quiet, ENOUGH["injected"] - 1) == []
    assert missing(quiet, ENOUGH["injected"]) == ["409 conflict"]
    assert missing(quiet, 1000) == ["409 conflict", "preemption", RARE[0]]
    assert sum(line.count("      1") for line in table(everything)) == sum(len(names) for names in GROUPS.values())
    with pytest.raises(KeyError):
        everything.note("something else")
