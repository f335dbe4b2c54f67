"""Label and field selectors, parsed once per request and asked once per object.

In: the query's text. Out: a predicate over objects. What a field selector may name depends on the kind
(`kinds.Kind.fields`); the check that a field is supported happens here too, because the message needs the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from supernode.local.server import statuses
from supernode.local.server.statuses import Object

_KEY = r"[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?"
_TERM = re.compile(
    rf"\s*(?:(?P<absent>!)\s*(?P<akey>{_KEY})"
    rf"|(?P<skey>{_KEY})\s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\)"
    rf"|(?P<key>{_KEY})\s*(?:(?P<op>==|=|!=|>|<)\s*(?P<value>[^,\s]*))?)\s*(?:,|$)"
)


@dataclass(frozen=True)
class Term:
    """One requirement: `operator` is one of exists, absent, in, notin, gt, lt."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether labels satisfy it."""
        value = labels.get(self.key)
        match self.operator:
            case "exists":
                return value is not None
            case "absent":
                return value is None
            case "in":
                return value is not None and value in self.values
            case "notin":
                return value is None or value not in self.values
        try:
            number, bound = int(value or ""), int(self.values[0])
        except ValueError:
            return False
        return number > bound if self.operator == "gt" else number < bound


def _term(match: re.Match[str]) -> Term:
    if match["absent"]:
        return Term(match["akey"], "absent")
    if match["set"]:
        return Term(match["skey"], match["set"], tuple(part.strip() for part in match["values"].split(",")))
    operator = {None: "exists", "=": "in", "==": "in", "!=": "notin", ">": "gt", "<": "lt"}[match["op"]]
    return Term(match["key"], operator, () if operator == "exists" else (match["value"],))


def parse_labels(text: str) -> tuple[Term, ...]:
    """The terms of a label selector.

    Raises:
        StatusError: 400, the text is not a label selector.
    """
    terms: list[Term] = []
    position = 0
    while position < len(text):
        match = _TERM.match(text, position)
        if match is None or match.end() == position:
            shown = text[position:].strip()
            raise statuses.bad_request(f"unable to parse requirement: found '{shown}', expected: a label selector")
        terms.append(_term(match))
        position = match.end()
    return tuple(terms)


def from_selector(selector: Mapping[str, Any] | None) -> tuple[Term, ...]:
    """The terms of a LabelSelector object (`matchLabels`, `matchExpressions`)."""
    found = selector or {}
    terms = [Term(key, "in", (value,)) for key, value in (found.get("matchLabels") or {}).items()]
    operators = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "absent"}
    for expression in found.get("matchExpressions") or ():
        values = tuple(expression.get("values") or ())
        terms.append(Term(expression["key"], operators[expression["operator"]], values))
    return tuple(terms)


def matches_labels(terms: tuple[Term, ...], obj: Object) -> bool:
    """Whether an object's labels satisfy every term."""
    labels = obj.get("metadata", {}).get("labels") or {}
    return all(term.holds(labels) for term in terms)


@dataclass(frozen=True)
class FieldTerm:
    """One field requirement."""

    path: str
    equal: bool
    value: str


def parse_fields(text: str) -> tuple[FieldTerm, ...]:
    """The terms of a field selector; a backslash escapes comma, equals sign and itself.

    Raises:
        StatusError: 400, the text is not a field selector.
    """
    terms: list[FieldTerm] = []
    for part in re.findall(r"(?:\\.|[^,\\])+", text):
        match = re.match(r"((?:\\.|[^=!\\])*)(==|=|!=)(.*)$", part)
        if match is None:
            raise statuses.bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        value = re.sub(r"\\(.)", r"\1", match[3])
        terms.append(FieldTerm(match[1].strip(), match[2] != "!=", value))
    return tuple(terms)


def field_value(obj: Object, path: str) -> str:
    """The value at a dotted path as a selector compares it: absent is empty, booleans are `true` and `false`."""
    value: Any = obj
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Selector:
    """Both selectors of a request; `readers` overrides how a field is read (a default, another place)."""

    labels: tuple[Term, ...] = ()
    fields: tuple[FieldTerm, ...] = ()
    readers: Mapping[str, Callable[[Object], str]] | None = None

    def __bool__(self) -> bool:
        return bool(self.labels or self.fields)

    def matches(self, obj: Object) -> bool:
        """Whether an object is selected."""
        if not matches_labels(self.labels, obj):
            return False
        readers = self.readers or {}
        for term in self.fields:
            read = readers.get(term.path)
            value = read(obj) if read else field_value(obj, term.path)
            if (value == term.value) != term.equal:
                return False
        return True

    @property
    def single_name(self) -> str | None:
        """The one name that can match, when the fields ask for `metadata.name=...`."""
        return next((term.value for term in self.fields if term.path == "metadata.name" and term.equal), None)


@dataclass(frozen=True)
class Selectable:
    """What a resource can be selected by."""

    api_version: str
    plural: str
    fields: frozenset[str]
    readers: Mapping[str, Callable[[Object], str]]

    def select(self, labels: str, fields: str) -> Selector:
        """The selector of a request.

        Raises:
            StatusError: 400, the text cannot be parsed or names a field that cannot be selected by.
        """
        terms = parse_fields(fields)
        for term in terms:
            if term.path not in self.fields:
                raise statuses.bad_request(
                    f'Unable to find "{self.api_version}, Resource={self.plural}" that match label selector '
                    f'"{labels}", field selector "{fields}": field label not supported: {term.path}'
                )
        return Selector(parse_labels(labels), terms, self.readers or None)
