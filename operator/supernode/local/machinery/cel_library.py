"""What Kubernetes adds to CEL: functions on text, lists, quantities, addresses and optionals, for cel-python.

A method call reaches a function with its receiver as the first argument, so one function serves both forms.
Optional syntax is turned into calls by `rewrite`: `a.?b` becomes `a.optionalField("b")`.
"""

from __future__ import annotations

import functools
import ipaddress
import math
import re
from collections.abc import Callable
from typing import Any, Final

import re2
from celpy import celtypes

from supernode.local.machinery.amounts import parse

Bool = celtypes.BoolType
Int = celtypes.IntType
Text = celtypes.StringType
Listed = celtypes.ListType


# re2 would write broken patterns to standard error.
QUIET: Final = re2.Options()
QUIET.log_errors = False


class Namespace:
    """Stands for `sets` in `sets.contains(a, b)`: functions know by it that no list was the receiver."""


class OptionalValue:
    """An optional: a value or nothing."""

    def __init__(self, value: Any = None) -> None:
        self.value = value


@functools.total_ordering
class Quantity:
    """A Kubernetes quantity inside CEL."""

    def __init__(self, text: str) -> None:
        self.value, _ = parse(text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quantity) and self.value == other.value

    def __lt__(self, other: Quantity) -> bool:
        return self.value < other.value

    def __hash__(self) -> int:
        return hash(self.value)


VARIABLES: Final[dict[str, Any]] = {"sets": Namespace(), "optional": Namespace()}
_OPTIONAL: Final = re.compile(r"\.\?([A-Za-z_][A-Za-z0-9_]*)")
_CLAUSE: Final = re.compile(r"%(?:%|(\.[0-9]+)?([sdfeboxX]))")
_LITERAL: Final = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')""")


def rewrite(text: str) -> str:
    """Optional field selection as a call that the parser knows; text in quotes stays."""
    parts = _LITERAL.split(text)
    return "".join(p if i % 2 else _OPTIONAL.sub(r'.optionalField("\1")', p) for i, p in enumerate(parts))


def _error(text: str) -> ValueError:
    # cel-python turns it into an error value, which && and || may absorb.
    return ValueError(text)


def _quantity(text: Any) -> Quantity:
    try:
        return Quantity(str(text))
    except ValueError as exc:
        raise _error(str(exc)) from exc


def _is_quantity(text: Any) -> Any:
    try:
        parse(str(text))
    except ValueError:
        return Bool(False)
    return Bool(True)


def _made(value: Any) -> Quantity:
    result = Quantity("0")
    result.value = value
    return result


def _amount(other: Any) -> Any:
    return other.value if isinstance(other, Quantity) else int(other)


def _as_integer(value: Quantity) -> Any:
    if value.value.denominator != 1:
        raise _error("cannot convert value to integer")
    return Int(int(value.value))


def _index_of(where: Any, what: Any, start: Any = 0) -> Any:
    if isinstance(where, str):
        return Int(where.find(str(what), int(start)))
    return Int(next((i for i, item in enumerate(where) if item == what), -1))


def _last_index_of(where: Any, what: Any) -> Any:
    if isinstance(where, str):
        return Int(where.rfind(str(what)))
    return Int(next((i for i in range(len(where) - 1, -1, -1) if where[i] == what), -1))


def _char_at(text: Any, place: Any) -> Any:
    if not 0 <= int(place) <= len(text):
        raise _error(f"index out of range: {int(place)}")
    return Text(text[int(place) : int(place) + 1])


def _substring(text: Any, start: Any, end: Any = None) -> Any:
    stop = len(text) if end is None else int(end)
    if not 0 <= int(start) <= stop <= len(text):
        raise _error(f"index out of range: {int(start)}..{stop}")
    return Text(text[int(start) : stop])


def _replace(text: Any, old: Any, new: Any, limit: Any = -1) -> Any:
    return Text(str(text).replace(str(old), str(new), int(limit)))


def _split(text: Any, separator: Any, limit: Any = -1) -> Any:
    count = int(limit)
    if count == 0:
        return Listed([])
    parts = list(str(text)) if separator == "" else str(text).split(str(separator), -1 if count < 0 else count - 1)
    return Listed([Text(part) for part in parts])


def _join(parts: Any, separator: Any = "") -> Any:
    return Text(str(separator).join(str(part) for part in parts))


def _format(text: Any, values: Any) -> Any:
    """`'%d of %s'.format([1, 'x'])`, as Go's verbs: s d f e b o x X, with a precision for f and e."""
    given = iter(values)

    def one(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        value = next(given, None)
        if value is None:
            raise _error("index out of range")
        if match[2] == "s":
            return str(bool(value)).lower() if isinstance(value, Bool) else str(value)
        return format(float(value) if match[2] in "fe" else int(value), f"{match[1] or ''}{match[2]}")

    return Text(_CLAUSE.sub(one, str(text)))


def _find(text: Any, pattern: Any) -> Any:
    match = _pattern(pattern).search(str(text))
    return Text(match.group(0) if match else "")


def _find_all(text: Any, pattern: Any, limit: Any = -1) -> Any:
    found = [Text(match.group(0)) for match in _pattern(pattern).finditer(str(text))]
    return Listed(found if int(limit) < 0 else found[: int(limit)])


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str) -> Any:
    return re2.compile(pattern, QUIET)


