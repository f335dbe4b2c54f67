"""The scenarios: creates, updates, patches and applies on custom and built-in objects, one a line."""

# ruff: noqa: E501

from __future__ import annotations

from typing import Any

from tests.builders.machinery import APPLY, JSON_PATCH, KINDS, MERGE, STRATEGIC, Json, Scenario, Step


def an_object(kind: str, content: Json, meta: Json | None = None) -> Json:
    return {
        "apiVersion": KINDS[kind].api_version,
        "kind": kind,
        "metadata": {"name": "it", **(meta or {})},
        **content,
    }


def a_widget(spec: Json | None = None, **meta: Any) -> Json:
    return an_object("Widget", {"spec": {"size": 1, **(spec or {})}}, meta)


def a_config_map(data: Json | None = None, **meta: Any) -> Json:
    return an_object("ConfigMap", {"data": data} if data is not None else {}, meta)


def create(body: Any, **more: Any) -> Step:
    return Step("POST", body, **more)


def update(body: Any, **more: Any) -> Step:
    return Step("PUT", body, **more)


def merge(body: Json, **more: Any) -> Step:
    return Step("PATCH", body, content=MERGE, **more)


def json_patch(*operations: Json, **more: Any) -> Step:
    return Step("PATCH", list(operations), content=JSON_PATCH, **more)


def strategic(body: Json, **more: Any) -> Step:
    return Step("PATCH", body, content=STRATEGIC, **more)


def apply(body: Any, manager: str = "one", **more: Any) -> Step:
    return Step("PATCH", body, content=APPLY, manager=manager, **more)


def one(name: str, kind: str, *steps: Step) -> Scenario:
    return Scenario(name, kind, steps)


BASE = a_widget({"list": [{"name": "a", "value": 1}], "tags": ["x"], "labels": {"k": "v"}})
RAW = '{"apiVersion":"machinery.example.com/v1","kind":"Widget","metadata":{"name":"it"},"spec":%s}'


def _refused(number: int, spec: str, **more: Any) -> Scenario:
    return one(f"widget refused {number}", "Widget", create(RAW % spec, **more))


SPECS = [
    '{"size":101}', '{"size":13}', '{"size":1,"list":[{"name":"bad"}]}', "{}", '{"size":"x"}', '{"size":1.5}', '{"size":null}',
    '{"size":1,"bogus":1,"nested":{"c":1}}', '{"size":1,"plain":"x","labels":{"a":1},"ratio":-0.5}', '{"size":1,"name":"a"}',
    '{"size":1,"name":"Ab"}', '{"size":1,"name":"abcdef"}', '{"size":1,"step":7}', '{"size":1,"step":10}',
    '{"size":1,"plain":[1,2,3,4],"tags":["a","b","c","d","e","f"]}', '{"size":1,"list":null}', '{"size":2147483648}', "null",
    '"text"', '{"size":1,"mode":null}', '{"size":1,"size":2}', '{"size":1,"port":true}', '{"size":1,"port":"http"}',
    '{"size":1,"port":1.5}', '{"size":1,"when":"yesterday"}', '{"size":1,"when":"2026-01-01T00:00:00Z"}', '{"size":1,"opt":null}',
    '{"size":1,"any":{"x":[{"y":null}]}}', '{"size":1,"tags":["a","a"]}', '{"size":1,"list":[{"name":"a"},{"name":"a"}]}',
    '{"size":1,"list":[{"name":"a","q":1}]}', '{"size":1,"tmpl":{"metadata":{"name":"x"}}}', '{"size":1,"tmpl":{"apiVersion":"v1","kind":"Pod","metadata":{"bogus":1}}}',
    '{"size":1,"tmpl":{"apiVersion":"v1","kind":"Pod","spec":{"x":1}}}', '{"size":1,"choice":{}}', '{"size":1,"choice":{"a":"1","b":"2"}}',
    '{"size":1,"choice":{"a":"1"}}', '{"size":1,"amount":"1Gi"}', '{"size":1,"amount":"1"}', '{"size":1,"amount":"much"}', '{"size":1,"matrix":[[1,"x"],[2]]}',
    '{"size":1,"labels":{"a":"1","b":"2","c":"3"}}', '{"size":1,"nested":{"a":1,"b":"no"}}', '{"size":true}', '{"size":[]}', '{"size":0,"mode":"Huge"}',
    '{"size":1,"ratio":1}', '{"size":1,"ratio":0}', '{"size":1,"replicas":"3"}', '{"size":1,"plain":[]}', '{"size":1,"plain":[null]}', '{"size":1,"list":["x"]}',
    '{"size":1,"when":5}', '{"size":1,"labels":{"a":null}}', '{"size":1,"nested":null,"port":null}', '{"size":1,"list":[null]}',
]  # fmt: skip

