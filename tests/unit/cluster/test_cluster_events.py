"""Events about one job for one reason keep their distance where that is asked for."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from supernode.cluster.client import Client
from supernode.cluster.events import Events
from supernode.cluster.kinds import JOBS, Json, Kind

START = datetime(2026, 1, 1, tzinfo=UTC)


class Written:
    """Stands for the connection: what was created and patched."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, int]] = []

    async def create(self, kind: Kind, obj: Json, namespace: str) -> Json:
        self.told.append((obj["reason"], obj["message"], 1))
        return obj

    async def patch(self, kind: Kind, name: str, patch: Json, namespace: str) -> Json:
        self.told.append(("again", name[:3], patch["count"]))
        return patch


def a_job(name: str) -> Json:
    return {"metadata": {"name": name, "namespace": "default", "uid": name}}


async def told(*calls: tuple[float, str, str, str, float]) -> tuple[list[bool], list[Any]]:
    """(second, job, reason, message, pause) one after the other."""
    now, written = [START], Written()
    events = Events(cast(Client, written), "op", now=lambda: now[0])
    answers = []
    for second, job, reason, message, pause in calls:
        now[0] = START + timedelta(seconds=second)
        answers.append(events.warning(JOBS, a_job(job), reason, message, pause=pause))
    task = asyncio.create_task(events.run())
    await events.drain()
    task.cancel()
    return answers, written.told


async def test_within_the_pause_only_the_first_is_told() -> None:
    answers, written = await told(
        (0, "a", "Waits", "4 free", 0.0),
        (20, "a", "Waits", "3 free", 60.0),
        (59, "a", "Waits", "2 free", 60.0),
        (60, "a", "Waits", "1 free", 60.0),
        (61, "b", "Waits", "1 free", 60.0),
        (62, "a", "Other", "why", 60.0),
        (63, "a", "Waits", "0 free", 0.0),
    )
    assert answers == [True, False, False, True, True, True, True]
    assert written == [
        ("Waits", "4 free", 1),
        ("Waits", "1 free", 1),
        ("Waits", "1 free", 1),
        ("Other", "why", 1),
        ("Waits", "0 free", 1),
    ]


async def test_a_clock_that_was_put_back_silences_nobody() -> None:
    answers, _ = await told((100, "a", "Waits", "4 free", 60.0), (10, "a", "Waits", "3 free", 60.0))
    assert answers == [True, True]
