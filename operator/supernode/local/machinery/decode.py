"""From decoded JSON to an object of a kind: types, unknown fields, pruning, zero values, defaults.

Built-in kinds are read as the real server's Go types read them: a wrong type is refused, null and empty optional lists
and maps vanish, quantities become canonical, structs that are always written appear as `{}`. Custom kinds are pruned
to their structural schema and defaulted; their types are checked later, by `check`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from supernode.local.machinery.amounts import canonical
from supernode.local.machinery.schema import NOTHING, Schema

_RANGES: Final = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1), "": (-(2**63), 2**63 - 1)}
_MICRO: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}(Z|[+-]\d{2}:\d{2})")
_TIME: Final = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})")
_GO_TYPES: Final = {"object": "map[string]interface {}", "array": "[]interface {}", "boolean": "bool"}
_ZERO: Final = {"string": "", "integer": 0, "number": 0, "boolean": False}


class DecodeError(Exception):
    """A value that the field's type cannot take; turned into a BadRequestError by `kinds`."""


def json_type(value: Any) -> str:
    """The JSON name of a value's type."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "string"
    if value is None:
        return "null"
    return "array" if isinstance(value, list) else "object"


def convert(schema: Schema, value: Any, path: str, unknown: Callable[[str], None], *, status: bool = False) -> Any:
    """A value of a built-in kind, as the real server would hold it; in a `status` required fields are filled in."""
    kind = schema.type
    if kind == "object" and schema.properties:
        return _struct(schema, value, path, unknown, status)
    if kind == "object":
        if not isinstance(value, dict):
            raise _mismatch(schema, value, path)
        if schema.additional is None:
            return value
        inner = schema.additional
        return {
            name: _zero(inner) if item is None else convert(inner, item, f"{path}.{name}", unknown, status=status)
            for name, item in value.items()
        }
    if kind == "array":
        if not isinstance(value, list):
            raise _mismatch(schema, value, path)
        if schema.items is None:
            return value
        inner = schema.items
        return [
            _zero(inner) if item is None else convert(inner, item, f"{path}[{index}]", unknown, status=status)
            for index, item in enumerate(value)
        ]
    return _scalar(schema, value, path)


def _struct(schema: Schema, value: Any, path: str, unknown: Callable[[str], None], status: bool) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _mismatch(schema, value, path)
    result: dict[str, Any] = {}
    properties = schema.properties
    for name, item in value.items():
        child = properties.get(name)
        place = f"{path}.{name}" if path else name
        if child is None:
            unknown(place)
            continue
        if item is None:
            continue
        below = status or place == "status"
        converted = convert(child, item, place, unknown, status=below)
        if (converted == [] or (converted == {} and not child.properties and not child.preserve_unknown)) and (
            name not in schema.required
        ):
            continue
        result[name] = converted
    _fill(schema, result, status or path == "status")
    return result


def _fill(schema: Schema, result: dict[str, Any], status: bool) -> None:
    """Structs that Go always writes, and in a status the required scalars too."""
    for name, child in schema.properties.items():
        if name in result or child.default is NOTHING:
            continue
        if child.default == {} and child.properties:
            filled: dict[str, Any] = {}
            _fill(child, filled, status or name == "status")
            result[name] = filled
        elif status and name in schema.required:
            result[name] = child.default


def _zero(schema: Schema) -> Any:
    return {} if schema.type == "object" else [] if schema.type == "array" else _ZERO.get(schema.type, "")


def _scalar(schema: Schema, value: Any, path: str) -> Any:
    kind, form = schema.type, schema.format
    if form == "quantity":
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            try:
                return canonical(value)
            except ValueError as exc:
                raise DecodeError(str(exc)) from exc
    elif schema.int_or_string:
        if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
            return value
    elif kind == "string":
        if isinstance(value, str):
            return _text(schema, value, path)
    elif kind == "boolean":
        if isinstance(value, bool):
            return value
    elif kind == "integer":
        if isinstance(value, int) and not isinstance(value, bool):
            low, high = _RANGES.get(form, _RANGES[""])
            if low <= value <= high:
                return value
            raise DecodeError(
                f"json: cannot unmarshal number {value} into Go struct field {path} of type {form or 'int'}"
            )
    elif kind == "number":
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return value
    else:
        return value
    raise _mismatch(schema, value, path)


def _text(schema: Schema, value: str, path: str) -> str:
    if schema.format == "date-time":
        return normal_time(value, micro=schema.source.endswith("MicroTime"))
    if schema.format == "byte":
        try:
            base64.b64decode(value, validate=True)
        except binascii.Error as exc:
            raise DecodeError(f"illegal base64 data in {path}") from exc
    return value


def normal_time(value: str, *, micro: bool = False) -> str:
    """An RFC 3339 time in UTC, to the second (or microsecond), as the real server writes it."""
    try:
        if not (_MICRO if micro else _TIME).fullmatch(value):
            raise ValueError
        moment = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", value.upper())).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise DecodeError(
            f'parsing time "{value}" as "2006-01-02T15:04:05{".000000" if micro else ""}Z07:00": cannot parse it'
        ) from exc
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + (f".{moment.microsecond:06d}Z" if micro else "Z")


def _mismatch(schema: Schema, value: Any, path: str) -> DecodeError:
    wanted = schema.format or _GO_TYPES.get(schema.type, schema.type) or "value"
    if schema.properties:
        wanted = schema.source.removeprefix("api.").rsplit(".", 2)[-1]
        wanted = f"v1.{wanted}"
    found = json_type(value)
    return DecodeError(f"json: cannot unmarshal {found} into Go struct field {path} of type {wanted}")


def prune(schema: Schema, value: Any, path: str, unknown: Callable[[str], None]) -> Any:
    """A custom object without the fields and nulls that its structural schema does not allow."""
    if isinstance(value, dict):
        if schema.additional is not None:
            inner = schema.additional
            return {
                name: prune(inner, item, f"{path}.{name}", unknown)
                for name, item in value.items()
                if item is not None or inner.nullable or inner.open
            }
        properties = schema.properties
        result = {}
        for name, item in value.items():
            child = properties.get(name)
            if child is not None:
                if item is None and not child.nullable and not child.open:
                    continue  # a null that may not be one counts as absent
                simple = not isinstance(item, (dict, list))
                result[name] = item if simple else prune(child, item, f"{path}.{name}" if path else name, unknown)
            elif schema.preserve_unknown:
                result[name] = item
            else:
                unknown(f"{path}.{name}" if path else name)
        return result
    if isinstance(value, list) and schema.items is not None:
        inner = schema.items
        return [prune(inner, item, f"{path}[{index}]", unknown) for index, item in enumerate(value)]
    return value


def fill_defaults(schema: Schema, value: Any) -> Any:
    """A custom object with its defaults; a null that may not be one gives way to the default."""
    if not schema.has_defaults:
        return value
    if isinstance(value, dict):
        result = value
        for name, child in schema.properties.items():
            if child.default is NOTHING:
                continue
            if name not in value or (value[name] is None and not child.nullable):
                if result is value:
                    result = dict(value)
                result[name] = _copied(child.default)
        for name, item in list(result.items()):
            below = schema.child(name)
            if below is not None and below.has_defaults and isinstance(item, (dict, list)):
                filled = fill_defaults(below, item)
                if filled is not item:
                    if result is value:
                        result = dict(value)
                    result[name] = filled
        return result
    if isinstance(value, list) and schema.items is not None and schema.items.has_defaults:
        inner = schema.items
        filled_items = [fill_defaults(inner, item) for item in value]
        return filled_items if any(a is not b for a, b in zip(filled_items, value, strict=True)) else value
    return value


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value
