"""Whether a value keeps to its schema: types, required fields, bounds, list keys, CEL rules; as causes in the real
server's words.

On an update, what did not change is not judged again (ratcheting): a stricter CRD does not lock older objects.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from supernode.local.machinery import cel_rules
from supernode.local.machinery.cel_rules import MISSING
from supernode.local.machinery.decode import DecodeError
from supernode.local.machinery.fieldset import text
from supernode.local.machinery.formats import FORMATS
from supernode.local.machinery.refusals import (
    DUPLICATE,
    INVALID,
    NOT_SUPPORTED,
    REQUIRED,
    TOO_LONG,
    TOO_MANY,
    TYPE_INVALID,
    Cause,
)
from supernode.local.machinery.schema import Bounds, Schema

NOWHERE: Final = "<nil>"
_BLOCKING: Final = frozenset((NOT_SUPPORTED, REQUIRED, TOO_LONG, TOO_MANY, TYPE_INVALID))
_UNCHECKED: Final = Cause(
    INVALID,
    "Invalid value: null: some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation",
    NOWHERE,
)


def custom(schema: Schema, new: Any, old: Any = MISSING, earlier: list[Cause] | None = None) -> list[Cause]:
    """What is wrong with a custom object; `earlier` are causes found before (in metadata), which come first."""
    causes = list(earlier or ())
    _value(schema, new, old, "", causes)
    _lists(schema, new, old, "", causes)
    if any(cause.reason in _BLOCKING for cause in causes):
        # Rules may rely on types and required fields, so they wait until those are right.
        return [*causes, _UNCHECKED]
    if schema.has_rules:
        _rules(schema, new, old, "", causes)
    return causes


def _name(value: Any) -> str:
    """The type of a value as the real server calls it."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "integer" if value.is_integer() else "number"
    if isinstance(value, str):
        return "string"
    if value is None:
        return "null"
    return "array" if isinstance(value, list) else "object"


def _matches(kind: str, value: Any) -> bool:
    if kind == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return _name(value) == kind


def _value(schema: Schema, value: Any, old: Any, path: str, causes: list[Cause]) -> None:
    if old is not MISSING and type(old) is type(value) and old == value:
        return
    if value is None:
        if not schema.nullable and schema.type:
            causes.append(_type_cause(path, schema.format or schema.type, "null"))
        return
    if schema.int_or_string:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            causes.append(_type_cause(path, "integer,string", _name(value)))
            return
    elif schema.type and not _matches(schema.type, value):
        _wrong_type(schema, value, path, causes)
        return
    if schema.bounds is not None:
        _bounds(schema, schema.bounds, value, path, causes)
    if isinstance(value, dict):
        _object(schema, value, old, path, causes)
    elif isinstance(value, list):
        if schema.items is not None:
            before = _correlated(schema, old)
            for index, item in enumerate(value):
                _value(schema.items, item, before(index, item), f"{path}[{index}]", causes)
    elif schema.format:
        _format(schema, value, path, causes)


def _wrong_type(schema: Schema, value: Any, path: str, causes: list[Cause]) -> None:
    """Where there is a format, the real server names it instead of the type, and Go's types of numbers."""
    kind, form = schema.type, schema.format
    if form and kind in ("integer", "string") and isinstance(value, (int, float, dict)):
        plain = isinstance(value, (bool, dict))
        causes.append(_type_cause(path, form, "" if plain else "float64" if isinstance(value, float) else "int64"))
        if kind == "integer" and not plain:
            _format_range(schema, path, causes)
    else:
        causes.append(_type_cause(path, kind, _name(value)))
    if schema.bounds is not None and schema.bounds.enum is not None:
        _enum(schema.bounds.enum, value, path, causes)


def _type_cause(path: str, wanted: str, found: str) -> Cause:
    where = path or NOWHERE
    return Cause(TYPE_INVALID, f'Invalid value: "{found}": {path} in body must be of type {wanted}: "{found}"', where)


