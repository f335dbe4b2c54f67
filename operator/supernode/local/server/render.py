"""Objects, lists and events as bytes, in the form that the client wants.

In: what the store holds. Out: JSON. A built-in kind's items stand in a list without apiVersion and kind, a custom
resource's with them, as on a real server.
"""

from __future__ import annotations

from collections.abc import Sequence

from supernode.local.machinery import table
from supernode.local.server.clock import Clock
from supernode.local.server.kinds import Served
from supernode.local.server.negotiation import Wanted
from supernode.local.server.statuses import Object
from supernode.local.server.store import Stored, encode

_META = "meta.k8s.io"


class Renderer:
    """Writes one resource's objects for one request.

    Args:
        served: the resource.
        wanted: the form.
        clock: for ages in tables.
        include: `includeObject` of tables: Metadata, Object or None.
    """

    def __init__(self, served: Served, wanted: Wanted, clock: Clock, include: str = "Metadata") -> None:
        self._served = served
        self._wanted = wanted
        self._clock = clock
        self._include = include or "Metadata"

    def one(self, stored: Stored) -> bytes:
        """A single object."""
        if self._wanted.shape == "table":
            return encode(self._table([stored], {"resourceVersion": str(stored.revision)}))
        if self._wanted.shape == "partial":
            return encode(self._partial(stored))
        return self._seen(stored).whole(self._served.api_version, self._served.kind)

    def many(self, items: Sequence[Stored], metadata: Object) -> bytes:
        """A list."""
        if self._wanted.shape == "table":
            return encode(self._table(items, metadata))
        if self._wanted.shape == "partial":
            version = f"{_META}/{self._wanted.version}"
            parts = [self._partial(each) for each in items]
            return encode(
                {"kind": "PartialObjectMetadataList", "apiVersion": version, "metadata": metadata, "items": parts}
            )
        served = self._served
        head = {"kind": served.resource.list_kind, "apiVersion": served.api_version, "metadata": metadata}
        if served.custom is None:
            bodies = [self._seen(each).body for each in items]
        else:
            bodies = [each.whole(served.api_version, served.kind) for each in items]
        return encode(head)[:-1] + b',"items":[' + b",".join(bodies) + b"]}"

    def event(self, kind: str, stored: Stored, *, first: bool) -> bytes:
        """One watch event; only the first table of a watch names its columns."""
        if self._wanted.shape == "table":
            body = self._table([stored], {"resourceVersion": str(stored.revision)})
            if not first:
                body["columnDefinitions"] = None
            return b'{"type":"' + kind.encode() + b'","object":' + encode(body) + b"}\n"
        return b'{"type":"' + kind.encode() + b'","object":' + self.one(stored) + b"}\n"

    def bookmark(self, revision: int, *, initial_end: bool = False) -> bytes:
        """A bookmark: nothing happened up to `revision`."""
        meta: Object = {"resourceVersion": str(revision)}
        if initial_end:
            meta["annotations"] = {"k8s.io/initial-events-end": "true"}
        if self._wanted.shape == "table":
            body = {**table.render((), (), now=self._clock.timestamp()), "metadata": meta}
        elif self._wanted.shape == "partial":
            body = {"kind": "PartialObjectMetadata", "apiVersion": f"{_META}/{self._wanted.version}", "metadata": meta}
        else:
            body = {"kind": self._served.kind, "apiVersion": self._served.api_version, "metadata": meta}
        return encode({"type": "BOOKMARK", "object": body}) + b"\n"

    def _seen(self, stored: Stored) -> Stored:
        view = self._served.traits.view
        return stored if view is None else Stored(view.show(stored.obj), stored.revision)

    def _partial(self, stored: Stored) -> Object:
        version = f"{_META}/{self._wanted.version}"
        return {"kind": "PartialObjectMetadata", "apiVersion": version, "metadata": stored.obj["metadata"]}

    def _table(self, items: Sequence[Stored], metadata: Object) -> Object:
        api_version, kind = self._served.api_version, self._served.kind
        shown = [self._seen(each) for each in items]
        objects = [{**each.obj, "apiVersion": api_version, "kind": kind} for each in shown]
        return table.render(
            self._served.columns,
            objects,
            now=self._clock.timestamp(),
            include=self._include,
            metadata=metadata,
            version=self._wanted.version,
        )
