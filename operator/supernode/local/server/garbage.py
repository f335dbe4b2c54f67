"""Objects whose owners are gone: deleted, or set free, as the owner's deletion asked for.

An index from owner uid to dependents follows every change of the store. Background: dependents of an object that is
gone are deleted. Foreground: an owner that carries `foregroundDeletion` waits until the dependents that block it are
gone. Orphan: dependents lose their reference, then the owner goes.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial

from supernode.local.server.chores import Chores
from supernode.local.server.deletion import FOREGROUND, ORPHAN, DeleteOptions, Deletion
from supernode.local.server.kinds import Kinds
from supernode.local.server.statuses import Object
from supernode.local.server.store import Change, ObjectKey, ResourceKey, Store
from supernode.local.server.target import Target
from supernode.local.server.tree import clone

Place = tuple[ResourceKey, ObjectKey]


def _owners(obj: Object | None) -> set[str]:
    return {str(each.get("uid")) for each in ((obj or {}).get("metadata") or {}).get("ownerReferences") or ()}


class Garbage:
    """The garbage collector.

    Args:
        store: is listened to.
        kinds: knows what a stored resource is called.
        deletion: deletes.
        chores: when it is done.
    """

    def __init__(self, store: Store, kinds: Kinds, deletion: Deletion, chores: Chores) -> None:
        self._store = store
        self._kinds = kinds
        self._deletion = deletion
        self._chores = chores
        self._dependents: dict[str, set[Place]] = defaultdict(set)
        self._places: dict[str, Place] = {}
        store.listeners.append(self.heard)

    def heard(self, resource: ResourceKey, change: Change) -> None:
        """Keep the index, and remember what has to be looked at."""
        place, meta = (resource, change.key), change.now.obj["metadata"]
        uid = str(meta.get("uid"))
        before = _owners(change.was.obj if change.was else None)
        after = set() if change.kind == "DELETED" else _owners(change.now.obj)
        for owner in before - after:
            self._dependents[owner].discard(place)
            if not self._dependents[owner]:
                del self._dependents[owner]
            self._look_at_owner(owner)
        for owner in after - before:
            self._dependents[owner].add(place)
        if change.kind == "DELETED":
            self._places.pop(uid, None)
            for dependent in self._dependents.get(uid, ()):
                self._look_at(dependent)
            return
        self._places[uid] = place
        if any(owner not in self._places for owner in after):
            self._look_at(place)
        if meta.get("deletionTimestamp") and {ORPHAN, FOREGROUND} & set(meta.get("finalizers") or ()):
            self._look_at_owner(uid)

    def _look_at(self, place: Place) -> None:
        self._chores.add(("dependent", place), partial(self._examine, place))

    def _look_at_owner(self, uid: str) -> None:
        self._chores.add(("owner", uid), partial(self._release, uid))

    def _target(self, place: Place) -> tuple[Target, Object] | None:
        resource, key = place
        stored = self._store.get(resource, key)
        served = next((each for each in self._kinds.stored() if each.store == resource), None)
        if stored is None or served is None:
            return None
        return Target(served, *key), stored.obj

    def _waits(self, uid: str) -> bool:
        """Whether an owner is there and waits for its dependents to go first."""
        found = self._target(self._places[uid]) if uid in self._places else None
        meta = found[1]["metadata"] if found else {}
        return bool(meta.get("deletionTimestamp")) and FOREGROUND in (meta.get("finalizers") or ())

    def _alive(self, uid: str, namespace: str) -> bool:
        """Whether an owner exists where a reference may point: cluster-wide, or in the same namespace."""
        place = self._places.get(uid)
        return place is not None and place[1][0] in ("", namespace)

    def _examine(self, place: Place) -> None:
        """Delete a dependent that no living owner wants; drop references to owners that are gone."""
        found = self._target(place)
        if found is None:
            return
        target, obj = found
        references = obj["metadata"].get("ownerReferences") or []
        if not references or obj["metadata"].get("deletionTimestamp"):
            return
        alive = [each for each in references if self._alive(str(each.get("uid")), target.namespace)]
        solid = [each for each in alive if not self._waits(str(each.get("uid")))]
        if solid:
            if len(solid) < len(references):
                new = clone(obj)
                new["metadata"]["ownerReferences"] = solid
                self._deletion.amend(target, new)
            return
        blocks = any(each.get("blockOwnerDeletion") for each in alive)
        has_dependents = bool(self._dependents.get(str(obj["metadata"]["uid"])))
        policy = "Foreground" if blocks and has_dependents else "Background"
        keeps = set(obj["metadata"].get("finalizers") or ())
        if ORPHAN in keeps:
            policy = "Orphan"
        self._deletion.delete(target, DeleteOptions(policy=policy, uid=obj["metadata"]["uid"]))

    def _release(self, uid: str) -> None:
        """Let an owner go that waits for its dependents, or that leaves them behind."""
        found = self._target(self._places[uid]) if uid in self._places else None
        if found is None:
            return
        target, obj = found
        finalizers = obj["metadata"].get("finalizers") or []
        if not obj["metadata"].get("deletionTimestamp"):
            return
        if ORPHAN in finalizers:
            self._set_free(uid)
        elif FOREGROUND in finalizers:
            if self._blocked(uid):
                return
        else:
            return
        new = clone(obj)
        new["metadata"]["finalizers"] = [each for each in finalizers if each not in (ORPHAN, FOREGROUND)]
        if not new["metadata"]["finalizers"]:
            del new["metadata"]["finalizers"]
        self._deletion.amend(target, new)

    def _set_free(self, uid: str) -> None:
        for place in list(self._dependents.get(uid, ())):
            found = self._target(place)
            if found is None:
                continue
            target, obj = found
            new = clone(obj)
            left = [each for each in new["metadata"]["ownerReferences"] if each.get("uid") != uid]
            if left:
                new["metadata"]["ownerReferences"] = left
            else:
                del new["metadata"]["ownerReferences"]
            self._deletion.amend(target, new)

    def _blocked(self, uid: str) -> bool:
        """Have dependents deleted; whether one of them still holds the owner back."""
        blocked = False
        for place in list(self._dependents.get(uid, ())):
            self._look_at(place)
            found = self._target(place)
            references = found[1]["metadata"].get("ownerReferences") or () if found else ()
            blocked = blocked or any(each.get("uid") == uid and each.get("blockOwnerDeletion") for each in references)
        return blocked
