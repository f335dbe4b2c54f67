"""Sets of fields: which leaves and elements of an object someone owns, and their FieldsV1 form.

A set is a tree of nodes. A path element is the text that FieldsV1 itself uses: `f:name` for a field, `k:{"name":"a"}`
for an element of a list of type map, `v:"x"` for an element of a set, `i:0` for an index. Sets are values: operations
return new ones (unchanged branches may be shared), nobody changes a node after it is built.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from supernode.local.machinery.refusals import BadRequestError

Path = tuple[str, ...]


class FieldSet:
    """A node: whether this very path is a member, and the children by path element."""

    __slots__ = ("children", "member")

    def __init__(self, member: bool = False, children: dict[str, FieldSet] | None = None) -> None:
        self.member = member
        self.children: dict[str, FieldSet] = children if children is not None else {}

    def __bool__(self) -> bool:
        return self.member or bool(self.children)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FieldSet) and self.member == other.member and self.children == other.children

    def __hash__(self) -> int:
        raise TypeError("a field set is not hashable")

    def __or__(self, other: FieldSet) -> FieldSet:
        if not self.children and not self.member:
            return other
        children = dict(self.children)
        for name, child in other.children.items():
            mine = children.get(name)
            children[name] = child if mine is None else mine | child
        return FieldSet(self.member or other.member, children)

    def __and__(self, other: FieldSet) -> FieldSet:
        children = {}
        for name, child in self.children.items():
            theirs = other.children.get(name)
            if theirs is not None and (both := child & theirs):
                children[name] = both
        return FieldSet(self.member and other.member, children)

    def __sub__(self, other: FieldSet) -> FieldSet:
        """Members that are not members of `other`."""
        children = {}
        for name, child in self.children.items():
            theirs = other.children.get(name)
            rest = child if theirs is None else child - theirs
            if rest:
                children[name] = rest
        return FieldSet(self.member and not other.member, children)

    def without_below(self, other: FieldSet) -> FieldSet:
        """Members that are neither members of `other` nor below one."""
        if other.member:
            return FieldSet()
        children = {}
        for name, child in self.children.items():
            theirs = other.children.get(name)
            rest = child if theirs is None else child.without_below(theirs)
            if rest:
                children[name] = rest
        return FieldSet(self.member, children)

    def leaves(self) -> FieldSet:
        """Only the members that have nothing below them."""
        children = {name: child.leaves() for name, child in self.children.items()}
        return FieldSet(self.member and not children, {name: child for name, child in children.items() if child})

    def paths(self, prefix: Path = ()) -> Iterator[Path]:
        """All members, parents before children, in FieldsV1 order."""
        if self.member:
            yield prefix
        for name in sorted(self.children, key=order):
            yield from self.children[name].paths((*prefix, name))

    def has(self, path: Path) -> bool:
        """Whether `path` itself is a member."""
        node: FieldSet | None = self
        for name in path:
            node = node.children.get(name) if node is not None else None
        return node is not None and node.member

    def to_v1(self) -> dict[str, Any]:
        """The FieldsV1 form."""
        result: dict[str, Any] = {}
        if self.member and self.children:
            result["."] = {}
        for name in sorted(self.children, key=order):
            result[name] = self.children[name].to_v1()
        return result


EMPTY = FieldSet()
LEAF = FieldSet(True)


def order(name: str) -> tuple[int, Any]:
    """Sort key of a path element, as the real server writes them: fields, keys, values, indexes."""
    kind = name[:2]
    if kind == "f:":
        return 0, name
    if kind == "i:":
        return 3, int(name[2:])
    return (1 if kind == "k:" else 2), name


def from_paths(paths: Iterator[Path] | list[Path]) -> FieldSet:
    """A set with exactly these members."""
    root = FieldSet()
    for path in paths:
        node = root
        for name in path:
            node = node.children.setdefault(name, FieldSet())
        node.member = True
    return root


def from_v1(fields: Any) -> FieldSet:
    """Read FieldsV1.

    Raises:
        BadRequestError: not FieldsV1.
    """
    if not isinstance(fields, dict):
        raise BadRequestError("fieldsV1 is an object")
    return FieldSet(False, _read(fields))


def _read(fields: dict[str, Any]) -> dict[str, FieldSet]:
    children = {}
    for name, below in fields.items():
        if name == ".":
            continue
        if name[:2] not in ("f:", "k:", "v:", "i:") or not isinstance(below, dict):
            raise BadRequestError(f"fieldsV1 holds {name!r}, which is not a path element")
        if name[:2] in ("k:", "v:"):
            try:
                name = name[:2] + text(json.loads(name[2:]))
            except ValueError as exc:
                raise BadRequestError(f"fieldsV1 holds {name!r}, which is not a path element") from exc
        # A node without children is a member; with children it is one only when "." is among them.
        children[name] = FieldSet(not below or "." in below, _read(below))
    return children


def text(value: Any) -> str:
    """Compact JSON with sorted keys: the form of values inside path elements."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=True)


def key_element(values: dict[str, Any]) -> str:
    """The path element of a list element with these key fields."""
    return "k:" + text(values)


def render(path: Path) -> str:
    """A path as conflicts show it: `.spec.containers[name="a"].image`."""
    parts = []
    for name in path:
        if name.startswith("f:"):
            parts.append("." + name[2:])
        elif name.startswith("k:"):
            keys = json.loads(name[2:])
            parts.append("[" + ",".join(f"{key}={text(keys[key])}" for key in sorted(keys)) + "]")
        elif name.startswith("v:"):
            parts.append("[=" + name[2:] + "]")
        else:
            parts.append("[" + name[2:] + "]")
    return "".join(parts)
