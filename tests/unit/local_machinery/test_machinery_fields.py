"""Invariants of field sets and ownership over random objects."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders.machinery import compiled
from tests.builders.machinery_scenarios import a_widget

from supernode.local.machinery import fields
from supernode.local.machinery.fieldset import FieldSet, from_paths, from_v1, render
from supernode.local.machinery.refusals import ApplyConflictError, BadRequestError, UntypedError

KIND = compiled("Widget")
NOW = "2026-01-01T00:00:00Z"
ELEMENTS = st.sampled_from(["f:a", "f:b", 'k:{"name":"x"}', 'v:"y"', "i:0"])
PATHS = st.lists(st.lists(ELEMENTS, min_size=1, max_size=4).map(tuple), max_size=12)
NAMES = st.sampled_from("abc")
SPEC = st.fixed_dictionaries(
    {"size": st.integers(1, 3)},
    optional={
        "tags": st.lists(NAMES, unique=True, max_size=3),
        "labels": st.dictionaries(NAMES, NAMES, max_size=2),
        "list": st.lists(NAMES, unique=True, max_size=3).map(
            lambda names: [{"name": name, "value": 1} for name in names]
        ),
        "nested": st.fixed_dictionaries({}, optional={"a": NAMES}),
    },
)


def members(found: FieldSet) -> set[tuple[str, ...]]:
    return set(found.paths())


@given(PATHS, PATHS)
def test_sets_of_fields_are_sets(one: list[tuple[str, ...]], two: list[tuple[str, ...]]) -> None:
    a, b = from_paths(one), from_paths(two)
    assert members(a) == set(one)
    assert members(a | b) == set(one) | set(two)
    assert members(a & b) == set(one) & set(two)
    assert members(a - b) == set(one) - set(two)
    below = {path for path in one if not any(path[: len(top)] == top for top in two)}
    assert members(a.without_below(b)) == below
    assert from_v1(json.loads(json.dumps(a.to_v1()))) == a


@pytest.mark.parametrize("wrong", [[], "x", {"a": {}}, {"f:a": []}, {"k:{": {}}, {"v:": {}}])
def test_what_is_not_fields_v1_is_refused(wrong: Any) -> None:
    with pytest.raises(BadRequestError):
        from_v1(wrong)


def test_paths_read_as_kubectl_shows_them() -> None:
    path = ("f:spec", 'k:{"containerPort":80,"protocol":"TCP"}', "f:x", 'v:"y"', "i:3")
    assert render(path) == '.spec[containerPort=80,protocol="TCP"].x[="y"][3]'


@given(SPEC)
def test_applying_twice_changes_nothing(spec: dict[str, Any]) -> None:
    first = fields.apply(KIND, None, a_widget(spec), manager="one", now=NOW)
    assert fields.apply(KIND, first, a_widget(spec), manager="one", now="2027-01-01T00:00:00Z") is first


@given(SPEC, SPEC)
def test_an_applier_owns_what_it_last_said_and_nothing_else_stays(one: dict[str, Any], two: dict[str, Any]) -> None:
    first = fields.apply(KIND, None, a_widget(one), manager="one", now=NOW)
    second = fields.apply(KIND, first, a_widget(two), manager="one", now=NOW)
    kept, _ = KIND.decode(second)
    wanted, _ = KIND.decode(a_widget(two))
    empty = ("tags", "labels", "list", "nested")
    assert {k: v for k, v in kept["spec"].items() if v or k not in empty} == {
        k: v for k, v in wanted["spec"].items() if v or k not in empty
    }


@given(SPEC, SPEC)
def test_force_takes_a_field_from_its_owner(one: dict[str, Any], two: dict[str, Any]) -> None:
    first = fields.apply(KIND, None, a_widget(one), manager="one", now=NOW)
    second = fields.apply(KIND, first, a_widget(two), manager="two", force=True, now=NOW)
    assert second["spec"]["size"] == two["size"]
    owners = fields.decode(second["metadata"]["managedFields"])
    size = [key.name for key, owned in owners.items() if owned.fields.has(("f:spec", "f:size"))]
    assert sorted(size) == (["one", "two"] if one["size"] == two["size"] else ["two"])
    if one["size"] != two["size"]:
        with pytest.raises(ApplyConflictError) as caught:
            fields.apply(KIND, first, a_widget(two), manager="two", now=NOW)
        assert ".spec.size" in [cause.field for cause in caught.value.causes]


@given(SPEC, SPEC)
def test_every_field_of_an_update_has_an_owner(one: dict[str, Any], two: dict[str, Any]) -> None:
    old, _ = KIND.decode(a_widget(one))
    created = fields.track(KIND, None, old, manager="one", now=NOW)
    new, _ = KIND.decode(a_widget(two))
    new = new | {"metadata": new["metadata"] | {"managedFields": created["metadata"]["managedFields"]}}
    updated = fields.track(KIND, created, new, manager="two", now="2027-01-01T00:00:00Z")
    owners = fields.decode(updated["metadata"]["managedFields"])
    for name in new["spec"]:
        if new["spec"][name] != []:
            assert any(
                f"f:{name}" in owned.fields.children.get("f:spec", FieldSet()).children for owned in owners.values()
            )


def test_many_updaters_are_put_together() -> None:
    obj = fields.track(KIND, None, a_widget(), manager="m0", now="2026-01-01T00:00:00Z")
    for number in range(1, 30):
        changed = obj | {"spec": {**obj["spec"], "labels": {f"k{number}": "v"}, f"x{number}": 1}}
        obj = fields.track(KIND, obj, changed, manager=f"m{number}", now=f"2026-01-01T00:00:{number:02d}Z")
    entries = obj["metadata"]["managedFields"]
    assert len(entries) <= fields.MAX_UPDATERS
    assert "ancient-changes" in [entry["manager"] for entry in entries]


def test_conflicts_name_managers_and_fields() -> None:
    live = fields.apply(KIND, None, a_widget({"size": 1, "mode": "Big"}), manager="one", now=NOW)
    changed = live | {"spec": {**live["spec"], "fixed": "q"}}
    live = fields.track(KIND, live, changed, manager="kubectl-edit", now=NOW)
    with pytest.raises(ApplyConflictError) as caught:
        fields.apply(KIND, live, a_widget({"size": 2, "mode": "Small", "fixed": "r"}), manager="two", now=NOW)
    assert caught.value.message == (
        'Apply failed with 3 conflicts: conflicts with "kubectl-edit" using machinery.example.com/v1:\n- .spec.fixed\n'
        'conflicts with "one":\n- .spec.mode\n- .spec.size'
    )
    assert caught.value.status()["details"]["causes"][0] == {
        "reason": "FieldManagerConflict",
        "message": 'conflict with "kubectl-edit" using machinery.example.com/v1',
        "field": ".spec.fixed",
    }


def test_a_configuration_that_does_not_fit_is_refused_with_paths() -> None:
    wrong = a_widget({"size": "x", "bogus": 1, "tags": ["a", "a"], "list": [{"value": 1}], "labels": [], "plain": {}})
    with pytest.raises(UntypedError) as caught:
        fields.apply(KIND, None, wrong, manager="one", now=NOW)
    for part in (
        ".spec.size: expected numeric",
        ".spec.bogus: field not declared",
        'key [="a"]',
        "element 0: associative list",
    ):
        assert part in caught.value.message


@pytest.mark.parametrize(
    ("query", "agent", "manager"),
    [
        ("", "kubectl/v1.37 (linux)", "kubectl"),
        ("me", "kubectl/v1", "me"),
        (None, None, ""),
        ("", "a" * 200, "a" * 128),
    ],
)
def test_the_name_of_a_manager(query: str | None, agent: str | None, manager: str) -> None:
    assert fields.manager_from(query, agent) == manager
