"""Which jobs must be looked at, and when: those that something has happened to, and those whose time has come.

Flows in: changes of the stores, wishes to be woken. Flows out: keys for the next cycle. Nothing is decided here.
"""

from __future__ import annotations

from supernode.cluster import nodes
from supernode.cluster.cache import Key
from supernode.cluster.kinds import Json
from supernode.handlers.context import Context
from supernode.names import LABEL_JOB


class Due:
    """Keys of jobs to look at, gathered between cycles.

    Args:
        context: what handlers share; its stores are listened to.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._dirty: dict[Key, None] = {}
        self._wakes: dict[Key, float] = {}
        context.stores.pods.listen(self._on_pod)
        context.stores.nodes.listen(self._on_node)
        context.stores.classes.listen(self._on_class)

    def _on_pod(self, old: Json | None, new: Json | None) -> None:
        metadata = (new or old or {})["metadata"]
        job = (metadata.get("labels") or {}).get(LABEL_JOB)
        if job:
            self.touch((metadata.get("namespace", ""), job))
        elif (
            old is None
            or new is None
            or (old.get("status") or {}).get("phase") != (new.get("status") or {}).get("phase")
        ):
            self._context.wake.set()  # somebody else's pod takes or frees room

    def _on_node(self, old: Json | None, new: Json | None) -> None:
        if old is None or new is None or nodes.troubles(old) != nodes.troubles(new):
            self.touch_all()  # workers on it may be lost, or may not be after all
        elif not nodes.same(old, new):
            self._context.wake.set()

    def _on_class(self, old: Json | None, new: Json | None) -> None:
        self.touch_all()  # what was dangling may be no more, and the other way round

    def touch(self, key: Key) -> None:
        """This job may need something."""
        self._dirty[key] = None
        self._context.wake.set()

    def touch_all(self) -> None:
        """Every job may need something: a pool or group has changed, or it is time to look at everything."""
        for key in self._context.stores.jobs.objects():
            self._dirty[key] = None
        self._context.wake.set()

    def take(self, now: float) -> list[Key]:
        """Jobs to look at now; they are no longer noted afterwards."""
        for key in [key for key, at in self._wakes.items() if at <= now]:
            del self._wakes[key]
            self._dirty[key] = None
        due = list(self._dirty)
        self._dirty.clear()
        return due

    def next_wake(self) -> float | None:
        """When the next job must be looked at, even if nothing changes."""
        return min(self._wakes.values(), default=None)

    def wake_at(self, key: Key, at: float) -> None:
        """Look at a job at that time (seconds since the epoch), even if nothing changes."""
        self._wakes[key] = min(at, self._wakes.get(key, at))

    def forget(self, key: Key) -> None:
        """The job is gone: it need not be woken."""
        self._wakes.pop(key, None)
