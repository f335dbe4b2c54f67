"""Field ownership: metadata.managedFields for create, update and patch, and server-side apply.

Each manager (name, operation, API version, subresource) owns a set of fields. A write takes over the fields it
changes; an apply owns exactly what it mentions, removes what it mentioned last time if nobody else owns it, and meets
a conflict where it would change what others own. Times are passed in. See `typed` for what counts as a field.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from supernode.local.machinery import conform
from supernode.local.machinery.fieldset import FieldSet, Path, from_paths, from_v1, render
from supernode.local.machinery.refusals import CONFLICT, ApplyConflictError, BadRequestError, Cause
from supernode.local.machinery.schema import NOTHING, Schema
from supernode.local.machinery.typed import Comparison, compare, field_set, merge, remove, with_named

APPLY: Final = "Apply"
UPDATE: Final = "Update"
LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
MAX_UPDATERS: Final = 10
ANCIENT: Final = "ancient-changes"
BEFORE_APPLY: Final = "before-first-apply"

# Fields that nobody owns: the server's own.
_SERVERS: Final = from_paths(
    [("f:apiVersion",), ("f:kind",), ("f:metadata",)]
    + [
        ("f:metadata", f"f:{name}")
        for name in (
            [
                "name",
                "namespace",
                "creationTimestamp",
                "selfLink",
                "uid",
                "clusterName",
                "generation",
                "managedFields",
                "resourceVersion",
            ]
        )
    ]
)
_STATUS: Final = from_paths([("f:status",)])


class Typed(Protocol):
    """What this module needs of a `kinds.Kind`."""

    @property
    def group(self) -> str:
        """API group."""
        ...

    @property
    def version(self) -> str:
        """API version."""
        ...

    @property
    def kind(self) -> str:
        """Kind."""
        ...

    @property
    def schema(self) -> Schema:
        """Schema of the whole object."""
        ...

    @property
    def custom(self) -> bool:
        """From a CRD."""
        ...

    @property
    def has_status(self) -> bool:
        """Status has an endpoint of its own."""
        ...


@dataclass(frozen=True, order=True)
class Manager:
    """Who owns: the identity of an entry of managedFields. The API version of an applier may change."""

    operation: str
    name: str
    version: str
    subresource: str

    def __str__(self) -> str:
        text = json.dumps(self.name)
        if self.subresource:
            text += f' with subresource "{self.subresource}"'
        return f"{text} using {self.version}" if self.operation == UPDATE else text


@dataclass(frozen=True)
class Owned:
    """What one manager owns, at which API version, since when."""

    fields: FieldSet
    version: str
    time: str | None


Managers = dict[Manager, Owned]


def manager_from(query_manager: str | None, user_agent: str | None) -> str:
    """The name of the manager: the parameter `fieldManager`, or the user agent up to the first slash."""
    if query_manager:
        return query_manager
    return (user_agent or "").split("/", 1)[0][:128]


def decode(entries: Any) -> Managers:
    """metadata.managedFields as a value.

    Raises:
        BadRequestError: an entry without FieldsV1, or with an unknown operation.
    """
    result: Managers = {}
    for entry in entries or ():
        if not isinstance(entry, dict) or entry.get("operation") not in (APPLY, UPDATE):
            raise BadRequestError("managedFields: operation has to be Apply or Update")
        if entry.get("fieldsType", "FieldsV1") != "FieldsV1":
            raise BadRequestError('managedFields: fieldsType has to be "FieldsV1"')
        version = entry.get("apiVersion", "")
        key = Manager(
            entry["operation"],
            entry.get("manager", ""),
            "" if entry["operation"] == APPLY else version,
            entry.get("subresource", ""),
        )
        owned = from_v1(entry.get("fieldsV1") or {})
        known = result.get(key)
        result[key] = Owned(owned if known is None else known.fields | owned, version, entry.get("time"))
    return result


def encode(managers: Managers) -> list[dict[str, Any]]:
    """metadata.managedFields, in the real server's order."""
    ordered = sorted(
        managers.items(),
        key=lambda item: (item[0].operation, item[1].time or "", item[0].name, item[1].version, item[0].subresource),
    )
    entries = []
    for key, owned in ordered:
        entry: dict[str, Any] = {"manager": key.name, "operation": key.operation, "apiVersion": owned.version}
        if owned.time is not None:
            entry["time"] = owned.time
        entry |= {"fieldsType": "FieldsV1", "fieldsV1": owned.fields.to_v1()}
        if key.subresource:
            entry["subresource"] = key.subresource
        entries.append(entry)
    return entries


