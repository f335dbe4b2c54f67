"""Custom resource definitions: whether one is right, and the kinds that it defines.

Flows in: a CustomResourceDefinition as JSON. Flows out: causes, defaults of its names, and a compiled `Kind` per
version. Compile once per change of the CRD: patterns and CEL rules are compiled here.
"""

from __future__ import annotations

import re
from typing import Any, Final

from supernode.local.machinery import check, decode, schemas
from supernode.local.machinery.fieldset import text
from supernode.local.machinery.kinds import Kind
from supernode.local.machinery.metadata import NAME_RULES
from supernode.local.machinery.refusals import (
    DUPLICATE,
    FORBIDDEN,
    INVALID,
    NOT_SUPPORTED,
    REQUIRED,
    Cause,
    InvalidError,
)
from supernode.local.machinery.schema import NOTHING, Schema
from supernode.local.machinery.structural import Reader

_VERSION: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_COLUMN_TYPES: Final = ("boolean", "date", "integer", "number", "string")


def with_defaults(crd: dict[str, Any]) -> dict[str, Any]:
    """The CRD with what the server fills in: singular, listKind, conversion."""
    spec = dict(crd.get("spec") or {})
    names = dict(spec.get("names") or {})
    if names.get("kind"):
        names.setdefault("singular", str(names["kind"]).lower())
        names.setdefault("listKind", f"{names['kind']}List")
    spec["names"] = names
    spec.setdefault("conversion", {"strategy": "None"})
    return crd | {"spec": spec}


def validate(crd: dict[str, Any], old: dict[str, Any] | None = None) -> None:
    """Refuse a CRD that is wrong.

    Raises:
        InvalidError: with a cause for everything that is wrong.
    """
    causes = _names(crd, old)
    versions = (crd.get("spec") or {}).get("versions") or []
    for index, version in enumerate(versions):
        causes.extend(_version(crd, version, index, single=len(versions) == 1))
    if causes:
        raise InvalidError(causes)


def compile(crd: dict[str, Any]) -> dict[str, Kind]:  # noqa: A001 - says what it does
    """The kinds of a valid CRD by version."""
    spec = crd["spec"]
    kinds = {}
    for version in spec["versions"]:
        raw = (version.get("schema") or {}).get("openAPIV3Schema") or {}
        reader = Reader(schemas.builtin().metadata())
        schema = reader.read(raw, "", root=True)
        kinds[version["name"]] = Kind(
            spec["group"],
            version["name"],
            spec["names"]["kind"],
            schema,
            custom=True,
            has_status="status" in (version.get("subresources") or {}),
            raw=raw,
            columns=tuple(version.get("additionalPrinterColumns") or ()),
        )
    return kinds


def _required(value: Any, field: str, causes: list[Cause]) -> bool:
    if not value:
        causes.append(Cause(REQUIRED, "Required value", field))
    return bool(value)


def _names(crd: dict[str, Any], old: dict[str, Any] | None) -> list[Cause]:
    causes: list[Cause] = []
    spec = crd.get("spec") or {}
    names = spec.get("names") or {}
    group, plural = spec.get("group", ""), names.get("plural", "")
    wanted = f"{plural}.{group}"
    name = (crd.get("metadata") or {}).get("name", "")
    if name != wanted and old is None:
        causes.append(
            Cause(INVALID, f'Invalid value: {text(name)}: must be spec.names.plural+"."+spec.group', "metadata.name")
        )
    _required(group, "spec.group", causes)
    for field in ("plural", "kind"):
        _required(names.get(field), f"spec.names.{field}", causes)
    if spec.get("scope") not in ("Cluster", "Namespaced") and _required(spec.get("scope"), "spec.scope", causes):
        why = f'Unsupported value: {text(spec["scope"])}: supported values: "Cluster", "Namespaced"'
        causes.append(Cause(NOT_SUPPORTED, why, "spec.scope"))
    versions = spec.get("versions") or []
    storage = [version for version in versions if version.get("storage")]
    if not versions:
        causes.append(Cause(REQUIRED, "Required value", "spec.versions"))
    elif len(storage) != 1:
        why = f"Invalid value: {text(versions)}: must have exactly one version marked as storage version"
        causes.append(Cause(INVALID, why, "spec.versions"))
    seen: set[str] = set()
    for index, version in enumerate(versions):
        label = version.get("name", "")
        if not _VERSION.fullmatch(label):
            for why in NAME_RULES["service"](label):
                causes.append(Cause(INVALID, f"Invalid value: {text(label)}: {why}", f"spec.versions[{index}].name"))
        if label in seen:
            causes.append(Cause(DUPLICATE, f"Duplicate value: {text(label)}", f"spec.versions[{index}].name"))
        seen.add(label)
    if old is not None:
        before = old.get("spec") or {}
        for field in ("group", "scope"):
            if before.get(field) != spec.get(field):
                why = f"Invalid value: {text(spec.get(field))}: field is immutable"
                causes.append(Cause(INVALID, why, f"spec.{field}"))
    return causes


