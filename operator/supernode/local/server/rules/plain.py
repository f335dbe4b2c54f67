"""The rules that most kinds share, and what rules may look up in the cluster."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from supernode.local.machinery.refusals import Cause
from supernode.local.server.clock import Clock
from supernode.local.server.statuses import Object
from supernode.local.server.store import Store


class Cluster:
    """Read-only looks at other objects, for rules that need them."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self.clock = clock

    def get(self, group: str, plural: str, namespace: str, name: str) -> Object | None:
        """An object that must not be changed, or None."""
        stored = self._store.get((group, plural), (namespace, name))
        return None if stored is None else stored.obj

    def all(self, group: str, plural: str, namespace: str | None = None) -> Iterable[Object]:
        """Objects that must not be changed."""
        return (stored.obj for stored in self._store.items((group, plural), namespace))


class Rules:
    """No demands: the base of every kind's rules."""

    keeps_status = False  # a create keeps the status that the client sent

    def default(self, new: Object) -> None:
        """Fill in defaults: part of reading the object, so the writer owns them. `new` may be changed."""

    def prepare(self, new: Object, old: Object | None, cluster: Cluster) -> None:
        """Fill in what the server itself decides. `new` may be changed; `old` is None on create."""

    def prepare_status(self, new: Object, old: Object) -> None:
        """The same for a write to a subresource."""

    def validate(self, new: Object, old: Object | None, cluster: Cluster) -> Sequence[Cause]:
        """What is wrong, beyond the schema."""
        return ()

    def warnings(self, new: Object, old: Object | None) -> Sequence[str]:
        """What the user should hear although it is allowed."""
        return ()

    def asks_more(self, new: Object, old: Object) -> bool:
        """Whether the user asks for something else than before: the generation counts these."""
        return bool(new.get("spec") != old.get("spec"))
