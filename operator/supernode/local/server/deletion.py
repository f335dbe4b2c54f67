"""Deleting: at once, gracefully, or when finalizers allow; with preconditions and a word about the dependents.

A pod on a node is only marked: the node agent ends its processes and deletes it again without grace, as a kubelet
does. What depends on a deleted object is `garbage`'s business; here it only gets the finalizer that says what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from supernode.local.machinery.refusals import Cause
from supernode.local.server import statuses
from supernode.local.server.objects import Objects
from supernode.local.server.statuses import Object
from supernode.local.server.store import Stored
from supernode.local.server.target import Target, is_finished
from supernode.local.server.tree import clone

ORPHAN: Final = "orphan"
FOREGROUND: Final = "foregroundDeletion"
_POLICIES: Final = ("Orphan", "Background", "Foreground")


@dataclass(frozen=True)
class DeleteOptions:
    """How a delete is asked for."""

    grace: int | None = None  # seconds
    policy: str | None = None
    uid: str | None = None
    version: str | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class Deleted:
    """What a delete did: the last state seen, and whether the object is gone."""

    obj: Object
    gone: bool


def parse_options(body: Object, query: Mapping[str, str]) -> DeleteOptions:
    """Options from the body, or from the query where the body is silent.

    Raises:
        StatusError: 400 or 422, an option that cannot be.
    """
    orphan = body.get("orphanDependents", query.get("orphanDependents"))
    policy = body.get("propagationPolicy") or query.get("propagationPolicy")
    if policy is not None and orphan is not None:
        why = "orphanDependents and deletionPropagation cannot be both set"
        raise _wrong_option(statuses.invalid_value("propagationPolicy", policy, why))
    if policy is not None and policy not in _POLICIES:
        supported = ("Foreground", "Background", "Orphan", "nil")
        raise _wrong_option(statuses.not_supported("propagationPolicy", policy, supported))
    if policy is None and orphan is not None:
        policy = "Orphan" if str(orphan).lower() == "true" else "Background"
    grace: Any = body.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
    try:
        seconds = None if grace is None else int(grace)
    except (TypeError, ValueError) as exc:
        raise statuses.bad_request(f"gracePeriodSeconds is not a number: {grace}") from exc
    wanted = body.get("preconditions") or {}
    dry_run = body.get("dryRun") or list(filter(None, [query.get("dryRun")]))
    if dry_run and dry_run != ["All"]:
        raise _wrong_option(statuses.not_supported("dryRun", dry_run, ("All",)))
    return DeleteOptions(seconds, policy, wanted.get("uid"), wanted.get("resourceVersion"), bool(dry_run))


def _wrong_option(cause: Cause) -> statuses.StatusError:
    details: Object = {"group": "meta.k8s.io", "kind": "DeleteOptions", "causes": [cause.as_dict()]}
    return statuses.StatusError(422, "Invalid", f'DeleteOptions.meta.k8s.io "" is invalid: {cause}', details)


class Deletion:
    """Takes objects out of the store.

    Args:
        objects: the writer; its updates that end an object's life come back here.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._store = objects.store
        objects.on_finished = self._finished

    def delete(self, target: Target, options: DeleteOptions) -> Deleted:
        """Delete one object.

        Raises:
            StatusError: 404, or 409 when a precondition does not hold.
        """
        stored = self._objects.find(target)
        self._check(target, stored, options)
        new = clone(stored.obj)
        meta = new["metadata"]
        self._set_policy(target, meta, options)
        grace = self._grace(target, new, options)
        blocked = bool(meta.get("finalizers")) or self._has_content(target, new)
        if not grace and not blocked:
            if target.served.store == ("", "pods"):
                self._mark(target, new, 0)  # watchers see with the end how it came
            if options.dry_run:
                return Deleted(new, True)
            gone = self._store.remove(target.served.store, target.key, new)
            return Deleted(gone.obj, True)
        self._mark(target, new, grace)
        if options.dry_run or new == stored.obj:
            return Deleted(new, False)
        return Deleted(self._store.put(target.served.store, target.key, new).obj, False)

    def _check(self, target: Target, stored: Stored, options: DeleteOptions) -> None:
        meta = stored.obj["metadata"]
        for wanted, name, word, tail in (
            (options.uid, "uid", "UID", "deleted and then recreated"),
            (options.version, "resourceVersion", "ResourceVersion", "modified"),
        ):
            if wanted is not None and wanted != meta[name]:
                why = (
                    f"the {word} in the precondition ({wanted}) does not match the {word} in record ({meta[name]}). "
                    f"The object might have been {tail}"
                )
                raise statuses.conflict(target.served.group, target.served.kind, target.name, why)

    def _set_policy(self, target: Target, meta: Object, options: DeleteOptions) -> None:
        policy = options.policy or ("Orphan" if target.served.traits.orphans else None)
        if policy is None:
            return
        finalizers = [each for each in meta.get("finalizers") or () if each not in (ORPHAN, FOREGROUND)]
        if policy == "Orphan":
            finalizers.append(ORPHAN)
        elif policy == "Foreground":
            finalizers.append(FOREGROUND)
        if finalizers:
            meta["finalizers"] = finalizers
        else:
            meta.pop("finalizers", None)

    def _grace(self, target: Target, obj: Object, options: DeleteOptions) -> int:
        """Seconds that a pod has left; 0 for everything else."""
        if target.served.store != ("", "pods"):
            return 0
        spec, status = obj["spec"], obj.get("status") or {}
        if not spec.get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
            return 0
        asked = options.grace if options.grace is not None else spec.get("terminationGracePeriodSeconds")
        grace = max(int(asked if asked is not None else 30), 0)
        left = obj["metadata"].get("deletionGracePeriodSeconds")
        return min(grace, int(left)) if obj["metadata"].get("deletionTimestamp") and left is not None else grace

    def _has_content(self, target: Target, obj: Object) -> bool:
        return target.served.store == ("", "namespaces") and bool((obj.get("spec") or {}).get("finalizers"))

    def _mark(self, target: Target, new: Object, grace: int) -> None:
        meta = new["metadata"]
        if "deletionTimestamp" in meta and meta.get("deletionGracePeriodSeconds", 0) == grace:
            return
        first = "deletionTimestamp" not in meta
        meta["deletionTimestamp"] = self._objects.clock.timestamp(grace)
        meta["deletionGracePeriodSeconds"] = grace
        if target.served.traits.generation and first:
            meta["generation"] = int(meta.get("generation") or 0) + 1
        if target.served.store == ("", "namespaces"):
            new["status"] = {**(new.get("status") or {}), "phase": "Terminating"}
            meta.pop("deletionGracePeriodSeconds", None)

    def _finished(self, target: Target, new: Object) -> bool:
        """An update took the last finalizer away: the object goes."""
        if self._has_content(target, new):
            return False
        self._store.put(target.served.store, target.key, clone(new))
        self._store.remove(target.served.store, target.key)
        return True

    def amend(self, target: Target, new: Object) -> None:
        """Store a state that this server itself decided on (finalizers, owners, phase), and end what is finished."""
        if self._store.get(target.served.store, target.key) is None:
            return
        if is_finished(new) and self._finished(target, new):
            return
        self._store.put(target.served.store, target.key, clone(new))
