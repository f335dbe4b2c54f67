"""What the API server holds, kept up to date: a store per kind, and the list-and-watch that feeds it.

Flows in: lists and watch events. Flows out: read-only mappings, and a call for every change.
A write of our own is offered to the store at once, so that the next decision sees it even if the watch is late;
an older version never replaces a newer one, and what was seen deleted never comes back.

Not here: what the objects mean.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final

from supernode.cluster.client import Client
from supernode.cluster.form import Form
from supernode.cluster.kinds import Json, Kind
from supernode.errors import ClusterError, GoneError

logger = logging.getLogger(__name__)

# (namespace, name); the namespace of cluster-scoped objects is "".
Key = tuple[str, str]
# Called with (old, new): (None, new) added, (old, None) deleted.
Listener = Callable[[Json | None, Json | None], None]

# Seconds one watch lasts before it is opened again; with a spread, so that watches don't end all at once.
WATCH_SECONDS: Final = 290
# Objects per page of a list.
PAGE: Final = 500
# Seconds between attempts: the first, and the longest.
FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 15.0
# Deleted objects remembered, so that a late answer to a write doesn't bring one back.
TOMBSTONES: Final = 20_000


def key_of(obj: Json) -> Key:
    """(namespace, name) of an object."""
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def version_of(obj: Json) -> int:
    """Resource version as a number (Kubernetes promises since 1.35 that they compare); 0 when it isn't one."""
    version = obj["metadata"].get("resourceVersion", "")
    return int(version) if version.isdecimal() else 0


def keep_whole(obj: Json) -> Json:
    """Trims only what nobody reads: the record of who set which field."""
    obj["metadata"].pop("managedFields", None)
    return obj


def _as_it_is(obj: Json) -> Json:
    return obj


class Store:
    """The newest known version of every object of one kind. One event loop owns it.

    Args:
        trim: what to keep of an object (memory); may change and return its argument.
    """

    def __init__(self, *, trim: Callable[[Json], Json] = keep_whole) -> None:
        self.trim = trim
        self._objects: dict[Key, Json] = {}
        self._deleted: OrderedDict[str, None] = OrderedDict()
        self._listeners: list[Listener] = []

    def __len__(self) -> int:
        return len(self._objects)

    def listen(self, listener: Listener) -> None:
        """Call `listener(old, new)` for every change from now on."""
        self._listeners.append(listener)

    def get(self, key: Key) -> Json | None:
        """The object, or None."""
        return self._objects.get(key)

    def objects(self) -> Mapping[Key, Json]:
        """A read-only view of all objects (live: copy it to keep it)."""
        return MappingProxyType(self._objects)

    def apply(self, kind: str | None, obj: Json) -> None:
        """Take a watch event: ``ADDED``, ``MODIFIED``, ``DELETED`` or None (first listing)."""
        if kind == "DELETED":
            self.forget(obj)
        else:
            self.offer(obj)

    def offer(self, obj: Json) -> bool:
        """Take a version of an object, from whatever source; False when something newer is known already."""
        return self._take(obj, self.trim)

    def knows(self, metadata: Json) -> bool:
        """Whether the object with this uid is here in this version, or a newer one."""
        old = self._objects.get((metadata.get("namespace", ""), metadata["name"]))
        if old is None or old["metadata"].get("uid") != metadata.get("uid"):
            return False
        version = version_of({"metadata": metadata})
        return 0 < version <= version_of(old)

    def _take(self, obj: Json, trim: Callable[[Json], Json]) -> bool:
        uid = obj["metadata"].get("uid", "")
        if uid in self._deleted:
            return False
        key = key_of(obj)
        old = self._objects.get(key)
        if old is not None:
            same = old["metadata"].get("uid") == uid
            if same and version_of(obj) and version_of(obj) <= version_of(old):
                return False
            if not same:
                self._bury(old)
        new = trim(obj)
        self._objects[key] = new
        self._tell(old, new)
        return True

    def forget(self, obj: Json) -> None:
        """Take out an object that is gone from the server."""
        key = key_of(obj)
        self._bury(obj)
        old = self._objects.get(key)
        if old is not None and old["metadata"].get("uid") == obj["metadata"].get("uid"):
            del self._objects[key]
            self._tell(old, None)

    def replace(self, objects: Iterable[Json], version: int) -> None:
        """Take a whole list made at `version`: what is missing in it, and is not newer, is gone.

        The objects are trimmed already: thousands as the server sends them would take ten times the memory.
        """
        seen: set[Key] = set()
        for obj in objects:
            seen.add(key_of(obj))
            self._take(obj, _as_it_is)
        for key in [key for key in self._objects if key not in seen]:
            obj = self._objects[key]
            if not version or version_of(obj) <= version:
                self.forget(obj)

    def _bury(self, obj: Json) -> None:
        uid = obj["metadata"].get("uid")
        if uid:
            self._deleted[uid] = None
            if len(self._deleted) > TOMBSTONES:
                self._deleted.popitem(last=False)

    def _tell(self, old: Json | None, new: Json | None) -> None:
        for listener in self._listeners:
            listener(old, new)


