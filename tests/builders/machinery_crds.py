"""CRDs that are wrong in one way each."""

# ruff: noqa: E501

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from tests.builders.machinery import HERE, Json, widget_crd

CRD_ANSWERS = HERE / "recorded-crds.json"

ROOT = ("spec", "versions", 0)
SCHEMA = (*ROOT, "schema", "openAPIV3Schema")
SPEC = (*SCHEMA, "properties", "spec")
FIELDS = (*SPEC, "properties")


def _set(path: tuple[Any, ...], value: Any) -> Callable[[Json], None]:
    def change(crd: Json) -> None:
        node: Any = crd
        for step in path[:-1]:
            node = node[step]
        if value is None:
            node.pop(path[-1], None)
        else:
            node[path[-1]] = value

    return change


def _rule(**facts: Any) -> Callable[[Json], None]:
    return _set((*FIELDS, "extra"), {"type": "string", "maxLength": 9, "x-kubernetes-validations": [facts]})


def _field(**facts: Any) -> Callable[[Json], None]:
    return _set((*FIELDS, "extra"), facts)


WRONG: dict[str, Callable[[Json], None]] = {
    "name": _set(("metadata", "name"), "other.machinery.example.com"),
    "no group": _set(("spec", "group"), None),
    "no kind": _set(("spec", "names", "kind"), None),
    "scope": _set(("spec", "scope"), "Everywhere"),
    "no scope": _set(("spec", "scope"), None),
    "no storage": _set((*ROOT, "storage"), False),
    "version name": _set((*ROOT, "name"), "V1"),
    "no schema": _set((*ROOT, "schema"), None),
    "no type": _field(description="x"),
    "unknown type": _field(type="text"),
    "properties and additional": _field(type="object", properties={"a": {"type": "string"}}, additionalProperties={"type": "string"}),
    "additional false": _field(type="object", additionalProperties=False),
    "array without items": _field(type="array"),
    "list type on object": _field(type="object", **{"x-kubernetes-list-type": "map"}),
    "list type unknown": _field(type="array", items={"type": "string"}, **{"x-kubernetes-list-type": "bag"}),
    "map without keys": _field(type="array", items={"type": "object", "properties": {"a": {"type": "string"}}}, **{"x-kubernetes-list-type": "map"}),
    "map key missing": _field(type="array", items={"type": "object", "properties": {"a": {"type": "string"}}}, **{"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["b"]}),
    "map key optional": _field(type="array", items={"type": "object", "properties": {"a": {"type": "string"}}}, **{"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"]}),
    "keys without map": _field(type="array", items={"type": "string"}, **{"x-kubernetes-list-map-keys": ["a"]}),
    "unique items": _field(type="array", items={"type": "string"}, uniqueItems=True),
    "pattern": _field(type="string", pattern="a(b"),
    "default type": _field(type="integer", default="x"),
    "default out of range": _field(type="integer", minimum=5, default=1),
    "default unknown field": _field(type="object", properties={"a": {"type": "string"}}, default={"b": "x"}),
    "default missing field": _field(type="object", required=["a"], properties={"a": {"type": "string"}}, default={}),
    "rule syntax": _rule(rule="self =="),
    "rule unknown field": _set((*SPEC, "x-kubernetes-validations"), [{"rule": "self.nothing == 1"}]),
    "rule empty": _rule(rule="  "),
    "rule reason": _rule(rule="self != ''", reason="Odd"),
    "rule message lines": _rule(rule="self != ''", message="a\nb"),
    "rule message syntax": _rule(rule="self != ''", messageExpression="'a' +"),
    "junctor type": _field(type="object", properties={"a": {"type": "string"}}, anyOf=[{"properties": {"a": {"type": "string"}}}]),
    "ref": _field(**{"$ref": "#/definitions/x"}),
    "embedded string": _field(type="string", **{"x-kubernetes-embedded-resource": True}),
    "column type": _set((*ROOT, "additionalPrinterColumns"), [{"name": "A", "type": "text", "jsonPath": ".spec"}]),
    "column path": _set((*ROOT, "additionalPrinterColumns"), [{"name": "A", "type": "string", "jsonPath": "spec"}]),
    "column name": _set((*ROOT, "additionalPrinterColumns"), [{"type": "string", "jsonPath": ".spec"}]),
    "scale path": _set((*ROOT, "subresources", "scale", "specReplicasPath"), ".metadata.replicas"),
    "root type": _set((*SCHEMA, "type"), "string"),
    "metadata": _set((*SCHEMA, "properties", "metadata"), {"type": "object", "properties": {"labels": {"type": "object"}}}),
}  # fmt: skip


def a_wrong_crd(name: str) -> Json:
    """The widget CRD with one mistake."""
    crd = copy.deepcopy(widget_crd())
    WRONG[name](crd)
    return crd
