"""Scenarios: the four kinds of patch on built-in kinds, who owns what afterwards, and what is refused."""

from __future__ import annotations

from typing import Any

from tests.conformance.scenario import Scenario, Step
from tests.conformance.scenarios_custom import APPLY, JSON, MERGE, STRATEGIC
from tests.conformance.scenarios_objects import MAPS, a_deployment, a_map

_DEPLOYMENTS = "/apis/apps/v1/namespaces/NAMESPACE/deployments"
_D = f"{_DEPLOYMENTS}/d"
_A = f"{MAPS}/a"


def _containers(*items: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return {"spec": {"template": {"spec": {"containers": list(items), **rest}}}}


JSON_PATCHES = Scenario(
    "patch-json",
    [
        Step("POST", MAPS, a_map(data={"a": "1", "b/c": "2"})),
        Step("POST", MAPS, a_map(data={"a": "1"}, metadata={"name": "a", "annotations": {"b.io/c": "2"}})),
        Step("PATCH", _A, [{"op": "add", "path": "/data/x", "value": "4"}], JSON),
        Step("PATCH", _A, [{"op": "replace", "path": "/metadata/annotations/b.io~1c", "value": "5"}], JSON),
        Step("PATCH", _A, [{"op": "add", "path": "/data/d~0e", "value": "6"}], JSON),
        Step("PATCH", _A, [{"op": "remove", "path": "/metadata/annotations/b.io~1c"}], JSON),
        Step("PATCH", _A, [{"op": "move", "from": "/data/a", "path": "/data/z"}], JSON),
        Step("PATCH", _A, [{"op": "copy", "from": "/data/z", "path": "/data/y"}], JSON),
        Step("PATCH", _A, [{"op": "test", "path": "/data/z", "value": "1"}, {"op": "remove", "path": "/data/y"}], JSON),
        Step("PATCH", _A, [{"op": "test", "path": "/data/z", "value": "2"}], JSON),
        Step("PATCH", _A, [{"op": "remove", "path": "/data/none"}], JSON),
        Step("PATCH", _A, [{"op": "replace", "path": "/data/none", "value": "x"}], JSON),
        Step("PATCH", _A, [{"op": "add", "path": "/none/deep", "value": "x"}], JSON),
        Step("PATCH", _A, [{"op": "shout", "path": "/data/z"}], JSON),
        Step("PATCH", _A, [{"op": "add", "path": "/data/z", "value": 7}], JSON),
        Step("PATCH", _A, [{"op": "add", "path": "/nope", "value": 7}], JSON),
        Step("PATCH", f"{_A}?fieldValidation=Strict", [{"op": "add", "path": "/nope", "value": 7}], JSON),
        Step("PATCH", _A, {"op": "add"}, JSON),
        Step("PATCH", _A, b"[{", JSON),
        Step("PATCH", _A, [{"op": "replace", "path": "/metadata/name", "value": "b"}], JSON),
        Step("PATCH", _A, [{"op": "replace", "path": "/kind", "value": "Namespace"}], JSON),
        Step("PATCH", _A, [{"op": "replace", "path": "/metadata/resourceVersion", "value": "1"}], JSON),
        Step("PATCH", f"{MAPS}/none", [], JSON),
        Step("GET", _A),
    ],
)

MERGE_PATCHES = Scenario(
    "patch-merge",
    [
        Step("POST", MAPS, a_map(data={"a": "1", "b": "2"})),
        Step("PATCH", _A, {"data": {"a": None, "c": "3"}}, MERGE),
        Step("PATCH", _A, {"data": None}, MERGE),
        Step("PATCH", _A, {}, MERGE),
        Step("PATCH", _A, {"data": {"x": "y"}, "metadata": {"resourceVersion": "1"}}, MERGE),
        Step("PATCH", _A, {"metadata": {"uid": "00000000-0000-0000-0000-000000000000"}}, MERGE),
        Step("PATCH", _A, {"metadata": {"name": "b"}}, MERGE),
        Step("PATCH", _A, {"metadata": {"namespace": "other"}}, MERGE),
        Step("PATCH", _A, {"data": {"x": 7}}, MERGE),
        Step("PATCH", _A, {"data": []}, MERGE),
        Step("PATCH", _A, {"metadata": {"labels": {"a": "not ok!"}}}, MERGE),
        Step("PATCH", f"{_A}?fieldManager=me", {"data": {"x": "y"}}, MERGE),
        Step("PATCH", f"{_A}?fieldManager=other", {"data": {"x": "z"}}, MERGE),
        Step("PATCH", f"{_A}?fieldManager=other", {"metadata": {"managedFields": []}}, MERGE),
        Step("PATCH", f"{_A}?fieldManager={'x' * 129}", {"data": {"x": "z"}}, MERGE),
        Step("PATCH", f"{_A}?dryRun=All", {"data": {"dry": "run"}}, MERGE),
        Step("PATCH", _A, [], MERGE),
        Step("PATCH", _A, b"nonsense", MERGE),
        Step("PATCH", _A, {}, {"Content-Type": "application/json"}),
        Step("PATCH", f"{MAPS}/none", {"data": {}}, MERGE),
        Step("GET", _A),
    ],
)

STRATEGIC_PATCHES = Scenario(
    "patch-strategic",
    [
        Step("POST", _DEPLOYMENTS, a_deployment()),
        Step("PATCH", _D, _containers({"name": "e", "image": "other"}), STRATEGIC),
        Step("PATCH", _D, _containers({"name": "e", "env": [{"name": "A", "value": "1"}]}), STRATEGIC),
        Step("PATCH", _D, _containers({"name": "e", "env": [{"name": "B", "value": "2"}]}), STRATEGIC),
        Step("PATCH", _D, _containers({"name": "e", "env": [{"name": "A", "$patch": "delete"}]}), STRATEGIC),
        Step("PATCH", _D, _containers({"$setElementOrder/containers": 1, "name": "e"}), STRATEGIC),
        Step(
            "PATCH",
            _D,
            _containers({"name": "c"}, **{"$setElementOrder/containers": [{"name": "e"}, {"name": "c"}]}),
            STRATEGIC,
        ),
        Step("PATCH", _D, {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}, STRATEGIC),
        Step("PATCH", _D, _containers({"name": "e", "args": ["a", "b"]}), STRATEGIC),
        Step("PATCH", _D, _containers({"name": "e", "$patch": "delete"}), STRATEGIC),
        Step("PATCH", _D, _containers({"image": "no-name"}), STRATEGIC),
        Step("PATCH", _D, {"metadata": {"labels": {"$patch": "replace", "only": "this"}}}, STRATEGIC),
        Step("PATCH", _D, {"metadata": {"finalizers": ["x.dev/a", "x.dev/b"]}}, STRATEGIC),
        Step("PATCH", _D, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["x.dev/a"]}}, STRATEGIC),
        Step("PATCH", _D, {"metadata": {"finalizers": None}}, STRATEGIC),
        Step("PATCH", _D, {"spec": {"replicas": "many"}}, STRATEGIC),
        Step("PATCH", _D, {"spec": {"template": {"spec": {"containers": "x"}}}}, STRATEGIC),
        Step("PATCH", f"{_D}?fieldValidation=Strict", {"spec": {"nope": 1}}, STRATEGIC),
        Step("PATCH", _D, {"spec": {"$patch": "shout"}}, STRATEGIC),
        Step("GET", _D),
    ],
)


