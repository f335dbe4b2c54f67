"""Scenarios: custom resource definitions, and the objects they define."""

from __future__ import annotations

from typing import Any

from tests.conformance.scenario import Scenario, Step

_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_CRD = f"{_CRDS}/gadgets.NAMESPACE.dev"
_GROUP = "/apis/NAMESPACE.dev"
GADGETS = f"{_GROUP}/v1/namespaces/NAMESPACE/gadgets"
MERGE = {"Content-Type": "application/merge-patch+json"}
JSON = {"Content-Type": "application/json-patch+json"}
STRATEGIC = {"Content-Type": "application/strategic-merge-patch+json"}
APPLY = {"Content-Type": "application/apply-patch+yaml"}

_PART = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string"}, "weight": {"type": "integer", "default": 1}, "note": {"type": "string"}},
}
_SPEC: dict[str, Any] = {
    "type": "object",
    "required": ["size"],
    "properties": {
        "size": {"type": "integer", "minimum": 1, "maximum": 100},
        "share": {"type": "number", "minimum": 0, "exclusiveMinimum": True},
        "mode": {"type": "string", "enum": ["Slow", "Fast", "Auto"], "default": "Auto"},
        "label": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 8, "minLength": 2},
        "home": {
            "type": "string",
            "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "home may not change"}],
        },
        "limits": {
            "type": "object",
            "default": {},
            "properties": {"retries": {"type": "integer", "default": 3}, "wait": {"type": "string", "default": "5s"}},
        },
        "parts": {
            "type": "array",
            "maxItems": 4,
            "items": _PART,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
        "tags": {"type": "array", "maxItems": 5, "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "port": {"x-kubernetes-int-or-string": True},
        "since": {"type": "string", "format": "date-time"},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "maybe": {"type": "string", "nullable": True},
        "counts": {"type": "object", "maxProperties": 2, "additionalProperties": {"type": "integer"}},
    },
    "x-kubernetes-validations": [
        {"rule": "!has(self.label) || self.size > 2", "message": "a label needs a size above 2", "fieldPath": ".label"},
        {"rule": "self.size != 13", "messageExpression": "self.size > 12 ? 'that size is unlucky' : ''"},
        {
            "rule": "!has(oldSelf.home) || has(self.home)",
            "message": "home may not be taken away",
            "reason": "FieldValueForbidden",
        },
        {"rule": "!has(self.parts) || self.parts.all(p, p.weight >= 0)"},
    ],
}
_STATUS = {
    "type": "object",
    "properties": {
        "size": {"type": "integer"},
        "selector": {"type": "string"},
        "state": {"type": "string", "enum": ["On", "Off"]},
    },
}


def _version(name: str, **rest: Any) -> dict[str, Any]:
    schema = {"type": "object", "required": ["spec"], "properties": {"spec": _SPEC, "status": _STATUS}}
    return {
        "name": name,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.size",
                "statusReplicasPath": ".status.size",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": [
            {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
            {"name": "Mode", "type": "string", "jsonPath": ".spec.mode", "priority": 1},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        ],
        "selectableFields": [{"jsonPath": ".spec.mode"}],
        **rest,
    }


def a_definition(**spec: Any) -> dict[str, Any]:
    """The CRD of gadgets."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "gadgets.NAMESPACE.dev"},
        "spec": {
            "group": "NAMESPACE.dev",
            "scope": "Namespaced",
            "names": {"plural": "gadgets", "singular": "gadget", "kind": "Gadget", "shortNames": ["gd"]},
            "versions": [_version("v1")],
            **spec,
        },
    }


def a_gadget(name: str = "g", *, metadata: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """A gadget."""
    return {
        "apiVersion": "NAMESPACE.dev/v1",
        "kind": "Gadget",
        "metadata": {"name": name, **(metadata or {})},
        "spec": spec,
    }


_BEGIN = [Step("POST", _CRDS, a_definition(), keep="/kind"), Step("GET", GADGETS, wait=200, keep="/kind")]
_END = [
    Step("DELETE", _CRD, keep="/kind"),
    Step("GET", GADGETS, wait=404, keep="/kind"),
]


def _wrong_version(**rest: Any) -> dict[str, Any]:
    return a_definition(versions=[_version("v1", **{"selectableFields": None, **rest})])


def _schema(value: Any) -> dict[str, Any]:
    return {"openAPIV3Schema": value}


def _property(value: dict[str, Any]) -> dict[str, Any]:
    return _wrong_version(schema=_schema({"type": "object", "properties": {"spec": value}}))


DEFINITIONS = Scenario(
    "crd-definitions",
    [
        Step("POST", _CRDS, a_definition(), keep="/spec"),
        Step("POST", _CRDS, a_definition()),
        Step("GET", GADGETS, wait=200),
        Step("GET", f"{_GROUP}"),
        Step("GET", f"{_GROUP}/v1"),
        Step("GET", _CRD, keep="/status/acceptedNames"),
        Step("GET", _CRD, keep="/status/storedVersions"),
        Step("PATCH", _CRD, {"spec": {"scope": "Cluster"}}, MERGE),
        Step("PATCH", _CRD, {"spec": {"group": "other.dev"}}, MERGE),
        Step("PUT", _CRD, a_definition()),
        Step("POST", _CRDS, {**a_definition(), "metadata": {"name": "gadget.NAMESPACE.dev"}}),
        Step("DELETE", _CRD, keep="/kind"),
        Step("GET", _CRD, wait=404),
        Step("GET", GADGETS, wait=404),
        Step("POST", _CRDS, _wrong_version(schema=None)),
        Step("POST", _CRDS, _property({"properties": {"a": {"type": "string"}}})),
        Step("POST", _CRDS, _property({"type": "text"})),
        Step("POST", _CRDS, _property({"type": "object", "properties": {"a": {"type": "string", "default": 7}}})),
        Step("POST", _CRDS, _property({"type": "array"})),
        Step("POST", _CRDS, _property({"type": "string", "pattern": "("})),
        Step(
            "POST",
            _CRDS,
            _property({"type": "integer", "x-kubernetes-validations": [{"rule": "self.nope > 1"}]}),
        ),
        Step(
            "POST",
            _CRDS,
            _property({"type": "integer", "x-kubernetes-validations": [{"rule": "self +"}]}),
        ),
        Step("POST", _CRDS, _wrong_version(storage=False)),
        Step("POST", _CRDS, _wrong_version(subresources={"scale": {"specReplicasPath": "spec.size"}})),
    ],
)

OBJECTS = Scenario(
    "custom-objects",
    [
        *_BEGIN,
        Step("POST", GADGETS, a_gadget(size=3)),
        Step("POST", GADGETS, a_gadget(size=3)),
        Step("POST", GADGETS, {"spec": {"size": 1}, "metadata": {"name": "typeless"}}),
        Step(
            "POST",
            GADGETS,
            a_gadget(
                "full",
                size=4,
                label="abc",
                home="here",
                parts=[{"name": "a"}, {"name": "b", "weight": 2}],
                tags=["x", "y"],
                port="http",
                since="2026-01-01T00:00:00Z",
                free={"any": {"thing": [1, None]}},
                maybe=None,
                counts={"a": 1},
                limits={"retries": 5},
            ),
        ),
        Step("POST", GADGETS, a_gadget("warned", size=1, sise=2, limits={"retrys": 1})),
        Step(
            "POST",
            f"{GADGETS}?fieldValidation=Strict",
            a_gadget("strict", size=1, sise=2, parts=[{"name": "a", "x": 1}]),
        ),
        Step("POST", f"{GADGETS}?fieldValidation=Ignore", a_gadget("ignored", size=1, sise=2)),
        Step(
            "POST",
            f"{GADGETS}?fieldValidation=Strict",
            b'{"apiVersion":"NAMESPACE.dev/v1","kind":"Gadget","metadata":{"name":"d"},"spec":{"size":1,"size":2}}',
        ),
        Step("POST", GADGETS, a_gadget("bad")),
        Step("POST", GADGETS, {**a_gadget("bad"), "spec": None}),
        Step("POST", GADGETS, {**a_gadget("bad"), "spec": []}),
        Step("POST", GADGETS, a_gadget("bad", size="three")),
        Step("POST", GADGETS, a_gadget("bad", size=1.5)),
        Step("POST", GADGETS, a_gadget("bad", size=0)),
        Step("POST", GADGETS, a_gadget("bad", size=101)),
        Step("POST", GADGETS, a_gadget("bad", size=True)),
        Step("POST", GADGETS, a_gadget("bad", size=None)),
        Step("POST", GADGETS, a_gadget("bad", size=1, share=0)),
        Step("POST", GADGETS, a_gadget("bad", size=1, mode="Turbo")),
        Step("POST", GADGETS, a_gadget("bad", size=3, label="UPPER")),
        Step("POST", GADGETS, a_gadget("bad", size=3, label="muchtoolong")),
        Step("POST", GADGETS, a_gadget("bad", size=3, label="a")),
        Step("POST", GADGETS, a_gadget("bad", size=3, parts=[{"name": "a"}, {"name": "a"}])),
        Step("POST", GADGETS, a_gadget("bad", size=3, parts=[{"weight": 1}])),
        Step("POST", GADGETS, a_gadget("bad", size=3, parts=[{"name": n} for n in "abcde"])),
        Step("POST", GADGETS, a_gadget("bad", size=3, parts=[{"name": "a", "weight": -1}])),
        Step("POST", GADGETS, a_gadget("bad", size=3, tags=["a", "a"])),
        Step("POST", GADGETS, a_gadget("bad", size=3, tags="a")),
        Step("POST", GADGETS, a_gadget("bad", size=3, port=1.5)),
        Step("POST", GADGETS, a_gadget("bad", size=3, since="yesterday")),
        Step("POST", GADGETS, a_gadget("bad", size=3, counts={"a": 1, "b": 2, "c": 3})),
        Step("POST", GADGETS, a_gadget("bad", size=3, counts={"a": "1"})),
        Step("POST", GADGETS, a_gadget("bad", size=1, label="abc")),
        Step("POST", GADGETS, a_gadget("bad", size=13)),
        # Several faults come in any order.
        Step("POST", GADGETS, a_gadget("bad", size=0, mode="Turbo", label="UPPER", nope=1), keep="/reason"),
        Step("POST", GADGETS, a_gadget("Bad_Name", size=0)),
        Step("POST", GADGETS, a_gadget("bad", size=1, metadata={"labels": {"a b": "c"}})),
        Step("POST", GADGETS, a_gadget("nothing", size=1, metadata={"nope": 1})),
        Step("POST", GADGETS, {**a_gadget("kind", size=1), "kind": "Widget"}),
        Step("POST", GADGETS, {**a_gadget("kind", size=1), "apiVersion": "NAMESPACE.dev/v2"}),
        Step("GET", f"{GADGETS}?fieldSelector=spec.mode%3DAuto,metadata.name%3Dg", keep="/items/0/metadata/name"),
        Step("GET", f"{GADGETS}?fieldSelector=spec.size%3D3"),
        Step("GET", f"{GADGETS}/not-there"),
        Step("GET", f"{_GROUP}/v2/namespaces/NAMESPACE/gadgets"),
        Step("DELETE", f"{GADGETS}/g"),
        Step("DELETE", f"{GADGETS}/g"),
        *_END,
    ],
)

CHANGES = Scenario(
    "custom-changes",
    [
        *_BEGIN,
        Step("POST", GADGETS, a_gadget(size=3, home="here")),
        Step("PUT", f"{GADGETS}/g", a_gadget(size=4, home="here")),
        Step("PUT", f"{GADGETS}/g", a_gadget(size=4, home="here", metadata={"resourceVersion": "{VERSION}"})),
        Step("PUT", f"{GADGETS}/g", a_gadget(size=4, home="here", metadata={"resourceVersion": "1"})),
        Step("PUT", f"{GADGETS}/not-there", a_gadget("not-there", size=4, metadata={"resourceVersion": "1"})),
        Step("PATCH", f"{GADGETS}/g", {"spec": {"home": "there"}}, MERGE),
        Step("PATCH", f"{GADGETS}/g", {"spec": {"home": None}}, MERGE),
        Step("PATCH", f"{GADGETS}/g", {"spec": {"home": "there", "size": 0}}, MERGE),
        Step("PATCH", f"{GADGETS}/g", {"spec": {"size": 5}, "status": {"size": 9}}, MERGE),
        Step("PATCH", f"{GADGETS}/g", {"spec": {"size": "five"}}, MERGE),
        Step("PATCH", f"{GADGETS}/g", {"spec": {"nope": 1}}, MERGE),
        Step("PATCH", f"{GADGETS}/g?fieldValidation=Strict", {"spec": {"nope": 1}}, MERGE),
        Step("PATCH", f"{GADGETS}/g", [{"op": "replace", "path": "/spec/size", "value": 6}], JSON),
        Step("PATCH", f"{GADGETS}/g", [{"op": "add", "path": "/spec/tags", "value": ["a"]}], JSON),
        Step("PATCH", f"{GADGETS}/g", [{"op": "add", "path": "/spec/tags/-", "value": "a"}], JSON),
        Step("PATCH", f"{GADGETS}/g", [{"op": "test", "path": "/spec/size", "value": 7}], JSON),
        Step("PATCH", f"{GADGETS}/g", [{"op": "remove", "path": "/spec/label"}], JSON),
        Step("PATCH", f"{GADGETS}/g", {"spec": {"size": 7}}, STRATEGIC),
        Step("PATCH", f"{GADGETS}/g", {"metadata": {"labels": {"a": "b"}}}, MERGE),
        Step("PATCH", f"{GADGETS}/g?dryRun=All", {"spec": {"size": 50}}, MERGE),
        Step("PATCH", f"{GADGETS}/g/status", {"status": {"size": 2, "selector": "a=b"}, "spec": {"size": 90}}, MERGE),
        Step("PATCH", f"{GADGETS}/g/status", {"status": {"state": "Maybe"}}, MERGE),
        Step("PATCH", f"{GADGETS}/g/status", {"status": {"nope": 1}, "metadata": {"labels": {"x": "y"}}}, MERGE),
        Step("GET", f"{GADGETS}/g/status"),
        Step("GET", f"{GADGETS}/g/scale"),
        Step("PATCH", f"{GADGETS}/g/scale", {"spec": {"replicas": 8}}, MERGE),
        Step("PATCH", f"{GADGETS}/g/scale", {"spec": {"replicas": 800}}, MERGE),
        Step("PATCH", f"{GADGETS}/g/scale", {"spec": {"replicas": -1}}, MERGE),
        Step("PATCH", f"{GADGETS}/g/scale?dryRun=All", {"spec": {"replicas": 9}}, MERGE),
        Step(
            "PUT", f"{GADGETS}/g/scale", {"metadata": {"name": "g", "namespace": "NAMESPACE"}, "spec": {"replicas": 9}}
        ),
        Step("GET", f"{GADGETS}/g"),
        Step("DELETE", f"{GADGETS}/g"),
        *_END,
    ],
)


def _apply(step: str, manager: str, body: Any, more: str = "") -> Step:
    return Step("PATCH", f"{step}?fieldManager={manager}{more}", body, APPLY)


_G = f"{GADGETS}/g"
APPLIED = Scenario(
    "custom-apply",
    [
        *_BEGIN,
        _apply(_G, "one", a_gadget(size=3, parts=[{"name": "a"}], tags=["x"])),
        _apply(_G, "two", a_gadget(size=3, parts=[{"name": "b", "weight": 2}], tags=["y"])),
        _apply(_G, "two", a_gadget(size=4, parts=[{"name": "b", "weight": 2}])),
        _apply(_G, "two", a_gadget(size=4, parts=[{"name": "b", "weight": 2}]), "&force=true"),
        _apply(_G, "one", a_gadget(parts=[{"name": "a"}])),
        _apply(_G, "one", a_gadget(parts=[])),
        _apply(_G, "one", a_gadget(size=4, mode="Fast", nope=1)),
        _apply(_G, "one", a_gadget(size=4, mode="Fast", nope=1), "&fieldValidation=Strict"),
        _apply(_G, "one", a_gadget(size="four")),
        _apply(_G, "two", a_gadget(size=0)),
        _apply(_G, "one", a_gadget(parts=[{"weight": 1}])),
        _apply(_G, "one", a_gadget(parts=[{"name": "a"}, {"name": "a"}])),
        _apply(f"{_G}/status", "three", {**a_gadget(), "status": {"size": 1}}),
        _apply(f"{_G}/status", "four", {**a_gadget(), "status": {"size": 2}}),
        Step("PATCH", _G, {"spec": {"size": 9}}, MERGE),
        _apply(_G, "two", a_gadget(size=10)),
        _apply(_G, "two", a_gadget(size=10, metadata={"resourceVersion": "1"}), "&force=true"),
        _apply(_G, "two", a_gadget(size=10, metadata={"managedFields": []}), "&force=true"),
        _apply(_G, "two", a_gadget(size=10), "&force=true&dryRun=All"),
        Step("PATCH", _G, a_gadget(size=3), APPLY),
        Step("PATCH", f"{_G}?force=true", {"spec": {"size": 9}}, MERGE),
        Step("PATCH", f"{_G}?fieldManager=x", b"a: [", APPLY),
        Step("PATCH", f"{_G}?fieldManager=x", b"spec: {size: 1, size: 2}\n", APPLY),
        Step("GET", _G),
        *_END,
    ],
)

SCENARIOS = [DEFINITIONS, OBJECTS, CHANGES, APPLIED]
