"""Writing objects: create, update, patch; what every kind has in common, and the order in which rules are asked.

In: a resource, a name, and what a client (or a controller of this server) wants. Out: `Written`. A refusal is raised
before anything is stored. Every call is synchronous, so that reading, deciding and storing are one step.
Deleting is in `deletion`; what only one kind demands is in `rules`.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

from supernode.local.machinery import conform, fields, metadata, patch
from supernode.local.machinery.refusals import Cause, InvalidError, RefusedError
from supernode.local.server import statuses
from supernode.local.server.clock import Clock
from supernode.local.server.kinds import Kinds
from supernode.local.server.rules import Cluster, rules_for
from supernode.local.server.statuses import Object, StatusError
from supernode.local.server.store import Store, Stored
from supernode.local.server.target import (
    APPLY_PATCH,
    JSON_PATCH,
    MERGE_PATCH,
    Target,
    Write,
    Written,
    check_applied,
    check_finalizers,
    check_namespace,
    check_type,
    check_uid,
    intersect,
    is_finished,
    refused,
    saying,
)
from supernode.local.server.tree import clone, same

_SUFFIX: Final = "bcdfghjklmnpqrstvwxz2456789"  # what generated names end in: no vowels, no lookalikes
# What the server alone writes; a client's value is replaced by the stored one.
_KEPT: Final = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds")


class Objects:
    """The one writer of the store.

    Args:
        store: where objects are.
        kinds: what is served.
        clock: gives timestamps.
    """

    def __init__(self, store: Store, kinds: Kinds, clock: Clock) -> None:
        self.store = store
        self.kinds = kinds
        self.clock = clock
        self.cluster = Cluster(store, clock)
        self.on_finished: Callable[[Target, Object], bool] = lambda target, obj: False

    def find(self, target: Target) -> Stored:
        """The object as it is stored.

        Raises:
            StatusError: 404.
        """
        stored = self.store.get(target.served.store, target.key)
        if stored is None:
            raise statuses.not_found(target.served.group, target.served.plural, target.name)
        return stored

    def _find(self, target: Target) -> Stored:
        """The object as the target's version shows it."""
        stored, view = self.find(target), target.served.traits.view
        return stored if view is None else Stored(view.show(stored.obj), stored.revision)

    def _kept(self, target: Target, new: Object) -> Object:
        """The object as it is to be stored."""
        view = target.served.traits.view
        return clone(new if view is None else view.keep(new))

    # --- create ------------------------------------------------------------------------------------------------

    def create(self, target: Target, value: Object, write: Write) -> Written:
        """Store a new object; `target.name` is empty when the body names it."""
        check_type(target, value)
        check_namespace(target, value)
        new, warnings = self._decode(target, value, write)
        meta = self._own_metadata(target, new)
        target = Target(target.served, target.namespace, str(meta.get("name", "")), target.subresource)
        if target.served.namespaced:
            self._check_home(target)
        with saying(warnings):
            return self._create(target, new, write, warnings)

    def _create(
        self, target: Target, new: Object, write: Write, warnings: Sequence[str], *, tracked: bool = False
    ) -> Written:
        served = target.served
        rules = rules_for(served)
        if served.has("status") and not rules.keeps_status:
            new.pop("status", None)
        if served.traits.generation:
            new["metadata"]["generation"] = 1
        if not tracked:
            new = clone(self._track(target, None, new, write))
        rules.prepare(new, None, self.cluster)
        self._validate(target, new, None, rules.validate(new, None, self.cluster))
        if self.store.get(served.store, target.key) is not None:
            raise statuses.already_exists(served.group, served.plural, target.name)
        found = (*warnings, *rules.warnings(new, None))
        if write.dry_run:
            return Written(Stored(self._kept(target, new), self.store.revision), True, found)
        return Written(self.store.put(served.store, target.key, self._kept(target, new)), True, found)

    def _own_metadata(self, target: Target, new: Object) -> Object:
        meta: Object = new.setdefault("metadata", {})
        if meta.get("resourceVersion"):
            raise statuses.StatusError(500, "", "resourceVersion should not be set on objects to be created", None)
        for name in ("generation", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"):
            meta.pop(name, None)
        if not meta.get("name") and meta.get("generateName"):
            base = str(meta["generateName"])[:58]
            meta["name"] = base + "".join(secrets.choice(_SUFFIX) for _ in range(5))
        meta["uid"] = str(uuid.uuid4())
        meta["creationTimestamp"] = self.clock.timestamp()
        if target.served.namespaced:
            meta["namespace"] = target.namespace
        else:
            meta.pop("namespace", None)
        return meta

    def _check_home(self, target: Target) -> None:
        namespace = self.store.get(("", "namespaces"), ("", target.namespace))
        if namespace is None:
            raise statuses.not_found("", "namespaces", target.namespace)
        if (namespace.obj.get("status") or {}).get("phase") == "Terminating":
            text = f"namespace {target.namespace} is being terminated"
            cause = Cause("NamespaceTerminating", text, "metadata.namespace")
            why = f"unable to create new content in namespace {target.namespace} because it is being terminated"
            raise statuses.forbidden(target.served.group, target.served.plural, target.name, why, [cause])

    # --- update ------------------------------------------------------------------------------------------------

    def update(self, target: Target, value: Object, write: Write) -> Written:
        """Replace an object, or its part that a subresource stands for."""
        check_type(target, value)
        check_namespace(target, value)
        given = (value.get("metadata") or {}).get("name")
        if given != target.name:
            if not given:
                raise statuses.bad_request(
                    f"the name of the object ({target.name} based on URL) was undeterminable: name must be provided"
                )
            text = f"the name of the object ({given}) does not match the name on the URL ({target.name})"
            raise statuses.bad_request(text)
        existing = self.store.get(target.served.store, target.key)
        if existing is None and target.served.traits.upsert and not target.subresource:
            if (value.get("metadata") or {}).get("uid"):
                raise statuses.conflict(
                    target.served.group,
                    target.served.plural,
                    target.name,
                    f"StorageError: invalid object, Code: 4, Precondition failed: UID in precondition: "
                    f"{value['metadata']['uid']}, UID in object meta: ",
                )
            return self.create(target, value, write)
        old = self._find(target)
        new, warnings = self._decode(target, value, write)
        with saying(warnings):
            return self._replace(target, old, new, write, warnings)

    def _check_versions(self, target: Target, new: Object, old: Object) -> None:
        served = target.served
        meta = new.setdefault("metadata", {})
        uid = meta.get("uid")
        if uid and uid != old["metadata"]["uid"]:
            key = "/".join(("", "registry", served.plural, *filter(None, target.key)))
            why = (
                f"StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: "
                f"Precondition failed: UID in precondition: {uid}, UID in object meta: {old['metadata']['uid']}"
            )
            raise statuses.conflict(served.group, served.plural, target.name, why)
        version = meta.get("resourceVersion")
        if not version and served.traits.needs_version:
            cause = statuses.invalid_value("metadata.resourceVersion", 0, "must be specified for an update")
            error = refused(target, InvalidError([cause]))
            name = statuses.qualified(served.group, served.plural)
            message = f'{name} "{target.name}" is invalid: {cause}'
            raise StatusError(422, "Invalid", message, {**(error.details or {}), "kind": served.plural})
        if version and version != old["metadata"]["resourceVersion"]:
            raise statuses.conflict(served.group, served.plural, target.name)

    def _replace(
        self,
        target: Target,
        stored: Stored,
        new: Object,
        write: Write,
        warnings: Sequence[str],
        *,
        tracked: bool = False,
    ) -> Written:
        """Everything that stands between a decoded new state and the store. `new` is private to this call."""
        served, old = target.served, stored.obj
        self._check_versions(target, new, old)
        rules = rules_for(served)
        meta = new["metadata"]
        for name in _KEPT:
            meta.pop(name, None)
            if name in old["metadata"]:
                meta[name] = old["metadata"][name]
        if served.namespaced:
            meta.setdefault("namespace", target.namespace)
        meta.setdefault("name", target.name)
        meta.pop("selfLink", None)
        meta["resourceVersion"] = old["metadata"]["resourceVersion"]
        new = self._keep(target, new, old)
        if not tracked:
            new = clone(self._track(target, old, new, write))
        if not target.subresource:
            rules.prepare(new, old, self.cluster)
        if served.traits.generation and not target.subresource and rules.asks_more(new, old):
            new["metadata"]["generation"] = int(old["metadata"].get("generation") or 0) + 1
        causes = rules.validate(new, old, self.cluster) if not target.subresource else ()
        self._validate(target, new, old, causes)
        found = (*warnings, *rules.warnings(new, old))
        return self._commit(target, stored, new, write, found)

    def _commit(self, target: Target, stored: Stored, new: Object, write: Write, warnings: tuple[str, ...]) -> Written:
        kept = self._kept(target, new)
        if same(new, stored.obj):
            return Written(Stored(kept, stored.revision), warnings=warnings)
        if write.dry_run or (is_finished(new) and self.on_finished(target, kept)):
            return Written(Stored(kept, stored.revision), warnings=warnings)
        return Written(self.store.put(target.served.store, target.key, kept), warnings=warnings)

    def _keep(self, target: Target, new: Object, old: Object) -> Object:
        """What the endpoint leaves alone: status on the main one, everything else on `status`."""
        if target.subresource == "status":
            if target.served.custom is None:
                # Built-in kinds take metadata through this endpoint too, custom resources do not.
                status = {"status": new["status"]} if "status" in new else {}
                kept = {name: value for name, value in old.items() if name not in ("metadata", "status")}
                return clone({**kept, "metadata": new["metadata"], **status})
            return clone(target.served.definition.only_status(new, old))
        if not target.subresource and target.served.has("status"):
            new.pop("status", None)
            if "status" in old:
                new["status"] = clone(old["status"])
        return new

    # --- patch -------------------------------------------------------------------------------------------------

    def patch(self, target: Target, media: str, body: Any, write: Write) -> Written:
        """Change an object by one of the four kinds of patch."""
        if media == APPLY_PATCH:
            return self._apply(target, body, write)
        old = self._find(target)
        try:
            value = self._patched(target, media, old, body)
            self._check_same(target, value)
            new, warnings = self._decode(target, value, write, patched=True)
        except RefusedError as exc:
            raise refused(target, exc) from exc
        check_uid(target, new, old.obj)
        with saying(warnings):
            return self._replace(target, old, new, write, warnings)

    def _patched(self, target: Target, media: str, old: Stored, body: Any) -> Object:
        base = {**old.obj, "apiVersion": target.served.api_version, "kind": target.served.kind}
        if media == JSON_PATCH:
            result = patch.json_patch(base, body)
        elif not isinstance(body, dict):
            raise statuses.bad_request("error decoding patch: expected an object")
        elif media == MERGE_PATCH:
            result = patch.merge_patch(base, body)
        elif target.served.custom is None:
            result = patch.strategic_merge(target.served.definition.schema, base, body)
        else:
            accepted = [JSON_PATCH, MERGE_PATCH, APPLY_PATCH]
            raise statuses.unsupported_media_type(media, accepted)
        if not isinstance(result, dict):
            raise statuses.bad_request("the patch does not leave an object")
        return result

    def _check_same(self, target: Target, value: Object) -> None:
        check_type(target, value)
        check_namespace(target, value)
        given = (value.get("metadata") or {}).get("name")
        if given != target.name:
            text = f"the name of the object ({given}) does not match the name on the URL ({target.name})"
            raise statuses.bad_request(text)

    def _apply(self, target: Target, body: Any, write: Write) -> Written:
        if not isinstance(body, dict):
            raise statuses.bad_request("error decoding YAML: expected an object")
        check_applied(target, body)
        kind = target.served.definition
        try:
            # What has no place in the schema cannot be owned, whatever `fieldValidation` says.
            conform.require(kind.schema, body, kind.api_version)
        except RefusedError as exc:
            raise refused(target, exc) from exc
        body.setdefault("metadata", {}).setdefault("name", target.name)
        if target.namespace:
            body["metadata"].setdefault("namespace", target.namespace)
        self._check_same(target, body)
        there = target.subresource or self.store.get(target.served.store, target.key) is not None
        existing = self._find(target) if there else None
        try:
            config, warnings = kind.decode(body, field_validation=write.validation, duplicates=write.duplicates)
            result = fields.apply(
                kind,
                None if existing is None else self._as(target, existing),
                self._pruned_config(body, config),
                manager=write.manager,
                force=write.force,
                subresource=target.subresource,
                now=self.clock.timestamp(),
            )
            new, _ = kind.decode(result, field_validation="Ignore")
        except RefusedError as exc:
            raise refused(target, exc) from exc
        new = clone(new)
        rules_for(target.served).default(new)
        if existing is not None:
            check_uid(target, new, existing.obj)
            with saying(warnings):
                return self._replace(target, existing, new, write, warnings, tracked=True)
        managed = new["metadata"].get("managedFields")
        if target.served.namespaced:
            self._check_home(target)
        new["metadata"].pop("resourceVersion", None)
        self._own_metadata(target, new)
        if managed is not None:
            new["metadata"]["managedFields"] = managed
        with saying(warnings):
            return self._create(target, new, write, warnings, tracked=True)

    def _pruned_config(self, body: Object, decoded: Object) -> Object:
        """What the applier said, without defaults: a field it left out is not its own."""
        pruned: Object = intersect(body, decoded)
        return pruned

    def _as(self, target: Target, stored: Stored) -> Object:
        return {**stored.obj, "apiVersion": target.served.api_version, "kind": target.served.kind}

    # --- what both have in common ----------------------------------------------------------------------------------

    def _decode(
        self, target: Target, value: Object, write: Write, *, patched: bool = False
    ) -> tuple[Object, Sequence[str]]:
        """A private copy of what a body says, with defaults."""
        try:
            decoded, warnings = target.served.definition.decode(
                value, field_validation=write.validation, duplicates=write.duplicates, patched=patched
            )
        except RefusedError as exc:
            raise refused(target, exc) from exc
        new = clone(decoded)
        new.setdefault("metadata", {})
        rules_for(target.served).default(new)
        return new, warnings

    def _validate(self, target: Target, new: Object, old: Object | None, causes: Sequence[Cause]) -> None:
        served = target.served
        about = metadata.validate(new, old, namespaced=served.namespaced, name_rule=served.traits.name_rule)
        found = served.definition.causes(new, old, subresource=target.subresource, earlier=list(about))
        known = {(each.reason, each.field) for each in found}
        found += [each for each in causes if (each.reason, each.field) not in known]
        if served.custom is None:
            found += check_finalizers(new["metadata"])
        if found:
            raise refused(target, InvalidError(found))

    def _track(self, target: Target, old: Object | None, new: Object, write: Write) -> Object:
        return fields.track(
            target.served.definition,
            old,
            new,
            manager=write.manager,
            subresource=target.subresource or write.part,
            now=self.clock.timestamp(),
        )
