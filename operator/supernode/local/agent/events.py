"""Events: what happened to a pod or node, for `kubectl describe`; repeated ones are counted on one object.

In: an object, a type, a reason and a message. Out: core/v1 Event objects, written in the background; an event that
cannot be written is dropped with a line in the log, as events are best effort in Kubernetes too.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from supernode.errors import ClusterError, NotFoundError
from supernode.local.client import KubeClient

Object = dict[str, Any]

_REMEMBERED: Final = 4096
_QUEUED: Final = 10_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Event:
    namespace: str
    regarding: tuple[tuple[str, str], ...]
    kind: str
    reason: str
    message: str
    host: str
    time: str


class EventRecorder:
    """Writes events of one component.

    Args:
        client: the API server.
        component: name shown as the events' source.
    """

    def __init__(self, client: KubeClient, component: str) -> None:
        self._client = client
        self._component = component
        self._queue: asyncio.Queue[_Event] = asyncio.Queue(_QUEUED)
        # What was written lately -> (name of the event object, count).
        self._seen: OrderedDict[tuple[Any, ...], tuple[str, int]] = OrderedDict()

    def record(self, obj: Object, kind: str, reason: str, message: str, *, field: str = "", host: str = "") -> None:
        """Queue an event about `obj`; `kind` is Normal or Warning, `field` a path such as ``spec.containers{main}``."""
        meta = obj["metadata"]
        regarding = {
            "apiVersion": obj.get("apiVersion") or "v1",
            "kind": obj.get("kind") or "Pod",
            "name": meta["name"],
            "namespace": meta.get("namespace") or "",
            "uid": meta.get("uid") or "",
            "fieldPath": field,
        }
        event = _Event(
            meta.get("namespace") or "default",
            tuple((key, value) for key, value in regarding.items() if value),
            kind,
            reason,
            message[:1024],
            host,
            datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            _log.warning("event dropped, %d are waiting: %s %s", _QUEUED, reason, message)

    async def run(self) -> None:
        """Write queued events, for ever."""
        while True:
            event = await self._queue.get()
            try:
                await self._write(event)
            except ClusterError as exc:
                _log.debug("event %s of %s not written: %s", event.reason, dict(event.regarding).get("name"), exc)
            finally:
                self._queue.task_done()

    async def _write(self, event: _Event) -> None:
        key = (event.regarding, event.kind, event.reason, event.message)
        path = f"/api/v1/namespaces/{event.namespace}/events"
        seen = self._seen.pop(key, None)
        if seen is not None:
            name, count = seen
            try:
                await self._client.patch(f"{path}/{name}", {"count": count + 1, "lastTimestamp": event.time})
            except NotFoundError:
                pass
            else:
                self._seen[key] = (name, count + 1)
                return
        regarding = dict(event.regarding)
        name = f"{regarding['name'][:200]}.{secrets.token_hex(8)}"
        source = {"component": self._component} | ({"host": event.host} if event.host else {})
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": event.namespace},
            "involvedObject": regarding,
            "type": event.kind,
            "reason": event.reason,
            "message": event.message,
            "count": 1,
            "firstTimestamp": event.time,
            "lastTimestamp": event.time,
            "source": source,
            "reportingComponent": self._component,
            "reportingInstance": event.host,
        }
        await self._client.create(path, body)
        self._seen[key] = (name, 1)
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