def _object(schema: Schema, value: dict[str, Any], old: Any, path: str, causes: list[Cause]) -> None:
    prefix = f"{path}." if path else ""
    for name in schema.required:
        missing = name not in value or (value[name] is None and not _may_be_null(schema, name))
        if missing and not (
            old is not MISSING and isinstance(old, dict) and old.get(name, MISSING) is value.get(name, MISSING)
        ):
            causes.append(Cause(REQUIRED, "Required value", prefix + name))
    if schema.embedded:
        for name in ("apiVersion", "kind"):
            if not value.get(name):
                causes.append(Cause(REQUIRED, "Required value", prefix + name))
    before = old if isinstance(old, dict) else {}
    for name, item in value.items():
        child = schema.child(name)
        if child is None or child.source:
            continue  # unknown and preserved, or metadata (which is checked as such)
        if item is None and not child.nullable:
            continue  # counts as absent
        _value(child, item, before.get(name, MISSING), prefix + name, causes)


def _may_be_null(schema: Schema, name: str) -> bool:
    child = schema.child(name)
    return child is None or child.nullable or not child.type


def _correlated(schema: Schema, old: Any) -> Callable[[int, Any], Any]:
    """Finds the old element that a new one replaces: by key, by value, else by place."""
    if not isinstance(old, list):
        return lambda index, item: MISSING
    if schema.list_type == "map":
        known = {_key(schema, item): item for item in old if isinstance(item, dict)}
        return lambda index, item: known.get(_key(schema, item), MISSING) if isinstance(item, dict) else MISSING
    if schema.list_type == "set":
        texts = {text(item): item for item in old}
        return lambda index, item: texts.get(text(item), MISSING)
    return lambda index, item: MISSING


def _key(schema: Schema, item: dict[str, Any]) -> str:
    return text({name: item.get(name) for name in schema.map_keys})


