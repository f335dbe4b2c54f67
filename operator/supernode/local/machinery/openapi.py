"""OpenAPI v3 and v2 documents of what is served, as far as clients read them.

kubectl asks them for three things: which parameters a patch takes (so that it validates on the server), how lists are
merged (client-side apply), and what fields there are (`explain`). So there is a path per endpoint with its parameters
and kinds, and every schema; the built-ins come without descriptions, custom kinds with their own. JSON only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from supernode.local.machinery import schemas
from supernode.local.machinery.discovery import group_versions
from supernode.local.machinery.resources import Resource
from supernode.local.machinery.schemas import META

_V3: Final = "#/components/schemas/"
_V2: Final = "#/definitions/"
_TYPES: Final = {
    "int32": "integer",
    "int64": "integer",
    "double": "number",
    "date-time": "string",
    "byte": "string",
}
# Our key -> OpenAPI's (the mirror of `extract.KEYS`).
_KEYS: Final = {
    "e": "enum",
    "l": "x-kubernetes-list-type",
    "k": "x-kubernetes-list-map-keys",
    "m": "x-kubernetes-patch-merge-key",
    "s": "x-kubernetes-patch-strategy",
    "a": "x-kubernetes-map-type",
}
_WRITE: Final = ("dryRun", "fieldManager", "fieldValidation")
_PATCHES: Final = ("application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml")
_STRATEGIC: Final = "application/strategic-merge-patch+json"
# Subresources that are a connection to somewhere else.
_CONNECTED: Final = ("attach", "exec", "portforward", "proxy")


def version_info() -> dict[str, str]:
    """/version"""
    text = schemas.builtin().version
    major, minor, _ = text.removeprefix("v").split(".", 2)
    return {
        "major": major,
        "minor": minor,
        "gitVersion": f"{text}+supernode",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": "linux/amd64",
    }


def v3_index(resources: Sequence[Resource]) -> dict[str, Any]:
    """/openapi/v3: the documents, each with the hash of its content in its address."""
    paths = {}
    for group, versions in group_versions(resources).items():
        for version in versions:
            path = f"apis/{group}/{version}" if group else f"api/{version}"
            content = json.dumps(v3(resources, group, version), sort_keys=True).encode()
            digest = hashlib.sha256(content).hexdigest().upper()
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
    return {"paths": paths}


def v3(resources: Iterable[Resource], group: str, version: str) -> dict[str, Any] | None:
    """The document of one group and version; None when nothing of it is served."""
    members = [r for r in resources if r.group == group and r.version == version]
    if not members:
        return None
    writer = _Writer(_V3)
    paths: dict[str, Any] = {}
    for resource in members:
        paths |= _paths(resource, writer, modern=True)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": schemas.builtin().version},
        "paths": paths,
        "components": {"schemas": writer.finished()},
    }


def v2(resources: Iterable[Resource]) -> dict[str, Any]:
    """The one document of everything served."""
    writer = _Writer(_V2)
    paths: dict[str, Any] = {}
    for resource in resources:
        paths |= _paths(resource, writer, modern=False)
    return {
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": schemas.builtin().version},
        "paths": paths,
        "definitions": writer.finished(),
    }


class _Writer:
    """Gathers schemas and whatever they refer to."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._modern = prefix == _V3
        self._schemas: dict[str, Any] = {}
        facts = schemas.builtin()
        self._definitions = facts.definitions
        self._kinds: dict[str, list[dict[str, str]]] = {}
        for full, name in facts.kinds.items():
            group_version, _, kind = full.rpartition("/")
            group, _, version = group_version.rpartition("/")
            self._kinds.setdefault(name, []).append({"group": group, "kind": kind, "version": version})

    def finished(self) -> dict[str, Any]:
        """All schemas, by name."""
        return dict(sorted(self._schemas.items()))

    def reference(self, name: str) -> dict[str, Any]:
        """A reference to a built-in definition, which is written when first asked for."""
        full = f"io.k8s.{name}"
        if full not in self._schemas:
            self._schemas[full] = {}
            self._schemas[full].update(self._definition(name))
        return {"$ref": self._prefix + full}

    def kind(self, resource: Resource) -> dict[str, Any]:
        """A reference to the schema of a resource's objects; its list is written too."""
        if resource.definition is None or not resource.definition.custom:
            facts = schemas.builtin().kinds
            prefix = f"{resource.api_version}/"
            if f"{prefix}{resource.list_kind}" in facts:
                self.reference(facts[f"{prefix}{resource.list_kind}"])
            name = facts.get(f"{prefix}{resource.kind}")
            return self.reference(name) if name else {"type": "object"}
        name = ".".join([*reversed(resource.group.split(".")), resource.version])
        full = f"{name}.{resource.kind}"
        gvk = {"group": resource.group, "version": resource.version}
        if full not in self._schemas:
            self._schemas[full] = _custom(resource.definition.raw or {}, self) | {
                "x-kubernetes-group-version-kind": [gvk | {"kind": resource.kind}]
            }
            self._schemas[f"{name}.{resource.list_kind}"] = {
                "description": f"{resource.list_kind} is a list of {resource.kind}",
                "type": "object",
                "required": ["items"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "items": {"type": "array", "items": {"$ref": self._prefix + full}},
                    "kind": {"type": "string"},
                    "metadata": self.wrapped(self.reference(f"{META}ListMeta")),
                },
                "x-kubernetes-group-version-kind": [gvk | {"kind": resource.list_kind}],
            }
        return {"$ref": self._prefix + full}

    def wrapped(self, reference: dict[str, Any]) -> dict[str, Any]:
        """A reference beside which other words may stand."""
        return {"allOf": [reference]} if self._modern else reference

    def _definition(self, name: str) -> dict[str, Any]:
        facts = self._definitions[name]
        if not (isinstance(facts, dict) and "p" in facts):
            return self._node(facts)
        result: dict[str, Any] = {
            "type": "object",
            "properties": {field: self._node(value) for field, value in facts["p"].items()},
        }
        if "r" in facts:
            result["required"] = facts["r"]
        if "a" in facts:
            result["x-kubernetes-map-type"] = "atomic"
        if name in self._kinds:
            result["x-kubernetes-group-version-kind"] = self._kinds[name]
        return result

    def _node(self, facts: Any) -> dict[str, Any]:
        if isinstance(facts, str):
            return self.reference(facts[1:]) if facts.startswith("@") else self._simple(facts)
        if isinstance(facts, list):
            return {"type": "array", "items": self._node(facts[0]), "x-kubernetes-list-type": "atomic"}
        if "*" in facts:
            return {"type": "object", "additionalProperties": self._node(facts["*"])}
        inner = self._node(facts["t"])
        result = self.wrapped(inner) if "$ref" in inner else dict(inner)
        result |= {word: facts[key] for key, word in _KEYS.items() if key in facts}
        if "d" in facts and self._modern:
            result["default"] = facts["d"]
        return result

    def _simple(self, name: str) -> dict[str, Any]:
        if name == "any":
            return {}
        if name == "object":
            return {"type": "object"}
        if name in ("int-or-string", "quantity"):
            if not self._modern:
                return {"type": "string"} | ({"format": name} if name == "int-or-string" else {})
            kinds = ("integer", "string") if name == "int-or-string" else ("string", "number")
            result: dict[str, Any] = {"oneOf": [{"type": kind} for kind in kinds]}
            return result | ({"format": name} if name == "int-or-string" else {})
        if name in _TYPES:
            return {"type": _TYPES[name], "format": name}
        return {"type": name}


