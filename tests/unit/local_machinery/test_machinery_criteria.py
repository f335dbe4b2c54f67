from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernode.local.machinery import criteria
from supernode.local.machinery.refusals import BadRequestError

LABELS = {"app": "x", "tier": "front", "n": "5"}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("app=x", True),
        ("app==x", True),
        ("app=y", False),
        ("app!=y", True),
        ("other!=y", True),
        ("app", True),
        ("!app", False),
        ("!other", True),
        ("app in (x,y)", True),
        ("app in (y)", False),
        ("app notin (y),tier", True),
        ("other notin (y)", True),
        ("other in ()", False),
        ("n>4", True),
        ("n<5", False),
        ("n > 4 , app = x", True),
        ("app=", False),
        ("app=x,tier=back", False),
        ("example.com/app", False),
    ],
)
def test_label_selectors(text: str, matches: bool) -> None:
    assert criteria.labels(text).matches(LABELS) is matches


@pytest.mark.parametrize(
    "text",
    ["a b", "a in x", "a in (x", "-a", "a=x y", "a=-x", "a>x", ",", "a,", "a=b,,c=d", "a in (b c)", "A/B/c", "!"],
)
def test_label_selectors_that_are_none(text: str) -> None:
    with pytest.raises(BadRequestError):
        criteria.labels(text)


def test_no_labels_meet_only_negative_requirements() -> None:
    assert criteria.labels("a!=b,!c,d notin (e)").matches(None)
    assert not criteria.labels("a").matches(None)


def test_label_selector_objects() -> None:
    assert not criteria.from_object(None).matches(LABELS)
    assert criteria.from_object({}).matches(LABELS)
    found = criteria.from_object(
        {
            "matchLabels": {"app": "x"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["front", "back"]},
                {"key": "n", "operator": "Exists"},
                {"key": "z", "operator": "DoesNotExist"},
                {"key": "app", "operator": "NotIn", "values": ["y"]},
            ],
        }
    )
    assert found.matches(LABELS)
    assert not found.matches({**LABELS, "z": ""})


@pytest.mark.parametrize(
    "expression",
    [
        {"key": "a", "operator": "Equals", "values": ["b"]},
        {"key": "a", "operator": "In"},
        {"key": "a", "operator": "Exists", "values": ["b"]},
        {"key": "a b", "operator": "Exists"},
    ],
)
def test_label_selector_objects_that_are_wrong(expression: dict[str, object]) -> None:
    with pytest.raises(BadRequestError):
        criteria.from_object({"matchExpressions": [expression]})


def test_field_selectors() -> None:
    pod = {"metadata": {"name": "a"}, "spec": {"nodeName": "n1", "on": True}, "status": {"phase": "Running"}}
    assert criteria.fields("metadata.name=a,spec.nodeName==n1").matches(pod)
    assert criteria.fields("status.phase!=Failed").matches(pod)
    assert criteria.fields("spec.on=true").matches(pod)
    assert criteria.fields("spec.missing=").matches(pod)
    assert not criteria.fields("metadata.name=b").matches(pod)
    assert criteria.fields("").matches(pod)
    assert criteria.fields(r"metadata.name=a\,b").requirements == (("metadata.name", "=", "a,b"),)
    with pytest.raises(BadRequestError, match="can't understand"):
        criteria.fields("metadata.name")


@given(st.text(alphabet="ab=!,()<> inot./-5", max_size=20))
def test_any_text_is_a_selector_or_refused(text: str) -> None:
    for parse in (criteria.labels, criteria.fields):
        with contextlib.suppress(BadRequestError):
            parse(text)


@given(st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz")))
def test_opposite_requirements_split_all_objects(labels: dict[str, str]) -> None:
    for one, other in (("a=x", "a!=x"), ("a", "!a"), ("a in (x,y)", "a notin (x,y)")):
        assert criteria.labels(one).matches(labels) != criteria.labels(other).matches(labels)
