"""What keeps namespaces and CRDs in order: default service accounts, emptying, and serving what CRDs define."""

from __future__ import annotations

from functools import partial

from supernode.local.server.chores import Chores
from supernode.local.server.deletion import DeleteOptions, Deletion
from supernode.local.server.kinds import Kinds
from supernode.local.server.objects import Objects
from supernode.local.server.rules.crds import CLEANUP
from supernode.local.server.store import Change, ResourceKey, Store
from supernode.local.server.target import Target, Write
from supernode.local.server.tree import clone

_NAMESPACES: ResourceKey = ("", "namespaces")
_DEFINITIONS: ResourceKey = ("apiextensions.k8s.io", "customresourcedefinitions")


class Keepers:
    """Follows namespaces and CRDs.

    Args:
        objects: creates.
        deletion: deletes.
        chores: when it is done.
    """

    def __init__(self, objects: Objects, deletion: Deletion, chores: Chores) -> None:
        self._objects = objects
        self._store: Store = objects.store
        self._kinds: Kinds = objects.kinds
        self._deletion = deletion
        self._chores = chores
        self._store.listeners.append(self.heard)

    def heard(self, resource: ResourceKey, change: Change) -> None:
        """Remember what has to be done after a change."""
        if resource == _DEFINITIONS:
            self._define(change)
        elif resource == _NAMESPACES:
            name = change.key[1]
            if change.now.obj["metadata"].get("deletionTimestamp") and change.kind != "DELETED":
                self._chores.add(("namespace", name), partial(self._empty, name))
            elif change.kind == "ADDED":
                self._chores.add(("account", name), partial(self.account, name))
        elif change.kind == "DELETED":
            self._gone(resource, change.key[0])

    def _gone(self, resource: ResourceKey, namespace: str) -> None:
        """An object is gone: the namespace or the CRD that waits for it may go on."""
        home = self._store.get(_NAMESPACES, ("", namespace))
        if home is not None and home.obj["metadata"].get("deletionTimestamp"):
            self._chores.add(("namespace", namespace), partial(self._empty, namespace))
        name = f"{resource[1]}.{resource[0]}"
        definition = self._store.get(_DEFINITIONS, ("", name))
        if definition is not None and definition.obj["metadata"].get("deletionTimestamp"):
            self._chores.add(("definition", name), partial(self._clean, name))

    # --- namespaces ------------------------------------------------------------------------------------------------

    def account(self, namespace: str) -> None:
        """The service account `default` of a namespace."""
        served = self._kinds.find("", "v1", "serviceaccounts")
        if served is None or self._store.get(served.store, (namespace, "default")) is not None:
            return
        value = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        self._objects.create(Target(served, namespace, ""), value, Write("kube-controller-manager"))

    def _empty(self, name: str) -> None:
        """Delete what a terminating namespace holds; when nothing is left, the namespace goes."""
        stored = self._store.get(_NAMESPACES, ("", name))
        served = self._kinds.find("", "v1", "namespaces")
        if stored is None or served is None:
            return
        left = False
        for each in self._kinds.stored():
            if not each.namespaced:
                continue
            for found in list(self._store.items(each.store, name)):
                target = Target(each, name, found.obj["metadata"]["name"])
                if not found.obj["metadata"].get("deletionTimestamp"):
                    left = not self._deletion.delete(target, DeleteOptions(policy="Background")).gone or left
                else:
                    left = True
        if left:
            return
        new = clone(stored.obj)
        new["spec"] = {**(new.get("spec") or {}), "finalizers": []}
        del new["spec"]["finalizers"]
        self._deletion.amend(Target(served, "", name), new)

    # --- CRDs --------------------------------------------------------------------------------------------------

    def _define(self, change: Change) -> None:
        """Serve what the CRD says from the very next request on."""
        name = change.key[1]
        if change.kind == "DELETED":
            stores = self._kinds.custom_stores([name])
            self._kinds.forget(name)
            self._store.drop_watches(stores)
            return
        definition = change.now.obj
        if change.was is None or change.was.obj.get("spec") != definition.get("spec"):
            stores = self._kinds.custom_stores([name])
            self._kinds.define(definition)
            # Watchers of a version that may be gone, or that has other columns now, connect again.
            self._store.drop_watches(stores)
        if definition["metadata"].get("deletionTimestamp"):
            self._chores.add(("definition", name), partial(self._clean, name))

    def _clean(self, name: str) -> None:
        """Delete the objects of a CRD that is going; when none is left, the CRD goes."""
        stored = self._store.get(_DEFINITIONS, ("", name))
        served = self._kinds.find("apiextensions.k8s.io", "v1", "customresourcedefinitions")
        if stored is None or served is None:
            return
        left = False
        for key in self._kinds.custom_stores([name]):
            custom = next(each for each in self._kinds.stored() if each.store == key)
            for found in list(self._store.items(key)):
                meta = found.obj["metadata"]
                target = Target(custom, meta.get("namespace", ""), meta["name"])
                if meta.get("deletionTimestamp") or not self._deletion.delete(target, DeleteOptions()).gone:
                    left = True
        if left:
            return
        new = clone(stored.obj)
        new["metadata"]["finalizers"] = [each for each in new["metadata"].get("finalizers") or () if each != CLEANUP]
        self._deletion.amend(Target(served, "", name), new)
