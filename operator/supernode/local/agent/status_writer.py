"""Writes one pod's status to the API: the newest, whole, and never an older one after it; at the end removes the pod.

In: an event that says that something changed, and a function that gives the status as it is now. Out: patches. While
the API server does not answer, nothing is lost: what is sent next is what is true then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from supernode.errors import BadRequestError, ClusterError, NotFoundError
from supernode.local.client import STRATEGIC_PATCH, KubeClient

Object = dict[str, Any]

# Changes that come close together are written as one.
_SETTLE_SECONDS: Final = 0.02
_FIRST_DELAY: Final = 0.2
_LONGEST_DELAY: Final = 10.0
_log = logging.getLogger(__name__)


class StatusWriter:
    """Writes the status of one pod. `sent` is what was written last.

    Args:
        client: the API server.
        key: (namespace, name) of the pod.
        uid: its uid, so that a pod made again under the name is left alone.
    """

    def __init__(self, client: KubeClient, key: tuple[str, str], uid: str) -> None:
        self.sent: Object | None = None
        self._client = client
        self._path = f"/api/v1/namespaces/{key[0]}/pods/{key[1]}"
        self._uid = uid
        self._stopped = False

    def stop(self) -> None:
        """The pod is not in the API any more: write nothing."""
        self._stopped = True

    async def run(self, changed: asyncio.Event, compute: Callable[[], Object], leaves: Callable[[], bool]) -> None:
        """Write after each change, until `leaves()` says that the pod is to be removed, and that is done."""
        delay = _FIRST_DELAY
        while not self._stopped:
            await changed.wait()
            await asyncio.sleep(_SETTLE_SECONDS)
            changed.clear()
            # Asked before the status is computed, so that the last one is written before the pod goes.
            last = leaves()
            try:
                await self._write(compute())
                if last:
                    await self._remove()
                    return
                delay = _FIRST_DELAY
            except NotFoundError:
                # The watch says the same soon.
                return
            except ClusterError as exc:
                level = logging.WARNING if isinstance(exc, BadRequestError) else logging.DEBUG
                _log.log(level, "status of %s not written: %s", self._path, exc)
                changed.set()
                await asyncio.sleep(delay)
                delay = min(delay * 2, _LONGEST_DELAY)

    async def _write(self, status: Object) -> None:
        if not self._stopped and status != self.sent:
            body = {"metadata": {"uid": self._uid}, "status": status}
            await self._client.patch(f"{self._path}/status", body, kind=STRATEGIC_PATCH)
            self.sent = status

    async def _remove(self) -> None:
        if not self._stopped:
            await self._client.delete(self._path, {"gracePeriodSeconds": 0, "preconditions": {"uid": self._uid}})