METAS = [
    {"labels": {"a": 1}}, {"labels": {"a b": "c d"}}, {"annotations": {"x y": "1"}}, {"finalizers": ["x y"]}, {"bogus": 1},
    {"ownerReferences": [{"kind": "a"}]}, {"labels": {"a/b/c": "x"}}, {"labels": {"/b": "x", "A.com/x": "y"}}, {"labels": None}, {"finalizers": ["example.com/x"]},
    {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "u1", "controller": True}, {"apiVersion": "v1", "kind": "ConfigMap", "name": "y", "uid": "u2", "controller": True}]},
    {"labels": {"a": "x" * 64}}, {"annotations": {"a": "x" * 300000}}, {"labels": []}, {"annotations": {"a": None}},
]  # fmt: skip

WIDGETS = [
    *(_refused(number, spec) for number, spec in enumerate(SPECS)),
    *(one(f"widget metadata {n}", "Widget", create(a_widget(**meta))) for n, meta in enumerate(METAS)),
    one("widget warn", "Widget", create(RAW % '{"size":1,"bogus":2,"size":3}', validation="Warn")),
    one("widget ignore", "Widget", create(RAW % '{"size":1,"bogus":2,"size":3}', validation="Ignore")),
    one("widget validation unknown", "Widget", create(BASE, validation="Sometimes")),
    one("widget update", "Widget", create(BASE), update(a_widget({"size": 2}), manager="two"), update(a_widget({"size": 2, "mode": "Big"}), manager="one")),
    one("widget fixed", "Widget", create(BASE), merge({"spec": {"fixed": "y"}}), merge({"spec": {"size": 5, "fixed": "x"}})),
    one("widget value may not fall", "Widget", create(BASE), merge({"spec": {"list": [{"name": "a", "value": 0}]}}), merge({"spec": {"list": [{"name": "b", "value": 0}, {"name": "a", "value": 2}]}})),
    one("widget merge patches", "Widget", create(BASE), merge({"spec": {"labels": {"k": None, "l": "1"}, "tags": ["y", "z"]}}, manager="two"), merge({"spec": {"labels": None}}, manager="three"), merge({"spec": {"bogus": 1}}), merge({"metadata": {"labels": {"a": "b"}}}, manager="two")),
    one("widget json patches", "Widget", create(BASE), json_patch({"op": "replace", "path": "/spec/size", "value": 7}, manager="two"), json_patch({"op": "test", "path": "/spec/size", "value": 8}), json_patch({"op": "remove", "path": "/spec/nothing"}), json_patch({"op": "add", "path": "/spec/tags/-", "value": "w"}), json_patch({"op": "move", "from": "/spec/labels/k", "path": "/spec/labels/m"}), json_patch({"op": "copy", "from": "/spec/labels/m", "path": "/spec/labels/n"})),
    one("widget status", "Widget", create(a_widget() | {"status": {"state": "Lost"}}), merge({"status": {"state": "Good"}, "spec": {"size": 9}}, subresource="status", manager="controller"), merge({"spec": {"size": 2}, "status": {"state": "Bad"}}), update(a_widget({"size": 3}) | {"status": {"state": "Worse"}}, subresource="status", manager="controller")),
    one("widget apply", "Widget", apply(BASE), apply(BASE), apply(a_widget({"list": [{"name": "b"}], "tags": ["y"]}))),
    one("widget apply keeps others", "Widget", apply(a_widget({"labels": {"a": "1"}, "tags": ["x"]})), apply(an_object("Widget", {"spec": {"labels": {"b": "2"}, "tags": ["y", "x"]}}), "two"), apply(a_widget({"labels": {"a": "1"}})), apply(an_object("Widget", {}), "two"), apply(a_widget())),
    one("widget apply conflict", "Widget", apply(a_widget({"size": 2, "mode": "Big"})), apply(a_widget({"size": 3, "mode": "Small"}), "two"), apply(a_widget({"size": 3, "mode": "Small"}), "two", force=True), apply(a_widget({"size": 4}), "one"), apply(a_widget({"size": 3}), "one")),
    one("widget apply conflict with update", "Widget", create(BASE, manager="kubectl-create"), apply(a_widget({"size": 3, "list": [{"name": "a", "value": 5}]}), "two"), apply(a_widget({"size": 1, "list": [{"name": "a", "value": 1}]}), "two"), apply(a_widget({"size": 3}), "two", force=True)),
    one("widget apply atomic", "Widget", apply(a_widget({"nested": {"a": "1"}, "plain": [1]})), apply(an_object("Widget", {"spec": {"nested": {"b": True}}}), "two"), apply(an_object("Widget", {"spec": {"nested": {"b": True}, "plain": [2]}}), "two", force=True)),
    one("widget apply list order", "Widget", apply(a_widget({"list": [{"name": "a"}, {"name": "b"}, {"name": "c"}]})), apply(an_object("Widget", {"spec": {"list": [{"name": "d"}, {"name": "c"}]}}), "two"), apply(an_object("Widget", {"spec": {"list": [{"name": "b", "value": 2}, {"name": "a", "value": 1}]}}), "three")),
    one("widget apply set order", "Widget", apply(a_widget({"tags": ["a", "b"]})), apply(an_object("Widget", {"spec": {"tags": ["c", "a"]}}), "two"), apply(a_widget({"tags": ["b"]})), apply(an_object("Widget", {"spec": {"tags": []}}), "two")),
    one("widget apply duplicates", "Widget", apply(a_widget({"tags": ["a", "a"]})), apply(a_widget({"list": [{"name": "a"}, {"name": "a"}]})), apply(a_widget({"list": [{"value": 1}]}))),
    one("widget apply unknown", "Widget", apply(a_widget({"bogus": 1})), apply(a_widget({"bogus": 1}), validation="Warn")),
    one("widget apply preserved", "Widget", apply(a_widget({"any": {"x": {"y": 1}, "z": [1]}})), apply(an_object("Widget", {"spec": {"any": {"x": {"w": 2}}}}), "two"), apply(a_widget({"any": {"x": {"y": 2}}}))),
    one("widget apply null", "Widget", apply(a_widget({"opt": None})), apply(a_widget({"opt": "x"})), apply(a_widget())),
    one("widget apply empty", "Widget", apply(a_widget({"labels": {}, "list": [], "nested": {}})), apply(a_widget({"labels": {"a": "b"}})), apply(a_widget({"labels": {}}))),
    one("widget apply takes over from create", "Widget", create(BASE, manager="maker"), apply(BASE, "one"), update(a_widget({"size": 2}), manager="maker"), apply(BASE, "one")),
    one("widget apply status", "Widget", apply(a_widget()), apply(an_object("Widget", {"status": {"state": "x", "conditions": [{"type": "A", "status": "True"}]}}), "controller", subresource="status"), apply(an_object("Widget", {"status": {"conditions": [{"type": "B", "status": "True"}]}}), "other", subresource="status"), apply(an_object("Widget", {"status": {"state": "y"}}), "controller", subresource="status"), apply(a_widget({"size": 3}) | {"status": {"state": "z"}})),
    one("widget apply managed fields refused", "Widget", apply(a_widget(managedFields=[]))),
    one("widget managed fields reset", "Widget", create(BASE), merge({"metadata": {"managedFields": [{}]}}), merge({"spec": {"size": 4}}), apply(a_widget({"size": 4}), "two")),
    one("widget managed fields written", "Widget", create(BASE), json_patch({"op": "replace", "path": "/metadata/managedFields", "value": [{"manager": "m", "operation": "Apply", "apiVersion": "machinery.example.com/v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:size": {}}}}]}), apply(a_widget(), "m")),
    one("widget apply after removal by another", "Widget", apply(a_widget({"name": "abc", "labels": {"a": "1"}})), merge({"spec": {"name": None}}, manager="two"), apply(a_widget({"name": "abc", "labels": {"a": "1"}})), merge({"spec": {"labels": None}}, manager="two"), apply(a_widget({"labels": {"a": "1"}}))),
    one("widget shared ownership", "Widget", apply(a_widget({"name": "abc"})), apply(a_widget({"name": "abc"}), "two"), apply(a_widget(), "one"), apply(an_object("Widget", {"spec": {"name": "abd"}}), "two"), apply(a_widget(), "two")),
    one("widget kubectl takes over", "Widget", create(a_widget({"size": 5}, annotations={"kubectl.kubernetes.io/last-applied-configuration": '{"apiVersion":"machinery.example.com/v1","kind":"Widget","metadata":{"name":"it","annotations":{}},"spec":{"size":5}}\n'}), manager="kubectl-client-side-apply"), apply(a_widget({"size": 6}), "kubectl"), apply(a_widget({"size": 7}), "kubectl")),
    one("widget metadata owned", "Widget", apply(a_widget(labels={"a": "1"}, annotations={"b": "2"}, finalizers=["example.com/f"])), apply(a_widget(labels={"c": "1"}), "two"), apply(a_widget(labels={"a": "2"}, finalizers=["example.com/g"]), "one")),
]  # fmt: skip

