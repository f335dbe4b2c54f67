# ruff: noqa: E501

from __future__ import annotations

from typing import Any

import pytest
from tests.builders.machinery import Json, compiled, widget_crd
from tests.builders.machinery_scenarios import a_widget

from supernode.local.machinery import cells, crd, discovery, jsonpath, openapi, resources, table

VALUE: Json = {
    "a": {"b": [1, 2, 3], "x.y": "dot", "x-y": "dash"},
    "c": [{"type": "Ready", "status": "True", "n": 1}, {"type": "Other", "status": "False", "n": 5}, {"type": "Bare"}],
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".a.b", [[1, 2, 3]]),
        (".a.b[0]", [1]),
        (".a.b[-1]", [3]),
        (".a.b[:2]", [1, 2]),
        (".a.b[*]", [1, 2, 3]),
        (".a.b[9]", []),
        (".a['x.y']", ["dot"]),
        (r".a.x\.y", ["dot"]),
        (".a.x-y", ["dash"]),
        ('.c[?(@.type=="Ready")].status', ["True"]),
        (".c[?(@.type=='Other')].status", ["False"]),
        ('.c[?(@.type!="Ready")].type', ["Other", "Bare"]),
        (".c[?(@.n>1)].type", ["Other"]),
        (".c[?(@.n)].type", ["Ready", "Other"]),
        (".c[*].status", ["True", "False"]),
        ("{.a.b[0]}", [1]),
        (".nothing.at.all", []),
        (".", [VALUE]),
    ],
)
def test_paths(path: str, found: list[Any]) -> None:
    assert jsonpath.compiled(path)(VALUE) == found


@pytest.mark.parametrize("path", [".a[", ".a[?(x)]", ".a[b]", "..a"])
def test_paths_that_are_none(path: str) -> None:
    with pytest.raises(ValueError, match=r"cannot read|not a filter"):
        jsonpath.compiled(path)


def test_a_table_of_custom_objects() -> None:
    kind = compiled("Widget")
    good = a_widget({"replicas": 3}, creationTimestamp="2026-01-01T00:00:00Z")
    good["status"] = {"state": "Good", "conditions": [{"type": "Ready", "status": "True"}]}
    made = table.render(table.columns(kind.columns), [good, a_widget()], now="2026-01-01T00:07:16Z")
    assert [column["name"] for column in made["columnDefinitions"]] == ["Name", "State", "Ready", "N", "Age"]
    assert made["rows"][0]["cells"] == ["it", "Good", "True", 3, "7m16s"]
    assert made["rows"][1]["cells"] == ["it", None, None, None, None]
    assert made["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    assert (
        table.render(table.columns(()), [good], now="2026-01-01T00:00:00Z", include="Object")["rows"][0]["object"]
        == good
    )
    assert table.render((), [good], now="2026-01-01T00:00:00Z", include="None")["rows"][0]["object"] is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "<invalid>"), (-1, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (436, "7m16s"), (600, "10m"), (10799, "179m"),
     (10800, "3h"), (12000, "3h20m"), (28800, "8h"), (172799, "47h"), (172800, "2d"), (200000, "2d7h"), (691200, "8d"), (63072000, "2y"), (70000000, "2y80d")],
)  # fmt: skip
def test_ages_read_as_in_kubectl(seconds: int, text: str) -> None:
    assert cells.duration(seconds) == text


STATES: list[tuple[Json, str]] = [
    ({"phase": "Pending"}, "Pending"),
    ({"phase": "Running", "containerStatuses": [{"ready": True, "state": {"running": {}}}]}, "Running"),
    ({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"reason": "Error", "exitCode": 1}}}]}, "Error"),
    ({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}, "ExitCode:3"),
    ({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"signal": 9}}}]}, "Signal:9"),
    ({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull"}}}]}, "ErrImagePull"),
    ({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}, "Init:0/1"),
    ({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}, "Init:CrashLoopBackOff"),
    ({"phase": "Failed", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 2}}}]}, "Init:ExitCode:2"),
    ({"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]}, "Completed"),
    ({"phase": "Failed", "reason": "Evicted"}, "Evicted"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "text"), STATES)
def test_the_one_word_for_a_pod(status: Json, text: str) -> None:
    pod = {
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]},
        "status": status,
    }
    row = table.render(table.builtin_columns("", "Pod"), [pod], now="2026-01-01T00:00:00Z")["rows"][0]
    assert row["cells"][2] == text


def served() -> tuple[resources.Resource, ...]:
    made = crd.with_defaults(widget_crd())
    return resources.builtin() + resources.custom(made, crd.compile(made))


def test_a_crd_is_discovered_with_its_subresources() -> None:
    found = discovery.resource_list(served(), "machinery.example.com", "v1")
    assert found is not None
    assert [entry["name"] for entry in found["resources"]] == ["widgets", "widgets/status", "widgets/scale"]
    assert found["resources"][0]["shortNames"] == ["wd"]
    assert discovery.resource_list(served(), "nothing.example.com", "v1") is None
    assert discovery.group(served(), "nothing.example.com") is None
    groups = [group["name"] for group in discovery.group_list(served())["groups"]]
    assert "machinery.example.com" in groups
    assert "" not in groups


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(references(child) for child in node.values()))
    if isinstance(node, list):
        return set().union(*(references(child) for child in node))
    return set()


def test_openapi_documents_are_closed_and_hashed_by_content() -> None:
    index = openapi.v3_index(served())["paths"]
    for resource in served():
        path = f"apis/{resource.group}/{resource.version}" if resource.group else f"api/{resource.version}"
        assert index[path]["serverRelativeURL"].startswith(f"/openapi/v3/{path}?hash=")
    document = openapi.v3(served(), "machinery.example.com", "v1")
    assert document is not None
    defined = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references(document) <= defined
    whole = openapi.v2(served())
    assert references(whole) <= {f"#/definitions/{name}" for name in whole["definitions"]}
    without = openapi.v3_index(resources.builtin())["paths"]
    assert without == {path: entry for path, entry in index.items() if path in without}
    assert openapi.v3(served(), "nothing.example.com", "v1") is None