def _custom(raw: dict[str, Any], writer: _Writer) -> dict[str, Any]:
    """A CRD's schema with the fields that every object has."""
    properties = {name: _spelled(child, writer) for name, child in (raw.get("properties") or {}).items()}
    for name in ("apiVersion", "kind"):
        properties[name] = {"type": "string"} | properties.get(name, {})
    described = {"description": properties.get("metadata", {}).get("description", "Standard object's metadata.")}
    properties["metadata"] = described | writer.wrapped(writer.reference(f"{META}ObjectMeta"))
    return {**raw, "type": "object", "properties": dict(sorted(properties.items()))}


def _spelled(node: Any, writer: _Writer) -> Any:
    """A structural schema with what its Kubernetes words mean spelled out."""
    if not isinstance(node, dict):
        return node
    result = dict(node)
    if "properties" in node:
        result["properties"] = {name: _spelled(child, writer) for name, child in node["properties"].items()}
    for name in ("items", "additionalProperties"):
        if name in node:
            result[name] = _spelled(node[name], writer)
    if node.get("x-kubernetes-int-or-string") and "anyOf" not in node:
        result["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if node.get("x-kubernetes-embedded-resource"):
        own = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
        meta = {"metadata": writer.wrapped(writer.reference(f"{META}ObjectMeta"))}
        result["properties"] = {**own, **meta, **result.get("properties", {})}
        result["required"] = sorted({"kind", "apiVersion", *node.get("required", ())}, reverse=True)
    return result


def _parameter(name: str, place: str, kind: str, *, modern: bool) -> dict[str, Any]:
    result: dict[str, Any] = {"name": name, "in": place}
    if place == "path":
        result["required"] = True
    typed = {"type": kind, "uniqueItems": True}
    return result | ({"schema": typed} if modern else typed)


def _paths(resource: Resource, writer: _Writer, *, modern: bool) -> dict[str, Any]:
    """Every endpoint of a resource."""
    root = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    scope = f"{root}/namespaces/{{namespace}}" if resource.namespaced else root
    base = f"{scope}/{resource.plural}"
    body = writer.kind(resource)
    own = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    verbs = set(resource.verbs)

    def operations(
        wanted: dict[str, str], gvk: dict[str, str], schema: dict[str, Any], *, named: bool
    ) -> dict[str, Any]:
        item: dict[str, Any] = {
            method: _operation(resource, method, gvk, schema, action, modern=modern)
            for method, action in wanted.items()
        }
        places = (["name"] if named else []) + (["namespace"] if resource.namespaced else [])
        if item and places:
            item["parameters"] = [_parameter(place, "path", "string", modern=modern) for place in places]
        return item

    many = {"get": ("list", "list"), "post": ("create", "post"), "delete": ("deletecollection", "deletecollection")}
    one = {"get": ("get", "get"), "put": ("update", "put"), "patch": ("patch", "patch"), "delete": ("delete", "delete")}
    result = {}
    collection = {method: action for method, (verb, action) in many.items() if verb in verbs}
    if collection:
        result[base] = operations(collection, own, body, named=False)
    single = {method: action for method, (verb, action) in one.items() if verb in verbs}
    if single:
        result[f"{base}/{{name}}"] = operations(single, own, body, named=True)
    if resource.namespaced and "list" in verbs:
        result[f"{root}/{resource.plural}"] = {"get": _operation(resource, "get", own, body, "list", modern=modern)}
    for sub in resource.subresources:
        gvk = {"group": sub.group, "version": sub.version, "kind": sub.kind}
        if resource.definition is not None and resource.definition.custom:
            gvk = own  # also for scale, as the real server has it
        prefix = f"{sub.group}/{sub.version}" if sub.group else sub.version
        name = schemas.builtin().kinds.get(f"{prefix}/{sub.kind}")
        schema = body if sub.kind == resource.kind else writer.reference(name) if name else {"type": "object"}
        methods = {"get": "get", "create": "post", "update": "put", "patch": "patch", "delete": "delete"}
        connects = sub.name in _CONNECTED
        wanted = {methods[verb]: "connect" if connects else methods[verb] for verb in sub.verbs if verb in methods}
        if wanted:
            result[f"{base}/{{name}}/{sub.name}"] = operations(wanted, gvk, schema, named=True)
    return result


def _operation(
    resource: Resource, method: str, gvk: dict[str, str], schema: dict[str, Any], action: str, *, modern: bool
) -> dict[str, Any]:
    query = [*_WRITE, "force"] if method == "patch" else list(_WRITE) if method in ("post", "put") else []
    parameters = [_parameter(n, "query", "boolean" if n == "force" else "string", modern=modern) for n in query]
    custom = resource.definition is not None and resource.definition.custom
    patches = _PATCHES if custom else (*_PATCHES, _STRATEGIC)
    result: dict[str, Any] = {"x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk}
    if modern:
        result["parameters"] = parameters
        if method == "patch":
            result["requestBody"] = {
                "required": True,
                "content": {kind: {"schema": {"type": "object"}} for kind in patches},
            }
        elif method in ("post", "put"):
            result["requestBody"] = {"required": True, "content": {"*/*": {"schema": schema}}}
        result["responses"] = {"200": {"description": "OK", "content": {"application/json": {"schema": schema}}}}
        return result
    if method in ("post", "put", "patch"):
        described = {"type": "object"} if method == "patch" else schema
        parameters.insert(0, {"name": "body", "in": "body", "required": True, "schema": described})
    if method == "patch":
        result["consumes"] = list(patches)
    result["parameters"] = parameters
    result["responses"] = {"200": {"description": "OK", "schema": schema}}
    return result
