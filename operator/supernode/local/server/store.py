"""Everything the server keeps: objects by resource, a revision that only grows, and a bounded history for watches.

In: whole objects, already checked. Out: `Stored` values, lists, and changes in order. Not here: any rule about what an
object may say. One event loop owns the store: every call is synchronous, so a read followed by a write with no
`await` between them is atomic. An object that was put in is never changed again: writers bring a new one.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from supernode.local.server.statuses import Object

# Changes kept per resource: a watcher that is further behind has to list again (410), as with a real server's
# watch cache. Also the most changes that may wait for one slow watcher.
HISTORY: Final = 4096

ResourceKey = tuple[str, str]  # (group, plural) of what is stored
ObjectKey = tuple[str, str]  # (namespace or "", name)


def encode(value: object) -> bytes:
    """JSON as the server sends it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


class Stored:
    """An object at one revision, with its JSON made at most once."""

    __slots__ = ("_body", "obj", "revision")

    def __init__(self, obj: Object, revision: int) -> None:
        self.obj = obj
        self.revision = revision
        self._body: bytes | None = None

    @property
    def body(self) -> bytes:
        """JSON without apiVersion and kind, as built-in kinds stand in a list."""
        if self._body is None:
            self._body = encode({key: value for key, value in self.obj.items() if key not in ("apiVersion", "kind")})
        return self._body

    def whole(self, api_version: str, kind: str) -> bytes:
        """JSON with apiVersion and kind (of the version that was asked for)."""
        rest = self.body[1:]
        comma = b"" if rest == b"}" else b","
        return b'{"kind":' + encode(kind) + b',"apiVersion":' + encode(api_version) + comma + rest


class Change:
    """One step of history: what an object became, and what it was."""

    __slots__ = ("key", "kind", "now", "revision", "was")

    def __init__(self, kind: str, key: ObjectKey, now: Stored, was: Stored | None) -> None:
        self.kind = kind  # ADDED, MODIFIED or DELETED
        self.key = key
        self.now = now  # for DELETED: the last state, at the revision of the deletion
        self.was = was
        self.revision = now.revision


class Watcher:
    """Changes of one resource, waiting to be sent to one client."""

    def __init__(self) -> None:
        self.pending: deque[Change] = deque()
        self.closed = False
        self._wake = asyncio.Event()

    def offer(self, change: Change) -> None:
        """Hand over a change; a watcher that does not keep up is closed."""
        if len(self.pending) >= HISTORY:
            self.close()
            return
        self.pending.append(change)
        self._wake.set()

    def close(self) -> None:
        """No more changes: the reader sends what is pending and ends."""
        self.closed = True
        self._wake.set()

    async def wait(self, timeout: float | None) -> None:
        """Return when something is pending, the watcher is closed, or `timeout` seconds have passed."""
        if not self.pending and not self.closed:
            try:
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            except TimeoutError:
                return
        self._wake.clear()


class _Resource:
    def __init__(self, history: int) -> None:
        self.objects: dict[ObjectKey, Stored] = {}
        self.history: deque[Change] = deque(maxlen=history)
        self.floor = 0  # the newest revision whose change is no longer in the history
        # In the order in which they came, so that the same requests give the same run: a set's order is the memory's.
        self.watchers: dict[Watcher, None] = {}
        self.ordered: list[ObjectKey] | None = None


class Store:
    """Objects of every resource.

    Args:
        history: changes kept per resource.
    """

    def __init__(self, history: int = HISTORY) -> None:
        self.revision = 1
        self._history = history
        self._resources: dict[ResourceKey, _Resource] = {}
        # Told of every change at once; must not write to the store itself (see `chores`).
        self.listeners: list[Callable[[ResourceKey, Change], None]] = []

    def _resource(self, key: ResourceKey) -> _Resource:
        found = self._resources.get(key)
        if found is None:
            found = self._resources[key] = _Resource(self._history)
        return found

    def get(self, resource: ResourceKey, key: ObjectKey) -> Stored | None:
        """The object, or None."""
        return self._resource(resource).objects.get(key)

    def keys(self, resource: ResourceKey) -> list[ObjectKey]:
        """Every key in the order of a list: by namespace, then by name."""
        found = self._resource(resource)
        if found.ordered is None:
            found.ordered = sorted(found.objects)
        return found.ordered

    def items(self, resource: ResourceKey, namespace: str | None = None) -> Iterator[Stored]:
        """Objects in list order, of one namespace or all."""
        objects = self._resource(resource).objects
        for key in self.keys(resource):
            if namespace is None or key[0] == namespace:
                yield objects[key]

    def snapshot(self, resource: ResourceKey, revision: int) -> list[tuple[ObjectKey, Stored]] | None:
        """Every object as it was at a revision, in list order; None when that is too long ago."""
        found = self._resource(resource)
        if revision < found.floor:
            return None
        state = dict(found.objects)
        for change in reversed(found.history):
            if change.revision <= revision:
                break
            if change.was is None:
                state.pop(change.key, None)
            else:
                state[change.key] = change.was
        return sorted(state.items(), key=lambda item: item[0])

    def put(self, resource: ResourceKey, key: ObjectKey, obj: Object) -> Stored:
        """Write an object; its resourceVersion is set to the new revision. `obj` belongs to the store from now on."""
        found = self._resource(resource)
        was = found.objects.get(key)
        self.revision += 1
        obj["metadata"]["resourceVersion"] = str(self.revision)
        now = Stored(obj, self.revision)
        found.objects[key] = now
        if was is None:
            found.ordered = None
        self._record(resource, Change("ADDED" if was is None else "MODIFIED", key, now, was))
        return now

    def remove(self, resource: ResourceKey, key: ObjectKey, last: Object | None = None) -> Stored:
        """Take an object out; the answer is its last state (or `last`) at the revision of the removal."""
        found = self._resource(resource)
        was = found.objects.pop(key)
        found.ordered = None
        self.revision += 1
        state = was.obj if last is None else last
        state = {**state, "metadata": {**state["metadata"], "resourceVersion": str(self.revision)}}
        now = Stored(state, self.revision)
        self._record(resource, Change("DELETED", key, now, was))
        return now

    def _record(self, resource: ResourceKey, change: Change) -> None:
        found = self._resource(resource)
        if len(found.history) == self._history:
            found.floor = found.history[0].revision
        found.history.append(change)
        for watcher in tuple(found.watchers):
            watcher.offer(change)
        for listener in self.listeners:
            listener(resource, change)

    def watch(self, resource: ResourceKey, since: int) -> Watcher | None:
        """A watcher that has every change after `since`; None when that is too long ago."""
        found = self._resource(resource)
        if since < found.floor:
            return None
        watcher = Watcher()
        watcher.pending.extend(change for change in found.history if change.revision > since)
        found.watchers[watcher] = None
        return watcher

    def unwatch(self, resource: ResourceKey, watcher: Watcher) -> None:
        """Forget a watcher."""
        self._resource(resource).watchers.pop(watcher, None)

    def compact(self, resource: ResourceKey) -> None:
        """Forget the history of a resource: watches and paged lists that started before now get 410."""
        found = self._resource(resource)
        found.history.clear()
        found.floor = self.revision

    def drop_watches(self, resources: Iterable[ResourceKey] | None = None) -> None:
        """End the watches of some resources, or of all."""
        for key in list(self._resources if resources is None else resources):
            for watcher in tuple(self._resource(key).watchers):
                watcher.close()

    def resources(self) -> list[ResourceKey]:
        """Every resource that was ever touched."""
        return list(self._resources)
