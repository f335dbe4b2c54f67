"""Faults of the kind that the operator must not have, to plant: the promises' checks have to find each of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

from supernode.cluster import status
from supernode.cluster.cache import key_of
from supernode.cluster.kinds import Json
from supernode.handlers import facts


def two_leaders() -> Any:
    """Every operator believes that it leads."""
    return mock.patch.multiple("supernode.cluster.lease.Lease", guard=lambda self: None, _free=lambda self, lease: True)


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
    """The newest event wins, whatever version it carries."""

    def offer(self: Any, obj: Json) -> bool:
        key = key_of(obj)
        old = self._objects.get(key)
        self._objects[key] = new = self.trim(obj)
        self._tell(old, new)
        return True

    return mock.patch("supernode.cluster.cache.Store.offer", offer)


def blind_writes() -> Any:
    """Status is written over whatever has changed since it was read, the claim before its time included."""

    async def write(client: Any, kind: Any, obj: Json, wanted: Json) -> Json:
        patch = status.difference(obj.get("status") or {}, wanted)
        metadata = obj["metadata"]
        if not patch:
            return obj
        name, namespace = metadata["name"], metadata.get("namespace")
        return await client.patch(kind, name, {"status": patch}, namespace, subresource="status")

    return mock.patch("supernode.cluster.status.write", write)


BUGS: dict[str, Callable[[], Any]] = {
    plant.__name__.replace("_", "-"): plant
    for plant in (
        two_leaders,
        ending_is_over,
        finalizer_stays,
        finalizer_too_early,
        half_a_gang,
        no_quota,
        stale_events,
        blind_writes,
    )
}


@contextlib.contextmanager
def planted(name: str | None) -> Iterator[None]:
    """With this fault in the operator; None: as it is."""
    with contextlib.ExitStack() as stack:
        if name is not None:
            stack.enter_context(BUGS[name]())
        yield
