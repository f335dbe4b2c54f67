"""Faults of the kind that the operator must not have, to plant: the promises' checks have to find each of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

from supernode.cluster import status
from supernode.cluster.cache import key_of, version_of
from supernode.cluster.kinds import Json
from supernode.cluster.observe import Observer
from supernode.errors import ConflictError
from supernode.handlers import facts, lifecycle
from supernode.handlers.life import State
from supernode.handlers.waiting import Waiting


def two_leaders() -> Any:
    """Every operator believes that it leads."""
    return mock.patch.multiple("supernode.cluster.lease.Lease", guard=lambda self: 30.0, _free=lambda self, lease: True)


def ending_is_over() -> Any:
    """A pod that is only being deleted counts as gone."""
    honest = facts.pod_facts

    def there(*args: Any, **kwargs: Any) -> Any:
        return [pod for pod in honest(*args, **kwargs) if pod.ends_at is None]

    return mock.patch("supernode.handlers.jobs.pod_facts", there)


def finalizer_stays() -> Any:
    """The finalizer is never taken off."""
    honest = status.set_finalizer

    async def keep(client: Any, kind: Any, obj: Json, finalizer: str, *, present: bool) -> Json:
        return await honest(client, kind, obj, finalizer, present=present) if present else obj

    return mock.patch("supernode.cluster.status.set_finalizer", keep)


def finalizer_too_early() -> Any:
    """The finalizer is never put on: a job goes before its pods."""
    honest = status.set_finalizer

    async def never(client: Any, kind: Any, obj: Json, finalizer: str, *, present: bool) -> Json:
        return obj if present else await honest(client, kind, obj, finalizer, present=present)

    return mock.patch("supernode.cluster.status.set_finalizer", never)


def half_a_gang() -> Any:
    """A worker that has failed counts as one that runs: the others go on without it."""
    honest = facts.pod_facts

    def well(*args: Any, **kwargs: Any) -> Any:
        return [
            replace(pod, phase="Running", broken=False, winding_down=False) if pod.phase == "Failed" else pod
            for pod in honest(*args, **kwargs)
        ]

    return mock.patch("supernode.handlers.jobs.pod_facts", well)


def no_quota() -> Any:
    """Quotas are not read."""
    return mock.patch("supernode.scheduling.snapshot.PoolInfo.quota_of", return_value=None)


def stale_events() -> Any:
    """What comes last wins, whatever version it carries, and what is gone comes back."""

    def take(self: Any, obj: Json, trim: Callable[[Json], Json]) -> bool:
        key = key_of(obj)
        old = self._objects.get(key)
        if old is not None and version_of(old) == version_of(obj):
            return False
        self._objects[key] = new = trim(obj)
        self._tell(old, new)
        return True

    return mock.patch("supernode.cluster.cache.Store._take", take)


def ignored_conflicts() -> Any:
    """A status that was refused counts as written."""
    honest = status.write

    async def write(client: Any, kind: Any, obj: Json, wanted: Json, *, look: bool = False) -> Json:
        try:
            return await honest(client, kind, obj, wanted, look=look)
        except ConflictError:
            version = str(int(obj["metadata"]["resourceVersion"]) + 1)
            return {**obj, "metadata": {**obj["metadata"], "resourceVersion": version}, "status": wanted}

    return mock.patch("supernode.cluster.status.write", write)


def unread_lists() -> Any:
    """It decides before it has read what there is."""

    async def at_once(caches: Any) -> None:
        return None

    return mock.patch("tests.soak.replica._synced", at_once)


def no_guard() -> Any:
    """It writes on when it has lost the lease."""
    return mock.patch.multiple("supernode.cluster.lease.Lease", guard=lambda self: 30.0, leading=True)


def no_second_try() -> Any:
    """The first failure ends a job, whatever its backoffLimit."""
    honest = facts.run_policy
    return mock.patch(
        "supernode.handlers.facts.run_policy", lambda obj, model: replace(honest(obj, model), backoff_limit=0)
    )


def one_is_enough() -> Any:
    """A job has succeeded when one of its workers has."""
    honest = facts.pod_facts

    def done(*args: Any, **kwargs: Any) -> Any:
        found = honest(*args, **kwargs)
        ended = {pod.attempt for pod in found if pod.phase == "Succeeded"}
        return [replace(pod, phase="Succeeded") if pod.attempt in ended else pod for pod in found]

    return mock.patch("supernode.handlers.jobs.pod_facts", done)


def lost_from_the_queue() -> Any:
    """Who finds no place once is never asked again."""
    honest = Waiting.candidates
    seen: set[str] = set()

    def candidates(self: Any) -> Any:
        found = [each for each in honest(self) if each.uid not in seen]
        seen.update(each.uid for each in found)
        return found

    return mock.patch("supernode.handlers.waiting.Waiting.candidates", candidates)


def attempts_begin_again() -> Any:
    """Every attempt is the first: what an earlier one has left looks like its own."""
    honest = facts.job_facts

    def first(obj: Json, *args: Any, **kwargs: Any) -> Any:
        found = honest(obj, *args, **kwargs)
        return replace(found, attempt=0) if found.placed_attempt is None else found

    return mock.patch("supernode.handlers.reading.job_facts", first)


def ended_runs_again() -> Any:
    """A job that has ended is queued again when it has been over for a while."""
    honest = lifecycle._after_the_end

    def again(keep: Any, job: Any, pods: Any, now: float) -> Any:
        over = job.completed is not None and now > job.completed + 3
        return replace(keep, state=State.RESTARTING) if over else honest(keep, job, pods, now)

    return mock.patch("supernode.handlers.lifecycle._after_the_end", again)


def restarting_is_free() -> Any:
    """A gang that restarts holds nothing."""
    honest = Observer._claimed

    def claimed(self: Any, job: Any) -> Any:
        obj = self._stores.jobs.get(job) or {}
        return None if (obj.get("status") or {}).get("state") == "Restarting" else honest(self, job)

    return mock.patch("supernode.cluster.observe.Observer._claimed", claimed)


def nobody_sweeps() -> Any:
    """Pods of jobs that are gone stay; and the server's own garbage collection, a second net, stands still."""

    async def leave(context: Any) -> None:
        return None

    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch("supernode.handlers.cycle.sweep", leave))
    stack.enter_context(mock.patch("supernode.local.server.garbage.Garbage._look_at", return_value=None))
    return stack


