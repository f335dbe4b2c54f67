"""Table answers: what `kubectl get` prints, made by the server.

Flows in: columns (a CRD's additionalPrinterColumns, or those of a built-in kind) and objects. Flows out: a
metav1.Table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from supernode.local.machinery import cells, jsonpath
from supernode.local.machinery.columns import CELLS

Cell = Callable[[dict[str, Any], datetime], Any]
_NAME_TEXT: Final = "Name must be unique within a namespace."
_AGE_TEXT: Final = "Time since the object was created."


@dataclass(frozen=True)
class Column:
    """One column: `value` gives the cell of an object at a time."""

    name: str
    type: str
    value: Cell
    format: str = ""
    description: str = ""
    priority: int = 0

    def definition(self) -> dict[str, Any]:
        """The TableColumnDefinition."""
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        }


def _name(obj: dict[str, Any], _now: datetime) -> Any:
    return obj.get("metadata", {}).get("name", "")


NAME: Final = Column("Name", "string", _name, "name", _NAME_TEXT)


def columns(printer_columns: Iterable[dict[str, Any]]) -> tuple[Column, ...]:
    """Name, then the CRD version's additionalPrinterColumns; Age when it has none."""
    found = [NAME]
    for facts in printer_columns:
        found.append(
            Column(
                facts["name"],
                facts.get("type", "string"),
                _path_cell(facts.get("jsonPath", ""), facts.get("type", "string")),
                facts.get("format", ""),
                facts.get("description", ""),
                facts.get("priority", 0),
            )
        )
    if len(found) == 1:
        found.append(Column("Age", "date", _path_cell(".metadata.creationTimestamp", "date"), "", _AGE_TEXT))
    return tuple(found)


def builtin_columns(group: str, kind: str) -> tuple[Column, ...]:
    """The columns of a built-in kind; Name and creation time where nothing else is known, as the real server does."""
    rows = CELLS.get((group, kind))
    if rows is None:
        return NAME, Column("Created At", "date", cells.created_at, "", _AGE_TEXT)
    return tuple(
        Column("Name", "string", _name, "name", _NAME_TEXT, priority)
        if name == "Name"
        else Column(name, kind_, value, priority=priority)
        for name, kind_, value, priority in rows
    )


def _path_cell(path: str, kind: str) -> Cell:
    try:
        find = jsonpath.compiled(path)
    except ValueError:
        return lambda obj, now: None

    def cell(obj: dict[str, Any], now: datetime) -> Any:
        found = find(obj)
        if not found or found[0] is None:
            return None
        return _typed(found, kind, now)

    return cell


def _typed(found: list[Any], kind: str, now: datetime) -> Any:
    value = found[0]
    if kind == "integer":
        return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    if kind == "number":
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    if kind == "date":
        return cells.since(value, now) if isinstance(value, str) else "<invalid>"
    return ",".join(_plain(item) for item in found) if len(found) > 1 else _plain(value)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), sort_keys=True)


def render(
    columns: Sequence[Column],
    objects: Iterable[dict[str, Any]],
    *,
    now: str,
    include: str = "Metadata",
    metadata: dict[str, Any] | None = None,
    version: str = "v1",
) -> dict[str, Any]:
    """A Table.

    Args:
        columns: what to print.
        objects: one row each.
        now: RFC 3339 time that ages are counted to.
        include: None, Metadata or Object: what each row carries besides its cells.
        metadata: of the list (resourceVersion, continue ...).
        version: of the group meta.k8s.io.
    """
    moment = cells.moment(now)
    if moment is None:
        raise ValueError(f"{now!r} is not an RFC 3339 time")
    rows = []
    for obj in objects:
        row: dict[str, Any] = {"cells": [column.value(obj, moment) for column in columns]}
        if include == "Object":
            row["object"] = obj
        elif include == "Metadata":
            row["object"] = {
                "kind": "PartialObjectMetadata",
                "apiVersion": f"meta.k8s.io/{version}",
                "metadata": obj.get("metadata", {}),
            }
        else:
            row["object"] = None
        rows.append(row)
    return {
        "kind": "Table",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": metadata or {},
        "columnDefinitions": [column.definition() for column in columns],
        "rows": rows,
    }
