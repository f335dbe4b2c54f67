"""What a schema makes of a value's parts: the fields it has, the fields two values differ in, merging, and removing.

These are the four operations that field ownership is built from. Lists of type `map` and `set` are told apart by key
and value, atomic lists and maps are one leaf, and where no schema is known maps are granular and lists atomic. Null
counts as a value; a missing value is `MISSING`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from supernode.local.machinery.fieldset import LEAF, FieldSet, key_element, text
from supernode.local.machinery.refusals import BadRequestError
from supernode.local.machinery.schema import ANY, NOTHING, Schema

MISSING: Final = object()


def child_schema(schema: Schema, name: str) -> Schema:
    """The schema of a field; `ANY` where nothing is known."""
    return schema.properties.get(name) or schema.additional or ANY


def is_declared(schema: Schema, name: str) -> bool:
    """Whether a field is a declared one (as opposed to a key of a map)."""
    return name in schema.properties


def is_associative(schema: Schema) -> bool:
    """Whether list elements are told apart by key or value."""
    return schema.list_type in ("map", "set")


def element(schema: Schema, item: Any) -> str:
    """The path element of a list item.

    Raises:
        BadRequestError: a key field is missing.
    """
    if schema.list_type == "set":
        return "v:" + text(item)
    if not isinstance(item, dict):
        raise BadRequestError(f"associative list with keys may not have non-map elements, found {text(item)}")
    keys = {}
    for name in schema.map_keys:
        if name in item:
            keys[name] = item[name]
        elif schema.items and name in schema.items.properties:
            default = schema.items.properties[name].default
            if default is not NOTHING:
                keys[name] = default
    if not keys:
        raise BadRequestError(
            f"associative list with keys has an element that omits all key fields {json.dumps(schema.map_keys)} "
            "(and doesn't have default values for any key fields)"
        )
    return key_element(keys)


def field_set(schema: Schema, value: Any) -> FieldSet:
    """All fields that a value (an applied configuration, say) has."""
    if isinstance(value, dict):
        if schema.atomic or not value:
            return LEAF
        children = {}
        for name, item in value.items():
            below = field_set(child_schema(schema, name), item)
            member = below.member or item is None or item == {} or not is_declared(schema, name)
            if member != below.member:
                below = FieldSet(member, below.children)
            if below:
                children["f:" + name] = below
        return FieldSet(False, children)
    if isinstance(value, list):
        if not is_associative(schema):
            return LEAF
        items = schema.items or ANY
        children = {}
        for item in value:
            below = field_set(items, item)
            name = element(schema, item)
            known = children.get(name)
            children[name] = FieldSet(True, below.children if known is None else (known | below).children)
        return FieldSet(False, children)
    return LEAF


@dataclass
class Comparison:
    """Fields that only the new value has, that differ, and that only the old value had."""

    added: FieldSet = field(default_factory=FieldSet)
    modified: FieldSet = field(default_factory=FieldSet)
    removed: FieldSet = field(default_factory=FieldSet)


def compare(schema: Schema, old: Any, new: Any) -> Comparison:
    """How two values differ."""
    result = Comparison()
    _compare(schema, old, new, (result.added, result.modified, result.removed))
    return result


_Nodes = tuple[FieldSet, FieldSet, FieldSet]  # added, modified, removed


def _compare(schema: Schema, old: Any, new: Any, nodes: _Nodes) -> None:
    """Mark `nodes` (of this path) and what is below them."""
    if old is new:
        return
    shape = old if new is MISSING or (new is None and old is not MISSING) else new
    other = new if shape is old else old
    if isinstance(shape, dict) and (other is MISSING or other is None or isinstance(other, dict)):
        left, right = old if isinstance(old, dict) else {}, new if isinstance(new, dict) else {}
        if not schema.atomic and (left or right):
            for name in left.keys() | right.keys():
                _descend(
                    "f:" + name, child_schema(schema, name), left.get(name, MISSING), right.get(name, MISSING), nodes
                )
            _exists(old, new, nodes)
            return
    elif isinstance(shape, list) and (other is MISSING or other is None or isinstance(other, list)):
        one, two = old if isinstance(old, list) else [], new if isinstance(new, list) else []
        if is_associative(schema) and (one or two):
            _compare_lists(schema, one, two, nodes)
            _exists(old, new, nodes)
            return
    if old is MISSING:
        nodes[0].member = True
    elif new is MISSING:
        nodes[2].member = True
    elif not same(old, new):
        nodes[1].member = True
        if type(old) is not type(new):
            # A map that becomes something else (or the other way round): its fields are gone (or new) as well.
            _fields_of(schema, old, nodes, gone=True)
            _fields_of(schema, new, nodes, gone=False)


def _fields_of(schema: Schema, value: Any, nodes: _Nodes, *, gone: bool) -> None:
    if isinstance(value, dict) and not schema.atomic:
        for name, item in value.items():
            before, after = (item, MISSING) if gone else (MISSING, item)
            _descend("f:" + name, child_schema(schema, name), before, after, nodes)


def _exists(old: Any, new: Any, nodes: _Nodes) -> None:
    if old is MISSING:
        nodes[0].member = True
    elif new is MISSING:
        nodes[2].member = True


def _descend(name: str, schema: Schema, old: Any, new: Any, nodes: _Nodes) -> None:
    below = (FieldSet(), FieldSet(), FieldSet())
    _compare(schema, old, new, below)
    for node, child in zip(nodes, below, strict=True):
        if child:
            node.children[name] = child


def _compare_lists(schema: Schema, old: list[Any], new: list[Any], nodes: _Nodes) -> None:
    left, right = _by_element(schema, old), _by_element(schema, new)
    items = schema.items or ANY
    for name in left.keys() | right.keys():
        one, two = left.get(name, []), right.get(name, [])
        if len(one) <= 1 and len(two) <= 1:
            _descend(name, items, one[0] if one else MISSING, two[0] if two else MISSING, nodes)
        elif not same(one, two):
            place = 0 if not one else 2 if not two else 1
            nodes[place].children[name] = LEAF


def _by_element(schema: Schema, items: list[Any]) -> dict[str, list[Any]]:
    result: dict[str, list[Any]] = {}
    for item in items:
        result.setdefault(element(schema, item), []).append(item)
    return result


def same(one: Any, two: Any) -> bool:
    """Equality as JSON sees it: true is not 1."""
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(same(value, two[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(same(a, b) for a, b in zip(one, two, strict=True))
    if isinstance(one, bool) or isinstance(two, bool):
        return one is two
    return bool(one == two)


def merge(schema: Schema, live: Any, config: Any) -> Any:
    """`config` laid over `live`: what config says wins, what it does not mention stays."""
    if isinstance(config, dict) and isinstance(live, dict) and not schema.atomic and config:
        result = dict(live)
        for name, value in config.items():
            result[name] = merge(child_schema(schema, name), live[name], value) if name in live else value
        return result
    if isinstance(config, list) and isinstance(live, list) and is_associative(schema) and config:
        return _merge_lists(schema, live, config)
    if config == {} and isinstance(live, dict) and live and not schema.atomic:
        return live
    if config == [] and isinstance(live, list) and live and is_associative(schema):
        return live
    return config


def _merge_lists(schema: Schema, live: list[Any], config: list[Any]) -> list[Any]:
    """Config's order, with live's other elements kept where they were relative to the shared ones."""
    items = schema.items or ANY
    left = [element(schema, item) for item in live]
    right = [element(schema, item) for item in config]
    for index, name in enumerate(right):
        if name in right[:index]:
            raise BadRequestError(f"duplicate entries for key {name[2:]}")
    first: dict[str, Any] = {}
    for name, item in zip(left, live, strict=True):
        first.setdefault(name, item)
    applied = dict(zip(right, config, strict=True))
    shared: Iterator[str] = iter([name for name in right if name in first])
    upcoming = next(shared, None)
    merged: set[str] = set()
    result = []
    i = j = 0
    while i < len(left) or j < len(right):
        if i < len(left) and j < len(right):
            if left[i] == right[j]:
                result.append(merge(items, live[i], config[j]))
                merged.add(left[i])
                i, j = i + 1, j + 1
                upcoming = next(shared, None)
                continue
            if left[i] in applied and upcoming is not None and upcoming != left[i]:
                i += 1
                continue
        if i < len(left):
            if left[i] not in applied:
                result.append(live[i])
                i += 1
                continue
            if left[i] in merged:
                i += 1
        if j < len(right):
            name = right[j]
            merged.add(name)
            result.append(merge(items, first[name], config[j]) if name in first else config[j])
            j += 1
            if upcoming == name:
                upcoming = next(shared, None)
    return result


def remove(schema: Schema, value: Any, fields: FieldSet) -> Any:
    """The value without the members of `fields`; a map or list that loses everything becomes null."""
    if isinstance(value, dict) and not schema.atomic and value:
        result = {}
        for name, item in value.items():
            node = fields.children.get("f:" + name)
            if node is None:
                result[name] = item
            elif not node.member:
                result[name] = remove(child_schema(schema, name), item, node)
        return result or None
    if isinstance(value, list) and is_associative(schema) and value:
        kept = []
        for item in value:
            node = fields.children.get(element(schema, item))
            if node is None:
                kept.append(item)
            elif not node.member:
                kept.append(remove(schema.items or ANY, item, node))
        return kept or None
    return value


def with_named(schema: Schema, fields: FieldSet) -> FieldSet:
    """The same set, in which every declared field on the way to a member is a member too."""
    children = {}
    for name, node in fields.children.items():
        if name.startswith("f:"):
            below = with_named(child_schema(schema, name[2:]), node)
            member = node.member or (bool(node.children) and is_declared(schema, name[2:]))
            children[name] = FieldSet(member, below.children)
        else:
            children[name] = FieldSet(node.member, with_named(schema.items or ANY, node).children)
    return FieldSet(fields.member, children)