def track(
    kind: Typed,
    old: dict[str, Any] | None,
    new: dict[str, Any],
    *,
    manager: str,
    now: str,
    operation: str = UPDATE,
    subresource: str = "",
) -> dict[str, Any]:
    """The object with managedFields after a create (`old` None), update or patch by `manager` at time `now`.

    managedFields that the client sent itself are taken when they can be read; `[{}]` forgets all. An object that is not
    tracked stays so until it is applied. A subresource cannot set them.
    """
    written = new.get("metadata", {}).get("managedFields")
    before = (old or {}).get("metadata", {}).get("managedFields")
    if old is not None and not subresource and written == [{}]:
        return _with_managers(new, {})
    managers = _decode_or_empty(before)
    if not subresource and written and written != [{}]:
        sent = _decode_or_empty(written)
        managers = sent or managers
    if old is not None and not managers:
        return _with_managers(new, managers)
    live = _empty(kind) if old is None else _bare(old)
    version = _version(kind)
    key = Manager(operation, manager, version, subresource)
    try:
        difference = compare(kind.schema, live, _bare(new))
    except BadRequestError:
        # As the real server: an object that breaks its own list keys is stored (or refused) without tracking.
        return _with_managers(new, managers)
    changed = ((difference.modified | difference.added).without_below(_ignored(kind, subresource))) - _SERVERS
    managers = _without_lost(managers, difference, None, kind, subresource)
    if changed:
        previous = managers.get(key)
        fields = changed if previous is None else changed | previous.fields
        managers[key] = Owned(fields, version, None if subresource == "scale" else now)  # as the real server
        managers = _capped(managers)
    return _with_managers(new, managers)


def apply(
    kind: Typed,
    live: dict[str, Any] | None,
    config: dict[str, Any],
    *,
    manager: str,
    now: str,
    force: bool = False,
    subresource: str = "",
) -> dict[str, Any]:
    """Server-side apply of `config` by `manager`; `live` None creates.

    Returns:
        The new object with managedFields; `live` itself when nothing but a time would change.

    Raises:
        ApplyConflictError: it would change fields of other managers, and `force` is not set.
        BadRequestError: the configuration carries managedFields.
        UntypedError: it does not fit the schema (unknown fields, wrong types, lists that break their own keys).
    """
    if config.get("metadata", {}).get("managedFields") is not None:
        raise BadRequestError("metadata.managedFields must be nil")
    version = _version(kind)
    conform.require(kind.schema, config, version)
    base = _empty(kind) if live is None else _bare(live)
    managers = _decode_or_empty((live or {}).get("metadata", {}).get("managedFields"))
    if live is not None and not managers:
        everything = compare(kind.schema, _empty(kind), base)
        fields = (everything.added | everything.modified).without_below(_ignored(kind, subresource)) - _SERVERS
        if fields:
            managers[Manager(UPDATE, BEFORE_APPLY, version, "")] = Owned(fields, version, now)
    key = Manager(APPLY, manager, "", subresource)
    last = managers.get(key)
    owned = field_set(kind.schema, config).without_below(_ignored(kind, subresource))
    merged = merge(kind.schema, base, config)
    managers[key] = Owned(owned, version, last.time if last else None)
    if last is not None and last.fields:
        merged = _pruned(kind.schema, merged, managers, last.fields)
    difference = compare(kind.schema, base, merged)
    conflicts = _conflicts(managers, difference, key, kind, subresource)
    if conflicts and not force:
        allowed = _from_last_applied(kind, live) if manager == "kubectl" else FieldSet()
        causes = [
            Cause(CONFLICT, f"conflict with {other}", render(path))
            for other, path in conflicts
            if not allowed.has(path)
        ]
        if causes:
            raise ApplyConflictError(causes)
    managers = _without_lost(managers, difference, key, kind, subresource)
    managers[key] = replace(managers[key], fields=managers[key].fields - _SERVERS)
    if not managers[key].fields:
        del managers[key]
    if live is not None and merged == base and _same_but_times(managers, live):
        return live
    if key in managers and (live is None or merged != base):
        managers[key] = replace(managers[key], time=now)
    return _with_managers(_refreshed_annotation(merged, config, manager), managers)


def _version(kind: Typed) -> str:
    return f"{kind.group}/{kind.version}" if kind.group else kind.version


def _bare(obj: dict[str, Any]) -> dict[str, Any]:
    """The object without managedFields."""
    metadata = obj.get("metadata")
    if not isinstance(metadata, dict) or "managedFields" not in metadata:
        return obj
    return obj | {"metadata": {name: value for name, value in metadata.items() if name != "managedFields"}}


def _with_managers(obj: dict[str, Any], managers: Managers) -> dict[str, Any]:
    metadata = {name: value for name, value in (obj.get("metadata") or {}).items() if name != "managedFields"}
    if managers:
        metadata["managedFields"] = encode(managers)
    return obj | {"metadata": metadata}


def _empty(kind: Typed) -> dict[str, Any]:
    """What stands before a create: for a built-in its zero value, else nothing but the type."""
    identity = {"apiVersion": _version(kind), "kind": kind.kind}
    return identity if kind.custom else _zero(kind.schema) | identity


