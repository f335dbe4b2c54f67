"""Watches: a stream of events for one client, from a revision on.

A watcher that selects sees an object come and go as it starts and stops to match. Bookmarks tell how far the stream
has come; a client that asks for the initial events gets them first, closed by a bookmark that says so.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from supernode.local.server import statuses
from supernode.local.server.kinds import Served
from supernode.local.server.reading import list_refusal, revision_of
from supernode.local.server.render import Renderer
from supernode.local.server.selection import Selector
from supernode.local.server.store import Change, Store, Stored, Watcher, encode

# Seconds between bookmarks, and how long a watch lives when the client does not say.
_BOOKMARK_EVERY = 60.0
_LIFETIME = (1800.0, 3600.0)


@dataclass(frozen=True)
class WatchRequest:
    """What a client wants to see."""

    served: Served
    namespace: str | None
    selector: Selector
    version: str = ""
    bookmarks: bool = False
    initial: bool | None = None  # sendInitialEvents
    seconds: float | None = None


def _flag(query: Mapping[str, str], name: str) -> bool | None:
    text = query.get(name)
    return None if text is None else text.lower() in ("true", "1", "")


def parse(served: Served, namespace: str | None, selector: Selector, query: Mapping[str, str]) -> WatchRequest:
    """The request that a query makes.

    Raises:
        StatusError: 400 or 422, parameters that contradict each other.
    """
    initial, match = _flag(query, "sendInitialEvents"), query.get("resourceVersionMatch", "")
    bookmarks = bool(_flag(query, "allowWatchBookmarks"))
    problem = None
    if match and initial is None:
        problem = statuses.forbidden_value(
            "resourceVersionMatch", "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        )
    elif initial is not None and match != "NotOlderThan":
        problem = statuses.forbidden_value(
            "resourceVersionMatch", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        )
    if problem:
        raise list_refusal(problem)
    seconds = query.get("timeoutSeconds", "")
    if seconds and not seconds.isdigit():
        raise statuses.bad_request(f'timeoutSeconds: Invalid value: "{seconds}": invalid syntax')
    timeout = float(seconds) if seconds and seconds != "0" else None
    return WatchRequest(served, namespace, selector, query.get("resourceVersion", ""), bookmarks, initial, timeout)


class Watch:
    """One running watch.

    Args:
        store: what is watched.
        request: what is to be seen.
        renderer: writes events.
    """

    def __init__(self, store: Store, request: WatchRequest, renderer: Renderer) -> None:
        self._store = store
        self._request = request
        self._renderer = renderer
        self._first = True
        self._watcher: Watcher | None = None
        asked = request.version
        since = revision_of(asked, store.revision)
        self._replay = request.initial if request.initial is not None else asked in ("", "0")
        self._started = store.revision if self._replay or since is None else since
        self._watcher = store.watch(request.served.store, self._started)

    def close(self) -> None:
        """End the watch; to be called in any case."""
        if self._watcher is not None:
            self._store.unwatch(self._request.served.store, self._watcher)

    async def events(self, monotonic: Callable[[], float]) -> AsyncIterator[bytes]:
        """Bytes to send, as they come; ends at the timeout or when the server lets the watch go."""
        request, watcher = self._request, self._watcher
        if watcher is None:
            text = f"too old resource version: {self._started} ({self._store.revision})"
            yield encode({"type": "ERROR", "object": statuses.expired(text).body}) + b"\n"
            return
        # What exists now is read before the first await: changes from here on are in the watcher.
        if self._replay:
            existing = list(self._store.items(request.served.store, request.namespace))
            chunk = [self._event("ADDED", each) for each in existing if request.selector.matches(each.obj)]
            if request.initial:
                chunk.append(self._renderer.bookmark(self._started, initial_end=True))
            if chunk:
                yield b"".join(chunk)
        seen = self._started
        lifetime = request.seconds if request.seconds is not None else random.uniform(*_LIFETIME)
        end = monotonic() + lifetime
        bookmark_at = monotonic() + min(_BOOKMARK_EVERY, max(lifetime - 2.0, lifetime / 2))
        while True:
            now = monotonic()
            if watcher.pending:
                chunk = []
                while watcher.pending:
                    change = watcher.pending.popleft()
                    seen = change.revision
                    line = self._change(change)
                    if line:
                        chunk.append(line)
                if chunk:
                    yield b"".join(chunk)
                continue
            if watcher.closed or now >= end:
                return
            if request.bookmarks and now >= bookmark_at:
                bookmark_at = now + _BOOKMARK_EVERY
                yield self._renderer.bookmark(max(seen, self._store.revision))
            await watcher.wait(min(end, bookmark_at if request.bookmarks else end) - now)

    def _event(self, kind: str, stored: Stored) -> bytes:
        line = self._renderer.event(kind, stored, first=self._first)
        self._first = False
        return line

    def _change(self, change: Change) -> bytes | None:
        request = self._request
        if request.namespace is not None and change.key[0] != request.namespace:
            return None
        selector = request.selector
        if not selector:
            return self._event(change.kind, change.now)
        before = change.was is not None and selector.matches(change.was.obj)
        after = change.kind != "DELETED" and selector.matches(change.now.obj)
        if after:
            return self._event("MODIFIED" if before else "ADDED", change.now)
        if before:
            last = change.now
            if change.kind != "DELETED" and change.was is not None:
                # The watcher knew the old state; it learns at which revision it stopped to match.
                meta = {**change.was.obj["metadata"], "resourceVersion": str(change.revision)}
                last = Stored({**change.was.obj, "metadata": meta}, change.revision)
            return self._event("DELETED", last)
        return None