def _apply(manager: str, body: Any, more: str = "", at: str = _A) -> Step:
    return Step("PATCH", f"{at}?fieldManager={manager}{more}", body, APPLY)


def _part(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    whole = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}}
    template = {"template": {"spec": {"containers": list(containers)}}} if containers else {}
    return {**whole, "spec": {**spec, **template}}


APPLIES = Scenario(
    "patch-apply",
    [
        _apply("one", a_map(data={"a": "1", "b": "1"})),
        _apply("one", a_map(data={"a": "1", "b": "1"})),
        _apply("two", a_map(data={"b": "1", "c": "2"})),
        _apply("two", a_map(data={"b": "2"})),
        _apply("two", a_map(data={"a": "2", "b": "2"})),
        _apply("one", a_map(data={"a": "1"})),
        _apply("two", a_map(data={"a": "2", "b": "2"}), "&force=true"),
        _apply("one", a_map(data={"a": "2"})),
        Step("PATCH", f"{_A}?fieldManager=editor", {"data": {"a": "9", "z": "9"}}, MERGE),
        _apply("two", a_map(data={"a": "2"})),
        _apply("two", a_map()),
        _apply("one", a_map(data={"a": 1})),
        _apply("one", a_map(nope={"a": 1})),
        _apply("one", a_map(nope={"a": 1}), "&fieldValidation=Strict"),
        _apply("one", a_map("b", data={"a": "1"})),
        _apply("one", a_map(metadata={"name": "a", "namespace": "other"})),
        _apply("one", {"metadata": {"name": "a"}}),
        _apply("one", {**a_map(), "kind": "Secret"}),
        _apply("one", a_map(metadata={"name": "a", "managedFields": [{"manager": "x"}]})),
        _apply("one", a_map(metadata={"name": "a", "resourceVersion": "1"})),
        _apply("one", a_map(metadata={"name": "a", "uid": "00000000-0000-0000-0000-000000000000"})),
        _apply("one", a_map("new", metadata={"name": "new", "resourceVersion": "1"}), at=f"{MAPS}/new"),
        Step("PATCH", f"{MAPS}/b", a_map("b"), APPLY),
        Step("PATCH", f"{_A}?fieldManager=a&force=maybe", a_map(), APPLY),
        _apply("one", [], ""),
        _apply("one", b"\t: nonsense: ["),
        _apply("one", b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: v, a: w}\n"),
        _apply("one", a_map("dry", data={"a": "b"}), "&dryRun=All", at=f"{MAPS}/dry"),
        Step("GET", f"{MAPS}/dry"),
        _apply("one", a_deployment(replicas=1), at=_D),
        _apply("two", _part({"name": "c", "env": [{"name": "A", "value": "1"}]}), at=_D),
        _apply("three", _part({"name": "side", "image": "s"}), at=_D),
        _apply("three", _part(replicas=1), at=_D),
        _apply("three", _part(replicas=2), at=_D),
        _apply("three", _part({"name": "c", "image": "mine"}, replicas=2), at=_D),
        _apply("three", _part(replicas=-1), "&force=true", at=_D),
        _apply("three", _part({"name": "c", "ports": [{"containerPort": 1}, {"containerPort": 1}]}), at=_D),
        _apply("status", {**_part(), "status": {"replicas": 1}}, at=f"{_D}/status"),
        Step("PATCH", f"{_D}/scale?fieldManager=scaler", {"spec": {"replicas": 4}}, MERGE),
        _apply("one", a_deployment(replicas=1), at=_D),
        _apply("one", a_deployment(), at=_D),
        _apply("three", _part(), at=_D),
        Step("GET", _D),
    ],
)

SCENARIOS = [JSON_PATCHES, MERGE_PATCHES, STRATEGIC_PATCHES, APPLIES]
