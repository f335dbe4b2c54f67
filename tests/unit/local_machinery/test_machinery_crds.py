"""Wrong CRDs are refused where a real server refuses them (recorded), and CEL rules say what they should."""

# ruff: noqa: E501

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from tests.builders.machinery import Json, widget_crd
from tests.builders.machinery_crds import CRD_ANSWERS, WRONG, a_wrong_crd

from supernode.local.machinery import crd, kinds
from supernode.local.machinery.refusals import InvalidError, RefusedError

ANSWERS: dict[str, list[list[str]]] = json.loads(CRD_ANSWERS.read_text())
# What the real server adds from the internal version of the API: the same mistake, said twice.
SAID_TWICE = {
    "no storage": [["status.storedVersions", "FieldValueInvalid"]],
    "version name": [["spec.version", "FieldValueInvalid"]],
    "root type": [["spec.validation.openAPIV3Schema.type", "FieldValueInvalid"]],
}


def causes(found: Json) -> list[list[str]]:
    kind = kinds.builtin("apiextensions.k8s.io", "v1", "CustomResourceDefinition")
    assert kind is not None
    try:
        decoded, _ = kind.decode(found, field_validation="Strict")
        crd.validate(crd.with_defaults(decoded))
    except RefusedError as exc:
        return sorted([cause.field, cause.reason] for cause in exc.causes)
    return []


@pytest.mark.parametrize("name", sorted(WRONG))
def test_wrong_crds(name: str) -> None:
    assert sorted(causes(a_wrong_crd(name)) + SAID_TWICE.get(name, [])) == ANSWERS[name]


def test_the_widget_crd_is_right() -> None:
    assert causes(widget_crd()) == []
    assert sorted(ANSWERS) == sorted(WRONG)


def test_group_and_scope_may_not_change() -> None:
    new = copy.deepcopy(widget_crd())
    new["spec"]["scope"] = "Cluster"
    with pytest.raises(InvalidError) as caught:
        crd.validate(new, widget_crd())
    assert [cause.field for cause in caught.value.causes] == ["spec.scope"]


def judged(rule: str, value: Any, schema: Json, old: Any = None, **facts: Any) -> list[str]:
    """Messages with which a rule at `spec` refuses a value."""
    definition = copy.deepcopy(widget_crd())
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = {
        **schema,
        "x-kubernetes-validations": [{"rule": rule, "message": "no", **facts}],
    }
    definition["spec"]["versions"][0]["subresources"] = {}
    crd.validate(definition)
    kind = crd.compile(definition)["v1"]
    obj = {"apiVersion": "machinery.example.com/v1", "kind": "Widget", "metadata": {"name": "it"}}
    before = None if old is None else {**obj, "spec": old}
    return [cause.message for cause in kind.causes({**obj, "spec": value}, before)]


