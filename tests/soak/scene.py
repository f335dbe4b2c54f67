"""A scene: what happens is told, not drawn, on the same cluster with the same checks. For faults that were found.

Everything is quiet unless the scene says otherwise: requests take 10 ms, nothing fails, pods run until the calm.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

from tests.soak.cluster import Plan
from tests.soak.same import same_every_time
from tests.soak.schedule import Schedule
from tests.soak.virtual import VirtualLoop

from supernode.cluster.kinds import Json


def play(plan: Plan, tell: Callable[[Schedule], Awaitable[None]], seed: int = 1) -> Schedule:
    """What is told, then calm; gives the schedule, with what was broken in `promises.broken`."""
    loop = VirtualLoop()
    with contextlib.ExitStack() as stack:
        stack.callback(loop.close)
        for each in same_every_time(seed, loop):
            stack.enter_context(each)
        schedule = Schedule(seed, loop, plan)

        async def whole() -> None:
            await schedule.begin()
            await tell(schedule)
            await schedule.finish()

        try:
            loop.run_until_complete(whole())
        finally:
            schedule.end()
    return schedule


def job(schedule: Schedule, key: str) -> Json:
    """A job as the server has it."""
    namespace, _, name = key.partition("/")
    found = [
        j for j in schedule.users.jobs() if (j["metadata"]["namespace"], j["metadata"]["name"]) == (namespace, name)
    ]
    return found[0]
