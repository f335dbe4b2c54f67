"""Faults that seeds have found, told as scenes: each of them failed before it was mended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest
from tests.soak.cluster import Plan
from tests.soak.scene import job, play
from tests.soak.schedule import Schedule

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger = logging.getLogger("supernode")
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    yield
    logger.setLevel(level)
    logger.propagate = propagate


def test_a_borrower_does_not_stop_who_is_within_its_guarantee() -> None:
    """A higher priority stopped the small gang, which took its guarantee back, which the other one borrowed again."""

    async def tell(schedule: Schedule) -> None:
        await schedule.users.make("team-a/small", "plain", (2, 1), "low")
        await asyncio.sleep(20)
        await schedule.users.make("team-b/large", "plain", (4, 2), "high")
        await asyncio.sleep(60)
        assert job(schedule, "team-a/small")["status"]["attempt"] == 0

    done = play(Plan(first=4, guaranteed={"team-a": 2}), tell)
    assert done.promises.broken == []


def test_what_is_taken_back_goes_to_no_other_borrower() -> None:
    """Two gangs of a higher priority took turns on what a third one took back for itself again and again."""

    async def tell(schedule: Schedule) -> None:
        await schedule.users.make("team-b/one", "plain", (3, 2), "high")
        await asyncio.sleep(20)
        await schedule.users.make("team-b/two", "plain", (3, 2), "high")
        await schedule.users.make("team-a/third", "plain", (2, 2), "low")
        await asyncio.sleep(60)
        assert job(schedule, "team-a/third")["status"]["state"] == "Running"

    done = play(Plan(first=3, guaranteed={"team-a": 4}), tell)
    assert done.promises.broken == []
    assert done.world.ledger["quota reclaimed"] == 1


def test_nobody_borrows_what_one_who_waits_would_have_back_at_once() -> None:
    """The small gang took its guarantee back, its own namespace's wide one had the room before it by its priority, and
    gave way to the other namespace's, which had to give the guarantee back again: three gangs for ever.
    """

    async def tell(schedule: Schedule) -> None:
        await schedule.users.make("team-c/theirs", "plain", (4, 2), "high")
        await asyncio.sleep(20)
        await schedule.users.make("team-b/wide", "plain", (4, 2), "mid")
        await schedule.users.make("team-b/small", "plain", (1, 2), "low")
        await asyncio.sleep(120)
        assert job(schedule, "team-c/theirs")["status"]["attempt"] == 1
        assert job(schedule, "team-b/wide")["status"]["attempt"] == 0
        assert job(schedule, "team-b/wide")["status"]["state"] == "Running"

    done = play(Plan(first=4, guaranteed={"team-b": 2}), tell)
    assert done.promises.broken == []


def test_a_place_that_was_written_and_is_gone_before_the_next_look_is_free() -> None:
    """Its job was deleted while its first requests were under way; the next job of that name could not be placed."""

    async def tell(schedule: Schedule) -> None:
        schedule.world.network.late = 0.0
        for attempt in range(20):
            await schedule.users.make("team-a/again", "plain", (4, 2), "low")
            for _ in range(5000):
                if (job(schedule, "team-a/again").get("status") or {}).get("placement"):
                    break
                await asyncio.sleep(0.001)
            else:
                pytest.fail("the next job of that name got no place")
            await schedule.users.delete(job(schedule, "team-a/again"))
            await asyncio.sleep(10 if attempt % 2 else 5)

    assert play(Plan(first=4), tell).promises.broken == []