def _pattern(pattern: Any) -> Any:
    try:
        return _compiled(str(pattern))
    except re2.error as exc:
        raise _error(f"illegal regular expression {str(pattern)!r}") from exc


def _sum(items: Any) -> Any:
    if not items:
        return Int(0)
    total = items[0]
    for item in items[1:]:
        total = total + item
    return total


def _least(items: Any) -> Any:
    if not items:
        raise _error("min called on empty list")
    return min(items)


def _greatest(items: Any) -> Any:
    if not items:
        raise _error("max called on empty list")
    return max(items)


def _is_sorted(items: Any) -> Any:
    return Bool(all(not items[i + 1] < items[i] for i in range(len(items) - 1)))


def _contains(where: Any, first: Any, second: Any = None) -> Any:
    if isinstance(where, Namespace):
        return Bool(all(any(item == have for have in first) for item in second))
    if isinstance(where, str):
        return Bool(str(first) in str(where))
    return Bool(any(item == first for item in where))


def _equivalent(_sets: Any, one: Any, two: Any) -> Any:
    return Bool(bool(_contains(_sets, one, two)) and bool(_contains(_sets, two, one)))


def _intersects(_sets: Any, one: Any, two: Any) -> Any:
    return Bool(any(item == have for item in one for have in two))


def _is_ip(text: Any, version: Any = None) -> Any:
    try:
        address = ipaddress.ip_address(str(text))
    except ValueError:
        return Bool(False)
    return Bool(version is None or address.version == int(version))


def _is_cidr(text: Any) -> Any:
    try:
        ipaddress.ip_network(str(text), strict=False)
    except ValueError:
        return Bool(False)
    return Bool("/" in str(text))


def _optional_field(receiver: Any, name: Any) -> OptionalValue:
    if isinstance(receiver, OptionalValue):
        receiver = receiver.value
    if isinstance(receiver, dict) and name in receiver:
        return OptionalValue(receiver[name])
    return OptionalValue()


def _value(optional: OptionalValue) -> Any:
    if optional.value is None:
        raise _error("optional.none() dereference")
    return optional.value


def _rounded(how: Callable[[float], float]) -> Callable[[Any], Any]:
    return lambda number: celtypes.DoubleType(how(float(number)))


_TABLE: Final[dict[str, Callable[..., Any]]] = {
    # quantities
    "quantity": _quantity,
    "isQuantity": _is_quantity,
    "isInteger": lambda q: Bool(q.value.denominator == 1 and abs(q.value) < 2**63),
    "asInteger": _as_integer,
    "asApproximateFloat": lambda q: celtypes.DoubleType(float(q.value)),
    "sign": lambda q: Int((q.value > 0) - (q.value < 0)),
    "add": lambda q, other: _made(q.value + _amount(other)),
    "sub": lambda q, other: _made(q.value - _amount(other)),
    "isLessThan": lambda q, other: Bool(q.value < other.value),
    "isGreaterThan": lambda q, other: Bool(q.value > other.value),
    "compareTo": lambda q, other: Int((q.value > other.value) - (q.value < other.value)),
    # text
    "charAt": _char_at,
    "indexOf": _index_of,
    "lastIndexOf": _last_index_of,
    "lowerAscii": lambda text: Text("".join(c.lower() if c.isascii() else c for c in text)),
    "upperAscii": lambda text: Text("".join(c.upper() if c.isascii() else c for c in text)),
    "replace": _replace,
    "split": _split,
    "join": _join,
    "format": _format,
    "substring": _substring,
    "trim": lambda text: Text(str(text).strip()),
    "reverse": lambda text: Text(str(text)[::-1]),
    "find": _find,
    "findAll": _find_all,
    # lists and sets
    "sum": _sum,
    "min": _least,
    "max": _greatest,
    "isSorted": _is_sorted,
    "contains": _contains,
    "equivalent": _equivalent,
    "intersects": _intersects,
    # addresses
    "isIP": _is_ip,
    "isCIDR": _is_cidr,
    # optionals
    "optionalField": _optional_field,
    "hasValue": lambda optional: Bool(optional.value is not None),
    "value": _value,
    "orValue": lambda optional, other: other if optional.value is None else optional.value,
    "none": lambda _optional: OptionalValue(),
    "of": lambda _optional, value: OptionalValue(value),
    # numbers
    "ceil": _rounded(math.ceil),
    "floor": _rounded(math.floor),
}


def functions() -> dict[str, Callable[..., Any]]:
    """The functions by name, as cel-python takes them."""
    return dict(_TABLE)