def _zero(schema: Schema) -> dict[str, Any]:
    """The fields that a Go struct writes even when nobody set them."""
    result: dict[str, Any] = {}
    for name, child in schema.properties.items():
        if child.default == {} and child.properties:
            result[name] = _zero(child)
        elif name in schema.required and name != "metadata":
            result[name] = None if child.default is NOTHING else child.default
    return result


def _decode_or_empty(entries: Any) -> Managers:
    try:
        return decode(entries)
    except BadRequestError:
        return {}


def _ignored(kind: Typed, subresource: str) -> FieldSet:
    """Fields that the endpoint does not write, and that its managers can therefore not own."""
    if subresource == "status":
        names = ["metadata", "spec"] if kind.custom else ["spec"]
        return from_paths([(f"f:{name}",) for name in names])
    return _STATUS if kind.has_status and subresource in ("", "scale") else FieldSet()


def _conflicts(
    managers: Managers, difference: Comparison, own: Manager | None, kind: Typed, subresource: str
) -> list[tuple[Manager, Path]]:
    changed = (difference.modified | difference.added).without_below(_ignored(kind, subresource))
    found: list[tuple[Manager, Path]] = []
    for other in sorted(managers, key=lambda item: (item.name, item.operation, item.version, item.subresource)):
        if other != own:
            found.extend((other, path) for path in (managers[other].fields & changed).paths())
    return found


def _without_lost(
    managers: Managers, difference: Comparison, own: Manager | None, kind: Typed, subresource: str
) -> Managers:
    """Other managers lose what was changed by this write, and everyone what is gone."""
    ignored = _ignored(kind, subresource)
    changed = (difference.modified | difference.added).without_below(ignored)
    removed = difference.removed.without_below(ignored)
    result = {}
    for key, owned in managers.items():
        if key == own:
            result[key] = owned
            continue
        rest = owned.fields - changed - removed
        if rest:
            result[key] = replace(owned, fields=rest)
    return result


def _capped(managers: Managers) -> Managers:
    """At most ten updaters: the oldest are put together."""
    updaters = sorted((k for k in managers if k.operation == UPDATE), key=lambda k: managers[k].time or "")
    surplus = len(updaters) - MAX_UPDATERS
    if surplus <= 0:
        return managers
    result = dict(managers)
    for key in updaters[: surplus + 1]:
        owned = result.pop(key)
        bucket = Manager(UPDATE, ANCIENT, owned.version, "")
        known = result.get(bucket)
        fields = owned.fields if known is None else known.fields | owned.fields
        result[bucket] = Owned(fields, owned.version, owned.time)
    return result


def _pruned(schema: Schema, merged: Any, managers: Managers, last: FieldSet) -> Any:
    """Without what the applier mentioned last time, unless someone (itself included) still owns it."""
    last = with_named(schema, last)
    pruned = remove(schema, merged, last)
    everyone = FieldSet()
    for owned in managers.values():
        everyone |= owned.fields
    everything = with_named(schema, field_set(schema, merged))
    kept = with_named(schema, field_set(schema, pruned)) | with_named(schema, everyone)
    pruned = remove(schema, merged, everything - kept)
    kept = with_named(schema, field_set(schema, pruned))
    return remove(schema, merged, (everything - kept) & last)


def _from_last_applied(kind: Typed, live: dict[str, Any] | None) -> FieldSet:
    """What the client-side apply annotation mentions: kubectl may take that over from its former self."""
    text = ((live or {}).get("metadata", {}).get("annotations") or {}).get(LAST_APPLIED)
    try:
        return field_set(kind.schema, json.loads(text)) if text else FieldSet()
    except (ValueError, TypeError, BadRequestError):
        return FieldSet()


def _refreshed_annotation(obj: dict[str, Any], config: dict[str, Any], manager: str) -> dict[str, Any]:
    """kubectl's server-side apply keeps an annotation of client-side apply up to date, so that one may go back."""
    annotations = obj.get("metadata", {}).get("annotations") or {}
    if manager != "kubectl" or LAST_APPLIED not in annotations:
        return obj
    metadata = dict(config.get("metadata", {}))
    if "annotations" in metadata:
        metadata["annotations"] = {n: v for n, v in (metadata["annotations"] or {}).items() if n != LAST_APPLIED}
    text = json.dumps(config | {"metadata": metadata}, separators=(",", ":"), sort_keys=True) + "\n"
    return obj | {"metadata": obj["metadata"] | {"annotations": annotations | {LAST_APPLIED: text}}}


def _same_but_times(managers: Managers, live: dict[str, Any]) -> bool:
    before = _decode_or_empty(live.get("metadata", {}).get("managedFields"))
    return {k: (o.fields, o.version) for k, o in managers.items()} == {
        k: (o.fields, o.version) for k, o in before.items()
    }
