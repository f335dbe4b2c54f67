"""Strategic merge patch for built-in kinds.

Lists with a merge key are merged element by element, and directives steer it: `$patch: replace|delete` in a map or
list element, `$retainKeys`, `$deleteFromPrimitiveList/<field>` and `$setElementOrder/<field>`. What is to be merged
and by which key comes from the kind's `Schema` (patch strategy and merge key). The object is never changed in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from supernode.local.machinery.refusals import BadRequestError
from supernode.local.machinery.schema import ANY, Schema

PATCH: Final = "$patch"
RETAIN: Final = "$retainKeys"
DELETE_LIST: Final = "$deleteFromPrimitiveList/"
ORDER: Final = "$setElementOrder/"


def strategic_merge(schema: Schema, obj: Any, patch: Any) -> Any:
    """Apply a strategic merge patch.

    Raises:
        BadRequestError: the patch is not an object, or uses a directive wrongly.
    """
    if not isinstance(patch, dict):
        raise BadRequestError("a strategic merge patch is an object")
    return _merge_map(schema, obj if isinstance(obj, dict) else {}, patch)


def _merge_map(schema: Schema, original: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    directive = patch.get(PATCH)
    if directive is not None:
        if directive == "replace":
            return {name: value for name, value in patch.items() if name != PATCH}
        if directive == "delete":
            return {}
        if directive != "merge":
            raise BadRequestError(f"unknown {PATCH} type {directive!r}: replace, delete and merge exist")
    result = dict(original)
    if RETAIN in patch:
        _retain(result, patch)
    orders = {name.removeprefix(ORDER): order for name, order in patch.items() if name.startswith(ORDER)}
    for name, order in orders.items():
        _ordered(schema, result, patch, name, order)
    for name, value in patch.items():
        if name in (PATCH, RETAIN) or name.startswith(ORDER) or name in orders:
            continue
        if name.startswith(DELETE_LIST):
            _delete_from(result, name.removeprefix(DELETE_LIST), value)
        elif value is None:
            result.pop(name, None)
        elif name not in result and isinstance(value, dict) and PATCH in value:
            continue  # as the real server: a directive about something that is not there
        elif name not in result or type(result[name]) is not type(value):
            result[name] = _plain(value)
        else:
            result[name] = _merge_value(schema.child(name) or ANY, result[name], value)
    return result


def _merge_value(schema: Schema, original: Any, value: Any) -> Any:
    if isinstance(value, dict):
        return _plain(value) if "replace" in schema.patch_strategy else _merge_map(schema, original, value)
    if isinstance(value, list) and "merge" in schema.patch_strategy:
        merged, rest = _merge_list(schema, original, value)
        return rest if merged is None else _arrange(schema, merged, rest, original)
    return value


def _retain(result: dict[str, Any], patch: dict[str, Any]) -> None:
    keys = patch[RETAIN]
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise BadRequestError(f"{RETAIN} is a list of field names")
    extra = [n for n, v in patch.items() if not n.startswith("$") and v is not None and n not in keys]
    if extra:
        raise BadRequestError(f"{RETAIN} has to hold every field of the patch, it lacks {', '.join(extra)}")
    for name in [name for name in result if name not in keys]:
        del result[name]


def _delete_from(result: dict[str, Any], name: str, values: Any) -> None:
    if not isinstance(values, list):
        raise BadRequestError(f"{DELETE_LIST}{name} is a list")
    if isinstance(result.get(name), list):
        result[name] = [item for item in result[name] if item not in values]


def _ordered(schema: Schema, result: dict[str, Any], patch: dict[str, Any], name: str, order: Any) -> None:
    """Merge list `name`, then put its elements into the order that the patch states."""
    if not isinstance(order, list):
        raise BadRequestError(f"{ORDER}{name} is a list")
    field = schema.child(name) or ANY
    original, value = result.get(name), patch.get(name)
    if value is None:
        if name in patch:
            result.pop(name, None)
            return
        if not isinstance(original, list):
            return
        merged: list[Any] | None = list(original)
    elif not isinstance(value, list):
        raise BadRequestError(f"{name}: the patch has to be a list, as {ORDER}{name} says")
    else:
        merged, rest = _merge_list(field, original if isinstance(original, list) else [], value)
        if merged is None:
            result[name] = rest
            return
    result[name] = _arrange(field, merged or [], order, original if isinstance(original, list) else [])


def _merge_list(schema: Schema, original: list[Any], patch: list[Any]) -> tuple[list[Any] | None, list[Any]]:
    """(merged, patch without directives); merged is None when the patch replaces the list."""
    key = schema.merge_key
    if not key or not any(isinstance(item, dict) for item in (*original, *patch)):
        return [*original, *(item for item in patch if item not in original)], patch
    result = list(original)
    plain = []
    replace = False
    for item in patch:
        if not isinstance(item, dict):
            raise BadRequestError(f"a list with merge key {key!r} holds objects only")
        directive = item.get(PATCH)
        if directive == "replace":
            replace = True
        elif directive == "delete":
            if key not in item:
                raise BadRequestError(f"a list element with {PATCH}: delete needs its merge key {key!r}")
            result = [old for old in result if not (isinstance(old, dict) and old.get(key) == item[key])]
        elif directive is not None:
            raise BadRequestError(f"{PATCH}: {directive!r} does not exist for list elements")
        else:
            plain.append(item)
    if replace:
        return None, [_plain(item) for item in plain]
    for item in plain:
        if key not in item:
            raise BadRequestError(f"map: {item} does not contain declared merge key: {key}")
        place = next((i for i, old in enumerate(result) if isinstance(old, dict) and old.get(key) == item[key]), -1)
        if place < 0:
            result.append(_plain(item))
        else:
            result[place] = _merge_map(schema.items or ANY, result[place], item)
    return result, plain


def _arrange(schema: Schema, merged: list[Any], order: list[Any], original: list[Any]) -> list[Any]:
    """Elements named by `order` in that order; the others keep their place among those of the original list."""
    key = schema.merge_key

    def identity(item: Any) -> Any:
        value = item.get(key) if key and isinstance(item, dict) else item
        return repr(value)

    wanted = {identity(item): index for index, item in reversed(list(enumerate(order)))}
    known = {identity(item): index for index, item in reversed(list(enumerate(original)))}
    listed = sorted((item for item in merged if identity(item) in wanted), key=lambda item: wanted[identity(item)])
    others = [item for item in merged if identity(item) not in wanted]
    others.sort(key=lambda item: known.get(identity(item), len(known)))
    return _interleave(others, listed, lambda item: known.get(identity(item)))


def _interleave(left: list[Any], right: list[Any], place: Callable[[Any], int | None]) -> list[Any]:
    result: list[Any] = []
    i = j = 0
    while i < len(left) and j < len(right):
        before, after = place(left[i]), place(right[j])
        if before is not None and after is not None and before < after:
            result.append(left[i])
            i += 1
        else:
            result.append(right[j])
            j += 1
    return result + left[i:] + right[j:]


def _plain(value: Any) -> Any:
    """A new part of the object: without nulls and directives."""
    if isinstance(value, dict):
        return {
            n: _plain(v)
            for n, v in value.items()
            if v is not None and not n.startswith(("$patch", "$retain", "$set", "$delete"))
        }
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
