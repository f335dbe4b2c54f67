"""JSON values as trees: copying and comparing."""

from __future__ import annotations

from typing import Any, TypeVar

from supernode.local.server.statuses import Object

T = TypeVar("T")


def clone(value: T) -> T:
    """A copy that shares no dict and no list with the original."""
    if isinstance(value, dict):
        return {key: clone(each) for key, each in value.items()}  # type: ignore[return-value]
    if isinstance(value, list):
        return [clone(each) for each in value]  # type: ignore[return-value]
    return value


def same(new: Object, old: Object) -> bool:
    """Whether two states of an object differ in nothing that a reader could care about (managedFields times)."""
    return _bare(new) == _bare(old)


def _bare(obj: Object) -> Object:
    meta: dict[str, Any] = {key: value for key, value in obj["metadata"].items() if key != "resourceVersion"}
    managed = meta.get("managedFields")
    if managed:
        meta["managedFields"] = [{key: each[key] for key in each if key != "time"} for each in managed]
    return {**{key: value for key, value in obj.items() if key not in ("apiVersion", "kind")}, "metadata": meta}
