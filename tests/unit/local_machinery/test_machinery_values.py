"""Bodies, quantities, times, patches, names and built-in kinds."""

# ruff: noqa: E501

from __future__ import annotations

import copy
import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders.machinery import Json
from tests.builders.machinery_scenarios import a_container, a_deployment

from supernode.local.machinery import amounts, documents, kinds, metadata, patch, resources, schemas
from supernode.local.machinery.refusals import BadRequestError, InvalidError, PatchedInvalidError, UnprocessableError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["a", "b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("1000m", "1"), ("0.5", "500m"), (0.5, "500m"), (2, "2"), ("1024Mi", "1Gi"), ("1.5Gi", "1536Mi"), ("512", "512"),
        ("100000", "100k"), ("1e3", "1e3"), ("1E3", "1e3"), ("0", "0"), ("-1.5", "-1500m"), ("0.0000000001", "1n"),
        ("1Ki", "1Ki"), ("512Ki", "512Ki"), ("+5", "5"), (".5", "500m"), ("5.", "5"), ("1500", "1500"), ("12e6", "12e6"),
    ],
)  # fmt: skip
def test_quantities_have_one_text(written: str | float, canonical: str) -> None:
    assert amounts.canonical(written) == canonical


@pytest.mark.parametrize("wrong", ["", "a", "1.2.3", "1KiB", "1 Gi", "1e", "--1", True, "9" * 300, "1e99999"])
def test_what_is_no_quantity(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"quantit|exponent"):
        amounts.canonical(wrong)


@given(st.fractions(max_denominator=1000).filter(lambda value: abs(value) < 10**15))
def test_the_canonical_text_keeps_the_value(value: Fraction) -> None:
    text = f"{int(value * 1000)}m"
    assert amounts.parse(amounts.canonical(text))[0] == amounts.parse(text)[0]


def test_repeated_fields_are_found_where_they_are() -> None:
    body = b'{"a": 1, "b": [{"c": 1, "c": 2}], "a": 2, "d": {"e": {"f": 1, "f": 1}}}'
    found = documents.load(body)
    assert found.value == {"a": 2, "b": [{"c": 2}], "d": {"e": {"f": 1}}}
    assert found.duplicates == ("a", "b[0].c", "d.e.f")
    assert documents.load(b"a: 1\nb: {c: 1, c: 2}\n", yaml=True).duplicates == ("b.c",)


@pytest.mark.parametrize("body", [b"{", b"", b'{"a": NaN}', b"\xff", b"[" * 100000, b'{"a": Infinity}'])
def test_bodies_that_cannot_be_read(body: bytes) -> None:
    with pytest.raises(BadRequestError):
        documents.load(body)


@pytest.mark.parametrize(
    "body", [b"a: [", b"a: !!python/object:os.system {}", b"? [1]\n: 2", b"a: .nan", b"\xff\xfe\xfa"]
)
def test_yaml_that_cannot_be_read(body: bytes) -> None:
    with pytest.raises(BadRequestError):
        documents.load(body, yaml=True)


def test_yaml_is_read_as_json_would_be() -> None:
    found = documents.load(b"a: 2026-01-01\nb: 1\nc: [x, {d: null}]\n1: true\n", yaml=True)
    assert found.value == {"a": "2026-01-01", "b": 1, "c": ["x", {"d": None}], "1": True}


@given(OBJECTS, OBJECTS)
def test_merge_patches_by_the_book(obj: Json, change: Json) -> None:
    before = copy.deepcopy(obj)
    result = patch.merge_patch(obj, change)
    assert obj == before
    for name in obj.keys() | change.keys():
        if name not in change:
            assert result[name] == obj[name]
        elif change[name] is None:
            assert name not in result
        elif not isinstance(change[name], dict):
            assert result[name] == change[name]
    assert patch.merge_patch(result, change) == result


@given(OBJECTS)
def test_json_patches_leave_the_original_alone(obj: Json) -> None:
    before = copy.deepcopy(obj)
    changed = patch.json_patch(
        obj, [{"op": "add", "path": "/z", "value": {"y": 1}}, {"op": "add", "path": "/z/x", "value": 2}]
    )
    assert obj == before
    assert changed == {**before, "z": {"y": 1, "x": 2}}


@pytest.mark.parametrize("wrong", [{}, "x", [1], None])
def test_json_patches_that_are_none(wrong: Any) -> None:
    with pytest.raises(BadRequestError):
        patch.json_patch({}, wrong)


@pytest.mark.parametrize(
    "step",
    [{"op": "bad", "path": "/a"}, {"op": "remove", "path": "/x"}, {"path": "/a"}, {"op": "add", "path": "a", "value": 1},
     {"op": "add", "path": "/l/9", "value": 1}, {"op": "test", "path": "/a", "value": 2}, {"op": "add", "path": "/a/b/c", "value": 1},
     {"op": "move", "from": "/x", "path": "/y"}, {"op": "replace", "path": "/x/y", "value": 1}, {"op": "add", "path": "/a"}],
)  # fmt: skip
def test_json_patches_that_do_not_apply(step: Json) -> None:
    with pytest.raises(UnprocessableError):
        patch.json_patch({"a": 1, "l": []}, [step])


