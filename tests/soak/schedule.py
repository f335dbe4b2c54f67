"""One schedule: a cluster, jobs, users and bad luck, all drawn from one seed; then calm, and everything must end well.

In: a seed. Out: what was broken, the trace of all that happened, and how often what happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.soak.cluster import BARRED, FIRST, TEAMS, Cluster, Plan
from tests.soak.connection import DirectClient
from tests.soak.ending import until_calm
from tests.soak.kubelet import Kubelet
from tests.soak.promises import Ears, Promises
from tests.soak.replica import Replica
from tests.soak.same import same_every_time
from tests.soak.trouble import Trouble
from tests.soak.users import Users
from tests.soak.virtual import VirtualLoop
from tests.soak.world import USER, Network, World

from supernode.errors import ClusterError
from supernode.local.server import Faults

# Things that happen in a schedule before the calm.
STEPS = 32
# Seconds of its time in which each of them is over: what takes longer would take for ever.
LONGEST = 3600.0
# What the server counts of its own, in the ledger's words.
SERVED = {
    "conflict": "409 conflict",
    "throttle": "429 too many requests",
    "error": "500 nothing done",
    "lost_answer": "500 but done",
    "timeout": "504 timeout",
    "drop_watch": "watch dropped",
    "expire_watch": "410 watch start",
}


@dataclass(frozen=True)
class Outcome:
    """What became of a schedule. `seconds`: of its own time."""

    seed: int
    broken: tuple[str, ...]
    trace: tuple[str, ...]
    seconds: float
    counts: Counter[str] = field(default_factory=Counter)


def run(seed: int) -> Outcome:
    """Run one schedule."""
    loop = VirtualLoop()
    with contextlib.ExitStack() as stack:
        stack.callback(loop.close)
        for each in same_every_time(seed, loop):
            stack.enter_context(each)
        schedule = Schedule(seed, loop)
        try:
            loop.run_until_complete(schedule.run())
        except Exception as exc:
            logging.getLogger("soak").debug("the schedule ended", exc_info=exc)
            schedule.problems.append(f"the schedule itself ended: {type(exc).__name__}: {exc}")
        finally:
            schedule.end()
        return schedule.outcome()


def _bad_luck(seed: int, chance: random.Random) -> tuple[Faults, Network, float, int]:
    """Faults of the server and of the way to it, most seconds of that way, and how many operators there are."""
    faults = Faults(
        seed=seed,
        conflict=chance.choice([0.0, 0.03, 0.1]),
        throttle=chance.choice([0.0, 0.02]),
        error=chance.choice([0.0, 0.02]),
        lost_answer=chance.choice([0.0, 0.02, 0.05]),
        timeout=chance.choice([0.0, 0.01]),
        drop_watch=chance.choice([0.0, 0.3]),
        expire_watch=chance.choice([0.0, 0.1]),
        delay_event=chance.choice([0.0, 0.1, 1.0]),
        drop_after=5.0,
        exempt=(USER,),
    )
    network = Network(
        no_answer=chance.choice([0.0, 0.02]),
        late=chance.choice([0.0, 0.0, 0.03]),
        page_gone=chance.choice([0.0, 0.05]),
        watch_gone=chance.choice([0.0, 0.01]),
        stall=chance.choice([0.0, 0.02]),
        twice=0.03,
        reorder=0.1,
    )
    return faults, network, chance.choice([0.01, 0.1, 0.5]), chance.randint(1, 2)


class Schedule:
    """All choices come from the seed.

    Args:
        seed: of everything.
        loop: its time.
        plan: a cluster that is told instead of drawn; then nothing goes wrong by itself either.
    """

    def __init__(self, seed: int, loop: VirtualLoop, plan: Plan | None = None) -> None:
        self.seed, self.loop = seed, loop
        chance = self.chance = random.Random(seed)
        self.problems: list[str] = []
        self.drawn = plan is None
        faults, network, latency, operators = _bad_luck(seed, chance)
        if plan is not None:
            faults, network, latency, operators = Faults(exempt=(USER,)), Network(), 0.01, 1
        self.world = world = World(loop, chance, faults, network, latency)
        self.cluster = Cluster(world, DirectClient(world, USER), plan or Plan.drawn(chance))
        self.promises = Promises(world, {})
        self.users = Users(world, self.cluster, self.promises)
        self.kubelet = Kubelet(world, self.cluster, told=plan is not None)
        lease = chance.randint(4, 10)
        self.replicas = [Replica(world, f"operator-{index}", lease) for index in range(operators)]
        self.trouble = Trouble(world, self.cluster, self.users, self.kubelet, self.replicas)
        self.ears = Ears(self.promises)
        self.background: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """From the first node to the last trace."""
        await self.begin()
        await self.users.new_job()
        for _ in range(STEPS):
            await self.step(self.chance.choice(self.steps()))
            await asyncio.sleep(self.chance.choice([0.0, 0.3, 1.0, 3.0, 15.0, 30.0]) * self.chance.random())
            if self.promises.broken:
                return
        await self.finish()

    async def begin(self) -> None:
        """The cluster is there, and operators run."""
        await self.cluster.furnish()
        self.promises.limits[FIRST, TEAMS[0]] = self.cluster.limit
        logging.getLogger("supernode").addHandler(self.ears)
        self.promises.start()
        parts = [self._supervise(), self.kubelet.run(), self._ticks()]
        chance = random.Random(f"barred {self.seed}")
        if self.drawn and chance.random() < 0.3:
            self.world.barred.add(BARRED)
            parts.append(self.users.barred_jobs(chance))
        self.background = [self.loop.create_task(part) for part in parts]

    async def finish(self) -> None:
        """Calm."""
        await until_calm(self.world, self.cluster, self.users, self.kubelet, self.trouble)
        for task in self.background:
            if task.done() and task.exception() is not None:
                raise task.exception() or RuntimeError

    def steps(self) -> list[Callable[[], Awaitable[None]]]:
        """What may happen; what is listed more often happens more often."""
        users, trouble = self.users, self.trouble
        often = [users.new_job] * 5 + [users.scatter] + [trouble.ambush] * 5 + [trouble.flap] * 2
        operators = [trouble.kill, trouble.kill_at_an_await, trouble.stop, trouble.cut, trouble.jump]
        nodes = [trouble.node_away, trouble.taint, trouble.unhealthy, trouble.fail_pod, trouble.break_gang]
        people = [users.delete_job, users.suspend, users.scale, users.urgency, users.ask_for_moves, users.delete_pod]
        return [*often, *operators, *nodes, *people]

    async def step(self, chosen: Callable[[], Awaitable[None]]) -> None:
        """One thing happens."""
        self.promises.log(f"--- {getattr(chosen, '__name__', chosen)}")
        with contextlib.suppress(ClusterError):
            async with asyncio.timeout(LONGEST):
                await chosen()

    async def named(self, name: str, seconds: float) -> None:
        """One thing that users or trouble can do, by its name; then so much time goes by."""
        await self.step(getattr(self.users, name, None) or getattr(self.trouble, name))
        await asyncio.sleep(seconds)

    async def _supervise(self) -> None:
        """Whoever is dead comes again, as its Deployment would have it."""
        while True:
            for replica in self.replicas:
                if replica.dead:
                    if replica.lives:
                        self.promises.dead.add(replica.identity)
                    if replica.main is not None and not replica.main.cancelled() and replica.main.exception():
                        exc = replica.main.exception()
                        self.problems.append(f"{replica.identity} ended: {type(exc).__name__}: {exc}")
                    replica.start()
            await asyncio.sleep(self.chance.uniform(0.2, 4.0))

    async def _ticks(self) -> None:
        while True:
            await asyncio.sleep(5)
            self.promises.tick()

    def end(self) -> None:
        """Nothing of it is left behind."""
        logging.getLogger("supernode").removeHandler(self.ears)
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())

    def outcome(self) -> Outcome:
        """What became of it."""
        counts = Counter(self.world.ledger)
        for name, word in SERVED.items():
            counts[word] += self.world.faults.counts.get(name, 0)
        broken = (*self.promises.broken, *self.problems)
        return Outcome(self.seed, broken, tuple(self.promises.trace), self.loop.time(), counts)