def blind_writes() -> Any:
    """Status is written over whatever has changed since it was read, the claim before its time included."""

    async def write(client: Any, kind: Any, obj: Json, wanted: Json, *, look: bool = False) -> Json:
        patch = status.difference(obj.get("status") or {}, wanted)
        metadata = obj["metadata"]
        if not patch:
            return obj
        name, namespace = metadata["name"], metadata.get("namespace")
        written: Json = await client.patch(kind, name, {"status": patch}, namespace, subresource="status")
        return written

    return mock.patch("supernode.cluster.status.write", write)


def nobody_asks_first() -> Any:
    """Others make room for a gang before its pods are known to be let in."""

    async def unasked(self: Any, candidate: Any, wait: Any) -> Any:
        return wait

    return mock.patch("supernode.handlers.rehearse.Rehearsals.checked", unasked)


BUGS: dict[str, Callable[[], Any]] = {
    plant.__name__.replace("_", "-"): plant
    for plant in (
        two_leaders,
        no_guard,
        ending_is_over,
        restarting_is_free,
        finalizer_stays,
        finalizer_too_early,
        nobody_sweeps,
        half_a_gang,
        no_quota,
        no_second_try,
        one_is_enough,
        lost_from_the_queue,
        attempts_begin_again,
        ended_runs_again,
        stale_events,
        unread_lists,
        blind_writes,
        ignored_conflicts,
        nobody_asks_first,
    )
}


@contextlib.contextmanager
def planted(name: str | None) -> Iterator[None]:
    """With this fault in the operator; None: as it is."""
    with contextlib.ExitStack() as stack:
        if name is not None:
            stack.enter_context(BUGS[name]())
        yield
