"""Calm after all trouble: every job comes to its end, goes when it is told to, and nothing is left of it.

In: the cluster as the trouble has left it. Out: what did not end well, as broken promises.
"""

from __future__ import annotations

import asyncio
import contextlib

from tests.soak.cluster import Cluster
from tests.soak.kubelet import Kubelet
from tests.soak.trouble import Trouble
from tests.soak.users import Users
from tests.soak.words import FINISHED, why
from tests.soak.world import Network, World

from supernode.errors import ClusterError, NotFoundError

# Seconds of calm in which all jobs must end, and in which all must be gone when they are deleted.
CALM = 1800.0
GONE = 600.0
# Times that this is looked at: a user's job may have been on its way when calm came, and come after all others went.
LATE = 3


async def until_calm(world: World, cluster: Cluster, users: Users, kubelet: Kubelet, trouble: Trouble) -> None:
    """No more trouble; then wait for the end of everything."""
    promises, faults = users.promises, world.faults
    promises.log("--- calm")
    faults.conflict = faults.throttle = faults.error = faults.lost_answer = faults.timeout = 0.0
    faults.drop_watch = faults.expire_watch = 0.0
    world.barred.clear()
    world.network = Network()
    kubelet.calm = trouble.calm = True
    for replica in trouble.replicas:
        replica.skew = 0.0
    await cluster.mend()
    for job in users.jobs():
        with contextlib.suppress(ClusterError):
            await users.edit(job, {"runPolicy": {"suspend": False}})
    for _ in range(LATE):
        await _all_end(world, users)
        if promises.broken:
            return
        await asyncio.sleep(60)
        if not users.jobs():
            break
    promises.at_the_end(users.jobs())


async def _all_end(world: World, users: Users) -> None:
    promises, end = users.promises, world.loop.time() + CALM
    while left := [job for job in users.jobs() if (job.get("status") or {}).get("state") not in FINISHED]:
        await asyncio.sleep(2)
        if promises.broken:
            return
        if world.loop.time() > end:
            promises.fail(f"job lost: after {CALM:.0f} s of calm {why(left)}")
            return
    for job in users.jobs():
        with contextlib.suppress(NotFoundError):
            await users.delete(job)
    for _ in range(int(GONE) // 2):
        await asyncio.sleep(2)
        if promises.broken or not users.jobs():
            return