OBJECT: Json = {
    "type": "object",
    "properties": {
        "n": {"type": "integer"},
        "x": {"type": "number"},
        "s": {"type": "string"},
        "l": {"type": "array", "items": {"type": "string"}},
        "m": {"type": "object", "additionalProperties": {"type": "integer"}},
        "namespace": {"type": "string"},
        "a-b": {"type": "string"},
        "t": {"type": "string", "format": "date-time"},
        "d": {"type": "string", "format": "duration"},
        "p": {"x-kubernetes-int-or-string": True},
    },
}
TRUE = [
    ("self.n + 1 == 3", {"n": 2}),
    ("self.x == 2.0 && self.x / 4.0 == 0.5", {"x": 2}),
    ("!has(self.s) || self.s.startsWith('a')", {}),
    ("has(self.s) ? self.s == 'a' : true", {"s": "a"}),
    ("self.s.matches('^[a-z]+$') && size(self.s) == 3", {"s": "abc"}),
    ("self.l.all(i, i in ['a', 'b']) && self.l.exists(i, i == 'a') && self.l.exists_one(i, i == 'b')", {"l": ["a", "b"]}),
    ("self.l.map(i, i + '!') == ['a!'] && self.l.filter(i, i == 'z').size() == 0", {"l": ["a"]}),
    ("self.m.all(k, self.m[k] > 0) && 'a' in self.m", {"m": {"a": 1}}),
    ("self.__namespace__ == 'x'", {"namespace": "x"}),
    ("self.a__dash__b == 'x'", {"a-b": "x"}),
    ("self.t < timestamp('2027-01-01T00:00:00Z')", {"t": "2026-01-01T00:00:00Z"}),
    ("self.d == duration('90s')", {"d": "1m30s"}),
    ("type(self.p) == int ? self.p > 0 : self.p == 'http'", {"p": "http"}),
    ("isQuantity(self.s) && quantity(self.s).isGreaterThan(quantity('500m'))", {"s": "1"}),
    ("quantity('1Gi').compareTo(quantity('1024Mi')) == 0 && quantity('2').add(quantity('500m')) == quantity('2500m')", {}),
    ("quantity('50k').asInteger() == 50000 && quantity('1').sub(1).sign() == 0", {}),
    ("!isQuantity('lots')", {}),
    ("self.s.split(',').size() == 2 && self.s.split(',', 1)[0] == 'a,b'", {"s": "a,b"}),
    ("self.s.find('[0-9]+') == '12' && self.s.findAll('[0-9]') == ['1', '2']", {"s": "a12"}),
    ("self.s.lowerAscii() == 'abc' && self.s.upperAscii() == 'ABC' && self.s.trim() == 'aBc'", {"s": "aBc"}),
    ("self.s.replace('b', 'x') == 'axc' && self.s.substring(1) == 'bc' && self.s.charAt(0) == 'a'", {"s": "abc"}),
    ("self.s.indexOf('c') == 2 && self.s.lastIndexOf('c') == 4 && self.s.contains('bc')", {"s": "abcbc"}),
    ("self.l.join('-') == 'a-b' && self.l.isSorted() && self.l.indexOf('b') == 1", {"l": ["a", "b"]}),
    ("[1, 2, 3].sum() == 6 && [3, 1].min() == 1 && [3, 1].max() == 3", {}),
    ("sets.contains(self.l, ['a']) && sets.intersects(self.l, ['b', 'z']) && sets.equivalent(self.l, ['b', 'a'])", {"l": ["a", "b"]}),
    ("isIP('10.0.0.1') && !isIP('x') && isCIDR('10.0.0.0/8')", {}),
    ("self.?s.orValue('none') == 'none' && !self.?s.hasValue()", {}),
    ("self.?s.orValue('none') == 'q'", {"s": "q"}),
    ("true || self.s == 'x'", {}),
    ("self.s == 'x' || true", {}),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "value"), TRUE)
def test_rules_that_hold(rule: str, value: Json) -> None:
    assert judged(rule, value, OBJECT) == []
    assert judged(f"!({rule})", value, OBJECT) == ["Invalid value: no"]


def test_an_error_in_a_rule_names_the_rule() -> None:
    assert judged("self.s == 'a'", {}, OBJECT) != []
    assert "evaluating rule: no" in judged("self.n / 0 == 1", {"n": 1}, OBJECT)[0]


def test_transition_rules_wait_for_an_old_value() -> None:
    assert judged("self.n >= oldSelf.n", {"n": 1}, OBJECT) == []
    assert judged("self.n >= oldSelf.n", {"n": 1}, OBJECT, {"n": 2}) == ["Invalid value: no"]
    assert judged("self.n >= oldSelf.n", {"n": 3}, OBJECT, {"n": 2}) == []
    optional = "!oldSelf.hasValue() && self.n == 1 || oldSelf.hasValue() && self.n > oldSelf.value().n"
    assert judged(optional, {"n": 1}, OBJECT, optionalOldSelf=True) == []
    assert judged(optional, {"n": 2}, OBJECT, optionalOldSelf=True) == ["Invalid value: no"]
    assert judged(optional, {"n": 2}, OBJECT, {"n": 1}, optionalOldSelf=True) == []


def test_what_did_not_change_is_not_judged_again() -> None:
    assert judged("self.n < 0", {"n": 1}, OBJECT) == ["Invalid value: no"]
    assert judged("self.n < 0", {"n": 1}, OBJECT, {"n": 1}) == []
    assert judged("self.n < 0", {"n": 2}, OBJECT, {"n": 1}) == ["Invalid value: no"]


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("FieldValueInvalid", "Invalid value: n is 1"),
        ("FieldValueForbidden", "Forbidden: n is 1"),
        ("FieldValueRequired", "Required value: n is 1"),
    ],
)
def test_reason_and_message_expression(reason: str, text: str) -> None:
    found = judged("self.n != 1", {"n": 1}, OBJECT, reason=reason, messageExpression="'n is ' + string(self.n)")
    assert found == [text]


def test_a_message_expression_that_fails_gives_way_to_the_message() -> None:
    assert judged("false", {}, OBJECT, messageExpression="self.s") == ["Invalid value: no"]
    assert judged("false", {"s": "a\nb"}, OBJECT, messageExpression="self.s") == ["Invalid value: no"]
