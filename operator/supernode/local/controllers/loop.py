"""What all controllers share: their caches, a loop that reconciles after changes, and its errors.

In: caches by path and a coroutine that brings the cluster one step closer to what is wanted. Not here: what that is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from typing import Any, Final

from supernode.errors import ClusterError, ConflictError, NotFoundError
from supernode.local.client import KubeClient
from supernode.local.controllers.cache import Cache

Object = dict[str, Any]

# Changes that come together are handled together.
_SETTLE_SECONDS: Final = 0.05
# After an error, and now and then anyway.
_AGAIN_SECONDS: Final = 1.0
_RESYNC_SECONDS: Final = 30.0
_log = logging.getLogger(__name__)


class Controller(ABC):
    """One controller: `run` it as a task.

    Args:
        client: the API server.
        paths: collections to follow, by the names they get in `caches`.
        resync: seconds after which it looks again though nothing has changed.
    """

    def __init__(self, client: KubeClient, paths: dict[str, str], *, resync: float = _RESYNC_SECONDS) -> None:
        self.client = client
        self._wake = asyncio.Event()
        self._resync = resync
        self.caches = {name: Cache(client, path, self._wake) for name, path in paths.items()}

    async def run(self) -> None:
        """Work, for ever."""
        async with asyncio.TaskGroup() as group:
            for cache in self.caches.values():
                group.create_task(cache.run())
            for cache in self.caches.values():
                await cache.synced.wait()
            wait = 0.0
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
                await asyncio.sleep(_SETTLE_SECONDS)
                self._wake.clear()
                wait = self._resync if await self._once() else _AGAIN_SECONDS

    async def _once(self) -> bool:
        try:
            await self.reconcile()
        except (ConflictError, NotFoundError) as exc:
            # Somebody else was faster; the watch will show it.
            _log.debug("%s: %s", type(self).__name__, exc)
            return False
        except ClusterError as exc:
            _log.warning("%s: %s", type(self).__name__, exc)
            return False
        except (KeyError, TypeError, ValueError):
            _log.exception("%s met an object that it does not understand", type(self).__name__)
        return True

    @abstractmethod
    async def reconcile(self) -> None:
        """Look at all caches, and do what is to be done now."""


def owned_by(obj: Object, owner: Object) -> bool:
    """Whether `owner` is the controller of `obj`."""
    references = obj["metadata"].get("ownerReferences") or []
    return any(entry.get("controller") and entry.get("uid") == owner["metadata"]["uid"] for entry in references)


def owner_reference(owner: Object, api_version: str, kind: str) -> Object:
    """The reference that makes `owner` the controller of an object."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
