"""Whether an applied configuration fits its schema closely enough for its fields to be owned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from supernode.local.machinery.fieldset import render, text
from supernode.local.machinery.refusals import BadRequestError, UntypedError
from supernode.local.machinery.schema import ANY, Schema
from supernode.local.machinery.typed import element, is_associative


def require(schema: Schema, config: dict[str, Any], api_version: str) -> None:
    """Refuse a configuration that does not fit.

    Raises:
        UntypedError: fields that the schema lacks, wrong types, lists that break their own keys.
    """
    problems = list(_problems(schema, config, ""))
    if problems:
        metadata = config.get("metadata")
        found = metadata if isinstance(metadata, dict) else {}
        group_version = api_version if "/" in api_version else f"/{api_version}"
        where = f"{found.get('namespace', '')}/{found.get('name', '')}; {group_version}, Kind={config.get('kind', '')}"
        raise UntypedError(where, problems)


def _problems(schema: Schema, value: Any, path: str) -> Iterator[str]:
    if value is None or (schema.open and schema.preserve_unknown):
        return
    if schema.int_or_string:
        if not isinstance(value, (str, int, float)):
            yield f"{path}: expected a scalar, got {text(value)}"
    elif schema.type == "object":
        if isinstance(value, dict):
            yield from _map_problems(schema, value, path)
        else:
            yield f"{path}: expected map, got {text(value)}"
    elif schema.type == "array":
        if isinstance(value, list):
            yield from _list_problems(schema, value, path)
        else:
            yield f"{path}: expected list, got {text(value)}"
    else:
        yield from _scalar_problems(schema.type, value, path)


_GO_TYPES: Final = {str: "string", bool: "bool", list: "list"}


def _go_value(value: Any) -> str:
    """As Go prints a value whose type has no words of its own."""
    plain = str(value).lower() if isinstance(value, bool) else str(value)
    return f"&value.valueUnstructured{{Value:{plain}}}" if isinstance(value, (int, float)) else text(value)


def _scalar_problems(kind: str, value: Any, path: str) -> Iterator[str]:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "string" and not isinstance(value, str):
        yield f"{path}: expected string, got {_go_value(value)}"
    elif kind in ("integer", "number") and not number:
        yield f"{path}: expected numeric (int or float), got {_GO_TYPES.get(type(value), 'map')}"
    elif kind == "boolean" and not isinstance(value, bool):
        yield f"{path}: expected boolean, got {text(value)}"


def _map_problems(schema: Schema, value: dict[str, Any], path: str) -> Iterator[str]:
    for name, item in value.items():
        child = schema.child(name)
        if child is not None:
            yield from _problems(child, item, f"{path}.{name}")
        elif not schema.preserve_unknown and not schema.open:
            yield f"{path}.{name}: field not declared in schema"


def _list_problems(schema: Schema, value: list[Any], path: str) -> Iterator[str]:
    seen: set[str] = set()
    for index, item in enumerate(value):
        place = f"{path}[{index}]"
        if is_associative(schema):
            try:
                name = element(schema, item)
            except BadRequestError as exc:
                yield f"{path}: element {index}: {exc.message}"
                continue
            if name in seen:
                yield f"{path}: duplicate entries for key {render((name,))}"
            seen.add(name)
            place = path + render((name,))
        yield from _problems(schema.items or ANY, item, place)