def _shown(value: Any) -> str:
    """A value inside a message: JSON, whole numbers without a fraction."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _bounds(schema: Schema, bounds: Bounds, value: Any, path: str, causes: list[Cause]) -> None:
    if bounds.all_of or bounds.any_of or bounds.one_of or bounds.negated is not None:
        _junctors(bounds, value, path, causes)
    if bounds.enum is not None and _enum(bounds.enum, value, path, causes):
        return
    if isinstance(value, str):
        _text_bounds(bounds, value, path, causes)
    elif isinstance(value, bool):
        return
    elif isinstance(value, (int, float)):
        _number_bounds(bounds, value, path, causes)
    elif isinstance(value, list):
        _size("items", len(value), bounds.min_items, bounds.max_items, path, causes)
    elif isinstance(value, dict):
        _size("properties", len(value), bounds.min_properties, bounds.max_properties, path, causes)


def _enum(allowed: tuple[Any, ...], value: Any, path: str, causes: list[Cause]) -> bool:
    """Whether the value is not one of the allowed ones (then a cause says so)."""
    if any(value == item and isinstance(value, bool) == isinstance(item, bool) for item in allowed):
        return False
    listed = ", ".join(_shown(item) for item in allowed)
    causes.append(Cause(NOT_SUPPORTED, f"Unsupported value: {_shown(value)}: supported values: {listed}", path))
    return True


def _text_bounds(bounds: Bounds, value: str, path: str, causes: list[Cause]) -> None:
    if bounds.max_length is not None and len(value) > bounds.max_length:
        causes.append(Cause(TOO_LONG, f"Too long: may not be more than {bounds.max_length} bytes", path))
    elif bounds.min_length is not None and len(value) < bounds.min_length:
        why = f"{path} in body should be at least {bounds.min_length} chars long"
        causes.append(Cause(INVALID, f"Invalid value: {_shown(value)}: {why}", path))
    elif bounds.matcher is not None and not bounds.matcher.search(value):
        why = f"{path} in body should match '{bounds.pattern}'"
        causes.append(Cause(INVALID, f"Invalid value: {_shown(value)}: {why}", path))


def _number_bounds(bounds: Bounds, value: float, path: str, causes: list[Cause]) -> None:
    def wrong(why: str) -> None:
        causes.append(Cause(INVALID, f"Invalid value: {_shown(value)}: {path} in body should be {why}", path))

    factor = bounds.multiple_of
    if factor is not None:
        if isinstance(value, int) and not float(factor).is_integer():
            # The real server turns the factor of a whole number into a whole number first.
            if int(factor) <= 0:
                why = f"factor MultipleOf declared for {path} must be positive: {int(factor)}"
                causes.append(Cause(INVALID, f"Invalid value: {int(factor)}: {why}", path))
        elif factor and not float(value / factor).is_integer():
            wrong(f"a multiple of {_shown(factor)}")
    high, low = bounds.maximum, bounds.minimum
    if high is not None and (value > high or (bounds.exclusive_maximum and value == high)):
        wrong(f"less than {'' if bounds.exclusive_maximum else 'or equal to '}{_shown(high)}")
    if low is not None and (value < low or (bounds.exclusive_minimum and value == low)):
        wrong(f"greater than {'' if bounds.exclusive_minimum else 'or equal to '}{_shown(low)}")


def _size(what: str, count: int, low: int | None, high: int | None, path: str, causes: list[Cause]) -> None:
    where = path or NOWHERE
    if high is not None and count > high:
        causes.append(Cause(TOO_MANY, f"Too many: {count}: must have at most {high} items", where))
    if low is not None and count < low:
        causes.append(
            Cause(INVALID, f"Invalid value: {count}: {path} in body should have at least {low} {what}", where)
        )


def _count(causes: list[Cause]) -> int:
    return len(causes)


def _junctors(bounds: Bounds, value: Any, path: str, causes: list[Cause]) -> None:
    def attempt(part: Schema) -> list[Cause]:
        found: list[Cause] = []
        _value(part, value, MISSING, path, found)
        return found

    def failed(why: str) -> None:
        causes.append(Cause(INVALID, f'Invalid value: "": "{path}" {why}', NOWHERE))

    if bounds.any_of:
        results = [attempt(part) for part in bounds.any_of]
        if all(results):
            failed("must validate at least one schema (anyOf)")
            causes.extend(sorted(results, key=_count)[0])
    if bounds.one_of:
        results = [attempt(part) for part in bounds.one_of]
        valid = sum(not result for result in results)
        if valid != 1:
            found = "none valid" if not valid else f"{valid} valid alternatives"
            failed(f"must validate one and only one schema (oneOf). Found {found}")
            if not valid:
                causes.extend(sorted(results, key=_count)[0])
    if bounds.all_of:
        results = [attempt(part) for part in bounds.all_of]
        if any(results):
            none = " None validated" if all(results) else ""
            failed(f"must validate all the schemas (allOf).{none}")
            causes.extend(cause for result in results for cause in result)
    if bounds.negated is not None and not attempt(bounds.negated):
        failed("must not validate the schema (not)")


def _format_range(schema: Schema, path: str, causes: list[Cause]) -> None:
    why = f"Checked value must be of type integer with format {schema.format} in {path}"
    causes.append(Cause(INVALID, f'Invalid value: "": {why}', NOWHERE))


def _format(schema: Schema, value: Any, path: str, causes: list[Cause]) -> None:
    form = schema.format
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        limit = {"int32": 2**31, "int64": 2**63}.get(form)
        if limit is not None and not -limit <= value < limit:
            _format_range(schema, path, causes)
        return
    test = FORMATS.get(form)
    if test is None or not isinstance(value, str):
        return
    try:
        good = test(value)
    except (ValueError, DecodeError):
        good = False
    if not good:
        why = f"{path} in body must be of type {form}: {_shown(value)}"
        causes.append(Cause(TYPE_INVALID, f"Invalid value: {_shown(value)}: {why}", path))


def _lists(schema: Schema, value: Any, old: Any, path: str, causes: list[Cause]) -> None:
    """Elements of sets and maps that stand twice."""
    if old is not MISSING and type(old) is type(value) and old == value:
        return
    if isinstance(value, dict):
        before = old if isinstance(old, dict) else {}
        for name, item in value.items():
            child = schema.child(name)
            if child is not None and not child.source and isinstance(item, (dict, list)):
                _lists(child, item, before.get(name, MISSING), f"{path}.{name}" if path else name, causes)
    elif isinstance(value, list):
        seen: set[str] = set()
        for index, item in enumerate(value):
            if schema.list_type == "map" and item is not None and not isinstance(item, dict) and index == 0:
                why = f"Invalid value: {_shown(item)}: must be an object for an array of list-type map"
                causes.append(Cause(INVALID, why, f"{path}[{index}]"))
            if schema.list_type == "set":
                identity = text(item)
            elif schema.list_type == "map" and isinstance(item, dict):
                identity = text({name: item[name] for name in schema.map_keys if name in item})
            else:
                identity = ""
            if identity and identity in seen:
                causes.append(Cause(DUPLICATE, f"Duplicate value: {identity}", f"{path}[{index}]"))
            seen.add(identity)
            if schema.items is not None and isinstance(item, (dict, list)):
                _lists(schema.items, item, MISSING, f"{path}[{index}]", causes)


def _rules(schema: Schema, value: Any, old: Any, path: str, causes: list[Cause]) -> None:
    """CEL rules here and below. Unchanged values only meet transition rules."""
    if value is None:
        return
    unchanged = old is not MISSING and type(old) is type(value) and old == value
    if schema.rules and not unchanged:
        cel_rules.evaluate(schema, value, old, path, causes)
    if unchanged:
        return
    prefix = f"{path}." if path else ""
    if isinstance(value, dict):
        before = old if isinstance(old, dict) else {}
        for name, item in value.items():
            child = schema.child(name)
            if child is not None and child.has_rules:
                _rules(child, item, before.get(name, MISSING), prefix + name, causes)
    elif isinstance(value, list) and schema.items is not None and schema.items.has_rules:
        find = _correlated(schema, old) if schema.list_type == "map" else lambda index, item: MISSING
        for index, item in enumerate(value):
            _rules(schema.items, item, find(index, item), f"{path}[{index}]", causes)


def builtin(schema: Schema, value: Any, path: str = "") -> list[Cause]:
    """Required fields and enumerations of a built-in object (its types were checked when it was decoded)."""
    causes: list[Cause] = []
    _builtin(schema, value, path, causes)
    return causes


# Required by the schema, yet filled in by the server: (definition, field).
_FILLED: Final = frozenset(
    {
        ("api.rbac.v1.RoleRef", "apiGroup"),
        ("api.core.v1.Event", "metadata"),
        ("api.events.v1.Event", "eventTime"),
        ("api.batch.v1.PodFailurePolicyOnPodConditionsPattern", "status"),
        ("api.rbac.v1.PolicyRule", "verbs"),
        ("api.core.v1.ResourceFieldSelector", "divisor"),
        ("api.core.v1.LimitRangeSpec", "limits"),
    }
)


def _builtin(schema: Schema, value: Any, path: str, causes: list[Cause]) -> None:
    if isinstance(value, dict):
        prefix = f"{path}." if path else ""
        for name in schema.required:
            have = value.get(name)
            if (have is None or have in ("", [], {})) and (schema.source, name) not in _FILLED:
                child = schema.properties[name]
                if child.type in ("integer", "boolean", "number") or path.startswith("status"):
                    continue
                # A struct or free-form value that is there may be empty.
                if not (name in value and child.type == "object" and (child.properties or child.open)):
                    causes.append(Cause(REQUIRED, "Required value", prefix + name))
        for name, item in value.items():
            below = schema.child(name)
            if below is None or name == "status" or (not path and name == "metadata"):
                continue
            if isinstance(item, (dict, list)):
                _builtin(below, item, prefix + name if below is not schema.additional else f"{path}[{name}]", causes)
            elif below.bounds is not None and below.bounds.enum and item not in ("", *below.bounds.enum):
                listed = ", ".join(_shown(choice) for choice in below.bounds.enum)
                causes.append(
                    Cause(
                        NOT_SUPPORTED, f"Unsupported value: {_shown(item)}: supported values: {listed}", prefix + name
                    )
                )
    elif isinstance(value, list) and schema.items is not None:
        for index, item in enumerate(value):
            if isinstance(item, dict):
                _builtin(schema.items, item, f"{path}[{index}]", causes)
