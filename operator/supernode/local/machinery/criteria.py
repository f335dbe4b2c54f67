"""Label and field selectors: parsed once, asked often.

Flows in: the text of `labelSelector`/`fieldSelector`, or a metav1.LabelSelector. Flows out: values with `matches`.
Which fields a resource can be selected by is the server's knowledge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from supernode.local.machinery.refusals import BadRequestError

_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_PREFIX: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_VALUE: Final = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_TOKEN: Final = re.compile(r"\s*(==|!=|=|!|\(|\)|,|>|<|[^\s=!(),<>]+)")
_OPERATORS: Final = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!"}


def is_label_key(key: str) -> bool:
    """Whether a text is a qualified name: `[prefix/]name`."""
    prefix, slash, name = key.rpartition("/")
    if slash and (not prefix or len(prefix) > 253 or not _PREFIX.fullmatch(prefix)):
        return False
    return bool(_NAME.fullmatch(name)) and len(name) <= 63


def is_label_value(value: str) -> bool:
    """Whether a text may be the value of a label."""
    return bool(_VALUE.fullmatch(value)) and len(value) <= 63


@dataclass(frozen=True)
class Requirement:
    """One condition: key, operator (`=`, `!=`, `in`, `notin`, `exists`, `!`, `gt`, `lt`) and values."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a set of labels meets it."""
        value = labels.get(self.key)
        if self.operator in ("=", "in"):
            return value is not None and value in self.values
        if self.operator in ("!=", "notin"):
            return value is None or value not in self.values
        if self.operator in ("exists", "!"):
            return (value is not None) == (self.operator == "exists")
        try:
            number, bound = int(value or "none"), int(next(iter(self.values)))
        except ValueError:
            return False
        return number > bound if self.operator == "gt" else number < bound


@dataclass(frozen=True)
class LabelSelector:
    """All requirements have to hold; without any, everything matches (unless `nothing`)."""

    requirements: tuple[Requirement, ...] = ()
    nothing: bool = False

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        """Whether an object with these labels is selected."""
        have = labels or {}
        return not self.nothing and all(requirement.matches(have) for requirement in self.requirements)


@dataclass(frozen=True)
class FieldSelector:
    """(path, operator `=` or `!=`, value); a missing field counts as empty text."""

    requirements: tuple[tuple[str, str, str], ...] = ()

    def matches(self, obj: Mapping[str, Any]) -> bool:
        """Whether an object is selected."""
        return all((_field(obj, path) == value) == (sign == "=") for path, sign, value in self.requirements)


def _field(obj: Any, path: str) -> str:
    for name in path.split("."):
        obj = obj.get(name) if isinstance(obj, Mapping) else None
    if isinstance(obj, bool):
        return "true" if obj else "false"
    return "" if obj is None else str(obj)


def labels(text: str) -> LabelSelector:
    """Parse a label selector such as `a=b,c!=d,e in (f,g),!h`.

    Raises:
        BadRequestError: the text is not a selector, or a key or value is not allowed.
    """
    tokens = _tokens(text)
    requirements = []
    place = 0
    while place < len(tokens):
        requirement, place = _requirement(tokens, place, text)
        requirements.append(requirement)
        if place < len(tokens):
            if tokens[place] != "," or place + 1 == len(tokens):
                raise _unparsable(text, f"found '{tokens[place]}', expected: ',' or 'end of string'")
            place += 1
    return LabelSelector(tuple(requirements))


def _tokens(text: str) -> list[str]:
    tokens = []
    place = 0
    text = text.rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise _unparsable(text, f"nothing that can stand at position {place}")
        tokens.append(match.group(1))
        place = match.end()
    return tokens


def _unparsable(text: str, why: str) -> BadRequestError:
    return BadRequestError(f"unable to parse requirement: {why} (in {text!r})")


