"""Kubernetes events: what a person reads in `kubectl describe`.

Flows in: (object, reason, message). Flows out: Event objects, written in the background; a repeat of the same
raises the count of the first. Losing an event is no error: they are for reading, nothing is decided by them.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from supernode.cluster.client import Client
from supernode.cluster.kinds import EVENTS, Json, Kind
from supernode.errors import ClusterError, ConflictError, NotFoundError
from supernode.plaintext import plain

logger = logging.getLogger(__name__)

# Events waiting to be written; more than this is a storm, and the newest are dropped.
QUEUE: Final = 2000
# Events remembered for counting repeats.
REMEMBERED: Final = 4000
# Seconds that an event waits at most while something else is more urgent.
PATIENCE: Final = 2.0
# Longest message; Kubernetes allows 1024 bytes in its newer event API.
LONGEST: Final = 1000
COMPONENT: Final = "supernode-operator"


@dataclass(frozen=True, slots=True)
class _Entry:
    kind: Kind
    namespace: str
    name: str
    uid: str
    version: str
    normal: bool
    reason: str
    message: str
    at: datetime


class Events:
    """Writes events, one after the other, in the background.

    Args:
        client: the connection.
        identity: name of this process.
        now: the time of day.
    """

    #: Whether there is something more urgent to ask of the server just now.
    busy: Callable[[], bool] = staticmethod(lambda: False)

    def __init__(
        self, client: Client, identity: str, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._client = client
        self._identity = identity
        self._now = now
        self._queue: asyncio.Queue[_Entry] = asyncio.Queue(QUEUE)
        # (uid, reason, message) -> (event name, namespace, count)
        self._written: OrderedDict[tuple[str, str, str], tuple[str, str, int]] = OrderedDict()
        # (uid, reason) -> when it was told last
        self._told: OrderedDict[tuple[str, str], datetime] = OrderedDict()

    def normal(self, kind: Kind, obj: Json, reason: str, message: str) -> None:
        """Something worth telling happened to `obj`."""
        self._put(kind, obj, True, reason, message)

    def warning(self, kind: Kind, obj: Json, reason: str, message: str, *, pause: float = 0.0) -> bool:
        """Something is wrong with `obj`. False: not told, as the last of this reason is not `pause` seconds old."""
        uid, now = obj["metadata"].get("uid", ""), self._now()
        last = self._told.get((uid, reason))
        if last is not None and 0 <= (now - last).total_seconds() < pause:
            return False
        self._told[uid, reason] = now
        self._told.move_to_end((uid, reason))
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        self._put(kind, obj, False, reason, message)
        return True

    def _put(self, kind: Kind, obj: Json, normal: bool, reason: str, message: str) -> None:
        metadata = obj["metadata"]
        entry = _Entry(
            kind,
            metadata.get("namespace", ""),
            metadata["name"],
            metadata.get("uid", ""),
            metadata.get("resourceVersion", ""),
            normal,
            reason,
            plain(message, LONGEST),
            self._now(),
        )
        try:
            self._queue.put_nowait(entry)
        except asyncio.QueueFull:
            logger.warning("event dropped, too many are waiting: %s", reason)

    async def run(self) -> None:
        """Write what is put in, until cancelled."""
        while True:
            entry = await self._queue.get()
            while self.busy() and 0 <= (self._now() - entry.at).total_seconds() < PATIENCE:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            try:
                await self._write(entry)
            except ClusterError as exc:
                logger.warning("event %s for %s %s: %s", entry.reason, entry.kind.kind, entry.name, exc)
            finally:
                self._queue.task_done()

    async def drain(self) -> None:
        """Wait until all that was put in is written (or given up)."""
        await self._queue.join()

    async def _write(self, entry: _Entry) -> None:
        same = (entry.uid, entry.reason, entry.message)
        stamp = entry.at.strftime("%Y-%m-%dT%H:%M:%SZ")
        known = self._written.get(same)
        if known is not None:
            name, namespace, count = known
            try:
                await self._client.patch(EVENTS, name, {"count": count + 1, "lastTimestamp": stamp}, namespace)
            except NotFoundError:
                del self._written[same]  # the server forgets events after an hour: write a new one
            else:
                self._remember(same, (name, namespace, count + 1))
                return
        # Events of cluster-scoped objects live in the default namespace, as kubectl expects.
        namespace = entry.namespace or "default"
        # In the order of time: people see events of one second in the order of their names.
        digest = hashlib.sha256("\0".join((*same, self._identity)).encode()).hexdigest()[:8]
        name = f"{entry.name[:200]}.{int(entry.at.timestamp() * 1e6):014x}{digest}"
        event: Json = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": entry.kind.api_version,
                "kind": entry.kind.kind,
                "name": entry.name,
                "namespace": entry.namespace,
                "uid": entry.uid,
                "resourceVersion": entry.version,
            },
            "type": "Normal" if entry.normal else "Warning",
            "reason": entry.reason,
            "message": entry.message,
            "count": 1,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._identity[:128],
        }
        try:
            await self._client.create(EVENTS, event, namespace)
        except ConflictError as exc:
            if exc.reason != "AlreadyExists":  # ours, whose answer was lost: nobody else has such a name
                raise
        self._remember(same, (name, namespace, 1))

    def _remember(self, same: tuple[str, str, str], value: tuple[str, str, int]) -> None:
        self._written[same] = value
        self._written.move_to_end(same)
        if len(self._written) > REMEMBERED:
            self._written.popitem(last=False)