MAPS = [
    one("config map", "ConfigMap", create(a_config_map({"a": "1"})), update(a_config_map({"a": "1", "b": "2"}), manager="two"), merge({"data": {"a": None}}, manager="three"), update(a_config_map({}), manager="two")),
    one("config map empty", "ConfigMap", create(a_config_map({}, labels={}))),
    one("config map apply", "ConfigMap", apply(a_config_map({"a": "1"})), apply(a_config_map({"b": "1"}), "two"), apply(a_config_map({"a": "2", "b": "2"}), "two"), apply(a_config_map({"b": "2"})), apply(a_config_map(), "two")),
    one("config map strategic", "ConfigMap", create(a_config_map({"a": "1", "b": "2"}, finalizers=["x.io/a"])), strategic({"data": {"$patch": "replace", "c": "3"}}), strategic({"metadata": {"finalizers": ["x.io/b"]}}), strategic({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x.io/a"]}}), strategic({"data": None}), strategic({"metadata": {"finalizers": None}})),
    one("config map strategic order", "ConfigMap", create(a_config_map(finalizers=["x.io/a", "x.io/b", "x.io/c"])), strategic({"metadata": {"$setElementOrder/finalizers": ["x.io/c", "x.io/a"]}}), strategic({"metadata": {"$setElementOrder/finalizers": ["x.io/d", "x.io/a"], "finalizers": ["x.io/d"]}}), strategic({"metadata": {"finalizers": None}})),
    one("config map strategic delete", "ConfigMap", create(a_config_map({"a": "1"}, labels={"x": "y"})), strategic({"data": {"$patch": "delete"}}), strategic({"metadata": {"labels": {"$patch": "replace", "z": "1"}}})),
    one("config map wrong", "ConfigMap", create(a_config_map({"a": 1}))),
    one("config map unknown", "ConfigMap", create({**a_config_map({"a": "1"}), "datas": {}}), create({**a_config_map({"a": "1"}), "datas": {}, "metadata": {"name": "it", "x": 1}}, validation="Warn")),
    one("config map owners", "ConfigMap", create(a_config_map(ownerReferences=[{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "u1"}])), strategic({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "y", "uid": "u2"}]}}), strategic({"metadata": {"ownerReferences": [{"uid": "u1", "$patch": "delete"}]}}, manager="two")),
    one("config map binary", "ConfigMap", create(an_object("ConfigMap", {"binaryData": {"a": "AAE="}})), create(an_object("ConfigMap", {"binaryData": {"a": "?"}}))),
    one("config map immutable", "ConfigMap", create(an_object("ConfigMap", {"data": {"a": "1"}, "immutable": False}))),
    one("lease", "Lease", create(an_object("Lease", {"spec": {"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.123456Z"}})), merge({"spec": {"renewTime": "2026-01-01T00:00:01.500000Z", "holderIdentity": "b"}}, manager="two"), merge({"spec": {"renewTime": "noon"}}), merge({"spec": {"renewTime": "2026-01-01T00:00:01Z"}}), merge({"spec": {"leaseDurationSeconds": "15"}})),
    one("role", "Role", create(an_object("Role", {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]})), apply(an_object("Role", {"rules": [{"apiGroups": ["apps"], "resources": ["*"], "verbs": ["*"]}]}), "two"), apply(an_object("Role", {"rules": [{"apiGroups": ["apps"], "resources": ["*"], "verbs": ["*"]}]}), "two", force=True)),
]  # fmt: skip


