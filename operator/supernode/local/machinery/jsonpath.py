"""The part of JSONPath that printer columns use: fields, indexes (negative too), slices, `*` and filters like
`?(@.type=="Ready")`."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from typing import Any, Final

Step = Callable[[Any], list[Any]]
_FIELD: Final = re.compile(r"(?:\\.|[^.\[\]\\])+")
_BRACKET: Final = re.compile(
    r"""\[\s*(?:'((?:\\.|[^'\\])*)'|"((?:\\.|[^"\\])*)"|(\*)|(-?\d+)|(-?\d*):(-?\d*)|\?\((.*?)\))\s*\]"""
)
_FILTER: Final = re.compile(r"""\s*@((?:\.[^=!<>\s]+)+|\.?)\s*(?:(==|!=|<=|>=|<|>)\s*(.+?))?\s*""")


def _field(name: str) -> Step:
    return lambda value: [value[name]] if isinstance(value, dict) and name in value else []


def _index(place: int) -> Step:
    def step(value: Any) -> list[Any]:
        return [value[place]] if isinstance(value, list) and -len(value) <= place < len(value) else []

    return step


def _slice(start: str, end: str) -> Step:
    part = slice(int(start) if start else None, int(end) if end else None)
    return lambda value: value[part] if isinstance(value, list) else []


def _all(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list) else []


def _filter(text: str) -> Step:
    match = _FILTER.fullmatch(text)
    if match is None:
        raise ValueError(f'{text!r} is not a filter like @.field=="value"')
    path, operator, literal = match.groups()
    inner = compiled(path if path.startswith(".") and path != "." else ".")
    if operator is None:
        return lambda value: [item for item in _all(value) if inner(item)]
    if literal.startswith("'"):
        literal = json.dumps(literal[1:-1])
    wanted = json.loads(literal)

    def holds(item: Any) -> bool:
        found = inner(item)
        if not found:
            return False
        have = found[0]
        if operator in ("==", "!="):
            return bool(have == wanted) == (operator == "==")
        try:
            return bool({"<": have < wanted, ">": have > wanted, "<=": have <= wanted, ">=": have >= wanted}[operator])
        except TypeError:
            return False

    return lambda value: [item for item in _all(value) if holds(item)]


@functools.lru_cache(maxsize=1024)
def compiled(path: str) -> Callable[[Any], list[Any]]:
    """A function from a value to everything that the path finds in it.

    Raises:
        ValueError: the path uses what is not supported here.
    """
    text = path.strip()
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    text = text.removeprefix("$")
    steps: list[Step] = []
    place = 0
    while place < len(text):
        if text[place] == "[":
            match = _BRACKET.match(text, place)
            if match is None:
                raise ValueError(f"{path!r}: cannot read what follows position {place}")
            single, double, star, index, start, end, condition = match.groups()
            if single is not None or double is not None:
                name = single if single is not None else double
                steps.append(_field(re.sub(r"\\(.)", r"\1", name)))
            elif star:
                steps.append(_all)
            elif index is not None:
                steps.append(_index(int(index)))
            elif condition is not None:
                steps.append(_filter(condition))
            else:
                steps.append(_slice(start, end))
            place = match.end()
            continue
        if text[place] == ".":
            place += 1
            if place == len(text):
                break
            if text[place] == "[":
                continue
        match = _FIELD.match(text, place)
        if match is None:
            raise ValueError(f"{path!r}: cannot read what follows position {place}")
        name = re.sub(r"\\(.)", r"\1", match.group(0))
        steps.append(_all if name == "*" else _field(name))
        place = match.end()

    def find(value: Any) -> list[Any]:
        found = [value]
        for step in steps:
            found = [result for item in found for result in step(item)]
        return found

    return find