class Cache:
    """Keeps a store equal to the server by list and watch.

    Args:
        client: the connection.
        kind: what to watch.
        store: what to feed.
        namespace: only this namespace, or None for all.
        sleep: waits between attempts (a seam for tests).
        on_restart: called with a short reason whenever the watch had to begin again; for metrics.
        form: how its objects are asked for instead of in JSON.
    """

    def __init__(
        self,
        client: Client,
        kind: Kind,
        store: Store,
        *,
        namespace: str | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_restart: Callable[[str], None] | None = None,
        form: Form | None = None,
    ) -> None:
        self._client = client
        self._form = form
        self._kind = kind
        self._namespace = namespace
        self._sleep = sleep
        self._on_restart = on_restart
        self.store = store
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """List, watch, and begin again after every failure, until cancelled."""
        version: str | None = None
        failures = lists = 0
        while True:
            try:
                if version is None:
                    version = await self.relist()
                    self.synced.set()
                version = await self._follow(version)
                failures = lists = 0
            except GoneError:
                # Too old to go on from: only a new list tells what happened meanwhile. One from which nothing can be
                # followed either is not made again and again at once.
                self._restarted("gone")
                version = None
                lists += 1
                if lists > 1:
                    pause = min(FIRST_PAUSE * 2 ** min(lists - 2, 10), LONGEST_PAUSE)
                    await self._sleep(pause * (0.75 + random.random() / 2))
            except ClusterError as exc:
                failures += 1
                self._restarted("error")
                if exc.status and not exc.retry_after and exc.status != 429:
                    version = None
                # The version stays after a dropped connection: the server still knows what came after it.
                pause = min(FIRST_PAUSE * 2 ** min(failures - 1, 10), LONGEST_PAUSE)
                if exc.retry_after:
                    pause = max(pause, min(exc.retry_after, LONGEST_PAUSE))
                if failures > 1:
                    logger.warning("watch of %s: %s; again in %.1f s", self._kind.plural, exc, pause)
                await self._sleep(pause * (0.75 + random.random() / 2))

    async def relist(self) -> str:
        """Make the store equal to one consistent list; gives the list's version."""
        items: list[Json] = []
        token: str | None = None
        while True:
            page = await self._client.list_page(self._kind, self._namespace, limit=PAGE, token=token, form=self._form)
            items.extend(map(self.store.trim, page.get("items") or []))
            metadata = page.get("metadata") or {}
            token = metadata.get("continue")
            if not token:
                break
        version = str(metadata.get("resourceVersion") or "0")
        self.store.replace(items, int(version) if version.isdecimal() else 0)
        return version

    async def _follow(self, version: str) -> str:
        """Apply events until the stream ends; gives the version reached."""
        reached = version
        try:
            async with self._client.watch(
                self._kind,
                namespace=self._namespace,
                resource_version=version,
                seconds=WATCH_SECONDS + random.randrange(20),
                form=self._form,
            ) as events:
                async for event in events:
                    obj = event["object"]
                    if event["type"] != "BOOKMARK":
                        self.store.apply(event["type"], obj)
                    reached = obj["metadata"].get("resourceVersion", reached)
        except GoneError:
            raise
        except ClusterError as exc:
            if reached != version and not exc.status:
                # Some events arrived before the connection broke: that was no failure in a row.
                self._restarted("dropped")
                await self._sleep(FIRST_PAUSE * random.random())
                return reached
            raise
        return reached

    def _restarted(self, why: str) -> None:
        if self._on_restart is not None:
            self._on_restart(why)