def a_deployment(containers: list[Json] | None = None, replicas: int = 2, **meta: Any) -> Json:
    """With everything that the server would fill in, so that both sides store the same."""
    made = [a_container("a")] if containers is None else containers
    template = {
        "metadata": {"labels": {"app": "x"}},
        "spec": {
            "containers": made,
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "securityContext": {},
            "schedulerName": "default-scheduler",
        },
    }
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}}
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": "x"}},
        "template": template,
        "strategy": rolling,
        "revisionHistoryLimit": 10,
        "progressDeadlineSeconds": 600,
    }
    return an_object("Deployment", {"spec": spec}, meta)


def a_container(name: str, **more: Any) -> Json:
    return {
        "name": name,
        "image": f"{name}:1",
        "imagePullPolicy": "IfNotPresent",
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "resources": {},
        **more,
    }


def _containers(*found: Json, **more: Any) -> Json:
    return {"spec": {"template": {"spec": {"containers": list(found), **more}}}}


DEPLOYMENTS = [
    one("deployment", "Deployment", create(a_deployment()), merge({"spec": {"replicas": 3}}, manager="two"), strategic(_containers(a_container("b")), manager="two"), strategic(_containers({"name": "a", "$patch": "delete"}), manager="three"), strategic(_containers({"name": "b", "image": "b:2", "env": [{"name": "X", "value": "1"}]}))),
    one("deployment env", "Deployment", create(a_deployment([a_container("a", env=[{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}])])), strategic(_containers({"name": "a", "env": [{"name": "Z", "value": "3"}]})), strategic(_containers({"name": "a", "$setElementOrder/env": [{"name": "Y"}, {"name": "Z"}, {"name": "X"}], "env": [{"name": "Y", "value": "9"}]})), strategic(_containers({"name": "a", "env": [{"name": "X", "$patch": "delete"}]})), strategic(_containers({"name": "a", "env": [{"$patch": "replace"}, {"name": "N", "value": "1"}]}))),
    one("deployment order", "Deployment", create(a_deployment([a_container("a"), a_container("b")])), strategic({"spec": {"template": {"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}], "containers": [a_container("c")]}}}})),
    one("deployment retain keys", "Deployment", create(a_deployment()), strategic({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}), strategic({"spec": {"strategy": {"$retainKeys": ["rollingUpdate"], "type": "Recreate"}}})),
    one("deployment quantities", "Deployment", create(a_deployment([a_container("a", resources={"limits": {"cpu": "1000m", "memory": "1024Mi"}, "requests": {"cpu": 0.5, "memory": "1e3"}})])), create(a_deployment([a_container("a", resources={"limits": {"cpu": "lots"}})]))),
    one("deployment apply", "Deployment", apply(a_deployment()), apply(a_deployment(replicas=3), "two"), apply(an_object("Deployment", {"spec": {"template": {"spec": {"containers": [{"name": "b", **a_container("b")}]}}}}), "two"), apply(a_deployment([a_container("a", ports=[{"containerPort": 80, "protocol": "TCP"}])])), apply(an_object("Deployment", {"spec": {"template": {"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "UDP"}]}]}}}}), "two"), apply(a_deployment())),
    one("deployment apply conflict", "Deployment", create(a_deployment(), manager="kubectl-create"), apply(a_deployment([a_container("a", image="a:2")], replicas=5), "two"), apply(a_deployment([a_container("a", image="a:2")], replicas=5), "two", force=True), merge({"spec": {"replicas": 7}}, manager="scaler"), apply(a_deployment([a_container("a", image="a:2")], replicas=5), "two")),
    one("deployment status", "Deployment", create(a_deployment()), merge({"status": {"replicas": 2, "conditions": [{"type": "Available", "status": "True", "reason": "r", "message": "m", "lastUpdateTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}, subresource="status", manager="controller"), merge({"spec": {"replicas": 1}, "status": {"replicas": 9}}, manager="two")),
    one("deployment unknown", "Deployment", create(a_deployment([a_container("a", imagee="x")]))),
    one("deployment wrong types", "Deployment", create(a_deployment(replicas="2"))),  # type: ignore[arg-type]
    one("deployment wrong port", "Deployment", create(a_deployment([a_container("a", ports=[{"containerPort": "80", "protocol": "TCP"}])]))),
    one("deployment wrong list", "Deployment", create(a_deployment({"name": "a"}))),  # type: ignore[arg-type]
    one("deployment bad policy", "Deployment", create(a_deployment([a_container("a", imagePullPolicy="Sometimes")]))),
]  # fmt: skip

SCENARIOS = [*WIDGETS, *MAPS, *DEPLOYMENTS]