def _version(crd: dict[str, Any], version: dict[str, Any], index: int, *, single: bool) -> list[Cause]:
    path = f"spec.versions[{index}]"
    # What the only version says is reported as if it stood in the spec itself, as in the API's first version.
    top = "spec" if single else path
    raw = (version.get("schema") or {}).get("openAPIV3Schema")
    where = "spec.validation.openAPIV3Schema" if single else f"{path}.schema.openAPIV3Schema"
    causes: list[Cause] = []
    if raw is None:
        return [Cause(REQUIRED, "Required value", f"{path}.schema.openAPIV3Schema")]
    reader = Reader(schemas.builtin().metadata())
    schema = reader.read(raw, where, root=True)
    causes.extend(reader.causes)
    if isinstance(raw, dict) and raw.get("type", "object") != "object":
        why = f"Invalid value: {text(raw.get('type'))}: must be object at the root"
        causes.append(Cause(INVALID, why, f"{where}.type"))
    described = raw.get("properties", {}).get("metadata", {}) if isinstance(raw, dict) else {}
    if set(described.get("properties") or {}) - {"name", "generateName"}:
        why = "Forbidden: must not specify anything other than name and generateName, "
        why += "but metadata is implicitly specified"
        causes.append(Cause(FORBIDDEN, why, f"{where}.properties[metadata]"))
    if not causes:
        _defaults(schema, where, causes)
    for place, column in enumerate(version.get("additionalPrinterColumns") or ()):
        at = f"{top}.additionalPrinterColumns[{place}]"
        _required(column.get("name"), f"{at}.name", causes)
        if column.get("type") not in _COLUMN_TYPES:
            listed = ",".join(_COLUMN_TYPES)
            causes.append(
                Cause(INVALID, f"Invalid value: {text(column.get('type'))}: must be one of {listed}", f"{at}.type")
            )
        if not str(column.get("jsonPath", "")).startswith("."):
            why = f"Invalid value: {text(column.get('jsonPath'))}: must be a simple json path starting with ."
            causes.append(Cause(INVALID, why, f"{at}.{'JSONPath' if single else 'jsonPath'}"))
    scale = (version.get("subresources") or {}).get("scale")
    if scale is not None:
        for field, root in (("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")):
            if not str(scale.get(field, "")).startswith(root):
                why = f"Invalid value: {text(scale.get(field))}: should be a json path under {root[:-1]}"
                causes.append(Cause(INVALID, why, f"{top}.subresources.scale.{field}"))
    return causes


def _defaults(schema: Schema, path: str, causes: list[Cause]) -> None:
    """Every default has to keep to its own schema, with nothing unknown in it."""
    for name, child in schema.properties.items():
        if child.source:
            continue
        place = f"{path}.properties[{name}]"
        if child.default is not NOTHING:
            unknown: list[str] = []
            decode.prune(child, child.default, "", unknown.append)
            if unknown:
                why = f"Invalid value: {text(child.default)}: must not have unknown fields"
                causes.append(Cause(INVALID, why, f"{place}.default"))
            bare = Schema(type="object", properties={"default": child})
            filled = decode.fill_defaults(child, child.default)
            if not (child.default is None and child.nullable):
                for cause in check.custom(bare, {"default": filled}):
                    if cause.field != check.NOWHERE:
                        # The real server judges a default by itself, so its messages name no field.
                        why = cause.message.replace(f": {cause.field} in body", ":  in body")
                        causes.append(Cause(cause.reason, why, f"{place}.{cause.field}"))
        _defaults(child, place, causes)
    for below, suffix in ((schema.items, "items"), (schema.additional, "additionalProperties")):
        if below is not None and not below.source:
            _defaults(below, f"{path}.{suffix}", causes)