DEPLOYMENT = schemas.builtin().find("apps", "v1", "Deployment")
assert DEPLOYMENT is not None


@pytest.mark.parametrize(
    "wrong",
    [[], {"$patch": "odd"}, {"spec": {"strategy": {"$retainKeys": "type"}}}, {"spec": {"template": {"spec": {"containers": [{"image": "x"}]}}}},
     {"spec": {"template": {"spec": {"containers": [{"$patch": "delete"}]}}}}, {"spec": {"template": {"spec": {"containers": ["x"]}}}},
     {"metadata": {"$setElementOrder/finalizers": "x"}}, {"metadata": {"$deleteFromPrimitiveList/finalizers": "x"}}],
)  # fmt: skip
def test_strategic_patches_that_are_wrong(wrong: Any) -> None:
    assert DEPLOYMENT is not None
    with pytest.raises(BadRequestError):
        patch.strategic_merge(DEPLOYMENT, a_deployment(), wrong)


@given(OBJECTS, OBJECTS)
def test_strategic_merge_without_merge_keys_is_a_merge_patch(obj: Json, change: Json) -> None:
    config_map = schemas.builtin().find("", "v1", "ConfigMap")
    assert config_map is not None

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {n: plain(v) for n, v in value.items() if v is not None}
        return [plain(item) for item in value] if isinstance(value, list) else value

    before = copy.deepcopy(obj)
    assert plain(patch.strategic_merge(config_map, obj, change)) == plain(patch.merge_patch(obj, change))
    assert obj == before


KIND = kinds.builtin("apps", "v1", "Deployment")


@pytest.mark.parametrize("validation", ["Strict", "Warn", "", "Ignore"])
def test_unknown_fields_of_built_ins(validation: str) -> None:
    assert KIND is not None
    obj = a_deployment([a_container("a", imagee="x")])
    message = 'unknown field "spec.template.spec.containers[0].imagee"'
    if validation == "Strict":
        with pytest.raises(BadRequestError, match="strict decoding error: unknown field"):
            KIND.decode(obj, field_validation=validation)
        with pytest.raises(PatchedInvalidError) as caught:
            KIND.decode(obj, field_validation=validation, patched=True)
        assert [cause.field for cause in caught.value.causes] == ["patch"]
    else:
        decoded, warnings = KIND.decode(obj, field_validation=validation)
        assert "imagee" not in json.dumps(decoded)
        assert warnings == ([] if validation == "Ignore" else [message])


def test_wrong_values_of_built_ins_are_causes() -> None:
    assert KIND is not None
    obj = a_deployment([a_container("", imagePullPolicy="Sometimes")])
    del obj["spec"]["selector"]
    with pytest.raises(InvalidError) as caught:
        KIND.validate(KIND.decode(obj)[0])
    found = [(cause.field, cause.message) for cause in caught.value.causes]
    assert ("spec.selector", "Required value") in found
    assert ("spec.template.spec.containers[0].name", "Required value") in found
    supported = 'Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never"'
    assert ("spec.template.spec.containers[0].imagePullPolicy", supported) in found
    status = caught.value.status("apps", "Deployment", "it")
    assert status["message"].startswith('Deployment.apps "it" is invalid: [')
    assert (status["code"], status["reason"], status["details"]["kind"]) == (422, "Invalid", "Deployment")


def test_every_resource_has_its_kind() -> None:
    for resource in resources.builtin():
        if "create" in resource.verbs:
            assert resource.definition is not None, resource.plural


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        ("subdomain", ["a", "a.b", "a-1.b"], ["", "A", "a_b", "-a", "a.", "a" * 254]),
        ("label", ["a", "1a"], ["a.b", "a" * 64]),
        ("service", ["a1"], ["1a", "a.b"]),
        ("path", ["system:node", "A_b"], [".", "..", "a/b", "a%b"]),
    ],
)
def test_names(rule: str, good: list[str], bad: list[str]) -> None:
    for name in good:
        assert not metadata.validate({"metadata": {"name": name}}, namespaced=False, name_rule=rule)
    for name in bad:
        assert metadata.validate({"metadata": {"name": name}}, namespaced=False, name_rule=rule), name


def test_what_metadata_may_not_change() -> None:
    old: Json = {
        "metadata": {
            "name": "a",
            "namespace": "n",
            "uid": "u",
            "generation": 2,
            "deletionTimestamp": "x",
            "finalizers": ["a.b/c"],
        }
    }
    new = copy.deepcopy(old)
    assert metadata.validate(new, old, namespaced=True) == []
    new["metadata"].update(name="b", uid="v", generation=1, finalizers=["a.b/c", "a.b/d"])
    fields = {cause.field for cause in metadata.validate(new, old, namespaced=True)}
    assert fields == {"metadata.name", "metadata.uid", "metadata.generation", "metadata.finalizers"}
    assert [c.field for c in metadata.validate({"metadata": {"name": "a", "namespace": "n"}}, namespaced=False)] == [
        "metadata.namespace"
    ]
