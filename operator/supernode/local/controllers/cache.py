"""A mirror of one collection in memory, that wakes a controller up at each change.

In: a client and the collection's path. Out: `objects`, and a set event. Read-only for its users.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from supernode.local.client import KubeClient, mirror

Object = dict[str, Any]


class Cache:
    """Objects of one collection by (namespace, name).

    Args:
        client: the API server.
        path: the collection, over all namespaces.
        wake: set at each change.
    """

    def __init__(self, client: KubeClient, path: str, wake: asyncio.Event) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self.synced = asyncio.Event()
        self._client = client
        self._path = path
        self._wake = wake

    def __iter__(self) -> Iterator[Object]:
        return iter(list(self.objects.values()))

    def find(self, namespace: str, name: str) -> Object | None:
        """One object, or None."""
        return self.objects.get((namespace, name))

    def put(self, obj: Object) -> None:
        """Take in an object that we have just written, ahead of the watch, unless a newer one is there."""
        key = _key(obj)
        known = self.objects.get(key)
        if known is None or _version(known) < _version(obj):
            self.objects[key] = obj

    async def run(self) -> None:
        """Follow the collection, for ever."""
        await mirror(self._client, self._path, on_list=self._on_list, on_event=self._on_event)

    def _on_list(self, items: list[Object]) -> None:
        self.objects = {_key(item): item for item in items}
        self.synced.set()
        self._wake.set()

    def _on_event(self, kind: str, obj: Object) -> None:
        key = _key(obj)
        if kind == "DELETED":
            known = self.objects.get(key)
            if known is not None and known["metadata"]["uid"] == obj["metadata"]["uid"]:
                del self.objects[key]
        else:
            self.put(obj)
        self._wake.set()


def _key(obj: Object) -> tuple[str, str]:
    return obj["metadata"].get("namespace") or "", obj["metadata"]["name"]


def _version(obj: Object) -> int:
    # Kubernetes 1.35 and later promise that versions of one collection can be compared as numbers.
    version = str(obj["metadata"].get("resourceVersion") or "0")
    return int(version) if version.isdigit() else 0
