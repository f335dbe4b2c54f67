"""Environment of a container: order of precedence, references, and what is said when something is missing."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest

from supernode.local.agent.environment import ConfigError, container_environment, field_value, resource_value

Object = dict[str, Any]

POD: Object = {
    "metadata": {
        "name": "p",
        "namespace": "ns",
        "uid": "u",
        "labels": {"a/b": "c"},
        "annotations": {"x": 'say "hi"\n'},
    },
    "spec": {"nodeName": "n", "containers": [{"name": "c", "resources": {"limits": {"cpu": "1500m"}}}]},
    "status": {"podIP": "127.1.2.3", "podIPs": [{"ip": "127.1.2.3"}], "hostIP": "127.1.0.1"},
}
OBJECTS: dict[tuple[str, str], Object] = {
    ("Secret", "s"): {"kind": "Secret", "data": {"k": base64.b64encode(b"hush").decode()}},
    ("ConfigMap", "m"): {"kind": "ConfigMap", "data": {"A": "map", "B": "map"}},
}


async def lookup(kind: str, name: str) -> Object | None:
    return OBJECTS.get((kind, name))


async def environment(**container: Any) -> dict[str, str]:
    return await container_environment(POD, {"name": "c", **container}, lookup, {"memory": "4Gi"})


async def test_env_wins_over_env_from_and_refers_to_what_stands_before() -> None:
    found = await environment(
        envFrom=[{"configMapRef": {"name": "m"}}, {"prefix": "P_", "secretRef": {"name": "s"}}],
        env=[
            {"name": "A", "value": "own"},
            {"name": "C", "value": "$(A)-$(B)-$(D)-$$(A)"},
            {"name": "D", "value": "4"},
        ],
    )
    assert found == {"A": "own", "B": "map", "P_k": "hush", "C": "own-map-$(D)-$(A)", "D": "4"}


async def test_references_to_secrets_fields_and_resources() -> None:
    def entry(name: str, **source: Object) -> Object:
        return {"name": name, "valueFrom": source}

    found = await environment(
        env=[
            entry("S", secretKeyRef={"name": "s", "key": "k"}),
            entry("M", configMapKeyRef={"name": "m", "key": "A"}),
            entry("IP", fieldRef={"fieldPath": "status.podIP"}),
            entry("CPU", resourceFieldRef={"resource": "limits.cpu"}),
            entry("MEM", resourceFieldRef={"resource": "limits.memory", "divisor": "1Mi"}),
            entry("NONE", secretKeyRef={"name": "nope", "key": "k", "optional": True}),
        ]
    )
    assert found == {"S": "hush", "M": "map", "IP": "127.1.2.3", "CPU": "2", "MEM": "4096"}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"secretKeyRef": {"name": "nope", "key": "k"}}, 'secret "nope" not found'),
        ({"configMapKeyRef": {"name": "nope", "key": "k"}}, 'configmap "nope" not found'),
        ({"secretKeyRef": {"name": "s", "key": "zz"}}, "couldn't find key zz in Secret ns/s"),
        ({"fieldRef": {"fieldPath": "spec.dnsPolicy"}}, "spec.dnsPolicy"),
        ({}, "unsupported"),
    ],
)
async def test_what_is_missing_is_named(source: Object, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        await environment(env=[{"name": "A", "valueFrom": source}])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("metadata.name", "p"),
        ("metadata.namespace", "ns"),
        ("metadata.labels['a/b']", "c"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations", 'x="say \\"hi\\"\\n"'),
        ("spec.nodeName", "n"),
        ("status.podIPs", "127.1.2.3"),
    ],
)
def test_field_paths(path: str, expected: str) -> None:
    assert field_value(POD, path) == expected


def test_a_resource_of_an_unknown_container_is_refused() -> None:
    with pytest.raises(ConfigError, match="'other'"):
        resource_value(POD, {"resource": "limits.cpu", "containerName": "other"}, "c", {})