def _requirement(tokens: Sequence[str], place: int, text: str) -> tuple[Requirement, int]:
    absent = tokens[place] == "!"
    if absent:
        place += 1
    key = tokens[place] if place < len(tokens) else ""
    _check_key(key)
    place += 1
    following = tokens[place] if place < len(tokens) else ","
    if absent or following == ",":
        return Requirement(key, "!" if absent else "exists"), place
    place += 1
    if following in ("in", "notin"):
        values, place = _values(tokens, place, text)
        return Requirement(key, following, frozenset(values)), place
    if following not in ("=", "==", "!=", ">", "<"):
        raise _unparsable(text, f"found '{following}', expected: in, notin, =, ==, !=, gt, lt")
    value = ""
    if place < len(tokens) and tokens[place] != ",":
        value = tokens[place]
        place += 1
    if following in (">", "<"):
        if not re.fullmatch(r"[+-]?\d+", value):
            raise BadRequestError(
                f"values[0][{key}]: Invalid value: {value!r}: for 'Gt', 'Lt' operators, the value must be an integer"
            )
        return Requirement(key, "gt" if following == ">" else "lt", frozenset((value,))), place
    _check_value(key, value)
    return Requirement(key, "!=" if following == "!=" else "=", frozenset((value,))), place


def _values(tokens: Sequence[str], place: int, text: str) -> tuple[list[str], int]:
    if place >= len(tokens) or tokens[place] != "(":
        raise _unparsable(text, "expected: '('")
    values: list[str] = []
    place += 1
    expect_value = True
    while place < len(tokens) and tokens[place] != ")":
        if tokens[place] == ",":
            if expect_value:
                values.append("")
            expect_value = True
        elif expect_value:
            _check_value("", tokens[place])
            values.append(tokens[place])
            expect_value = False
        else:
            raise _unparsable(text, f"found '{tokens[place]}', expected: ',' or ')'")
        place += 1
    if place >= len(tokens):
        raise _unparsable(text, "expected: ',' or ')'")
    if expect_value:
        values.append("")
    return values, place + 1


def _check_key(key: str) -> None:
    if not is_label_key(key):
        raise BadRequestError(f'unable to parse requirement: <nil>: Invalid value: "{key}": not a label key')


def _check_value(key: str, value: str) -> None:
    if not is_label_value(value):
        raise BadRequestError(
            f'unable to parse requirement: values[0][{key}]: Invalid value: "{value}": not a label value'
        )


def from_object(selector: Mapping[str, Any] | None) -> LabelSelector:
    """A metav1.LabelSelector; None selects nothing, an empty one everything.

    Raises:
        BadRequestError: an unknown operator, or values where there should be none (or the other way round).
    """
    if selector is None:
        return LabelSelector(nothing=True)
    found = [Requirement(key, "=", frozenset((value,))) for key, value in (selector.get("matchLabels") or {}).items()]
    for expression in selector.get("matchExpressions") or ():
        operator = _OPERATORS.get(expression.get("operator", ""))
        values = expression.get("values") or []
        if operator is None:
            raise BadRequestError(f'"{expression.get("operator")}" is not a valid label selector operator')
        if (operator in ("in", "notin")) != bool(values):
            raise BadRequestError(f"matchExpressions: operator {expression['operator']} with {len(values)} values")
        _check_key(str(expression.get("key", "")))
        found.append(Requirement(expression["key"], operator, frozenset(values)))
    return LabelSelector(tuple(found))


def fields(text: str) -> FieldSelector:
    """Parse a field selector such as `metadata.name=a,status.phase!=Running` (backslash escapes `,`, `=` and itself).

    Raises:
        BadRequestError: a term without operator.
    """
    found = []
    for term in re.split(r"(?<!\\),", text):
        if not term:
            continue
        match = re.match(r"(.+?)(==|!=|=)(.*)", term, re.DOTALL)
        if match is None:
            raise BadRequestError(f"invalid selector: '{term}'; can't understand '{term}'")
        value = re.sub(r"\\([\\,=])", r"\1", match.group(3))
        found.append((match.group(1).strip(), "!=" if match.group(2) == "!=" else "=", value))
    return FieldSelector(tuple(found))
