"""What a request selects: the machinery's selectors, and which fields each resource can be selected by.

In: the query's text. Out: a predicate over objects, asked once per object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from supernode.local.machinery import criteria
from supernode.local.machinery.criteria import FieldSelector, LabelSelector
from supernode.local.server import statuses
from supernode.local.server.statuses import Object

Reader = Callable[[Object], str]


@dataclass(frozen=True)
class Selector:
    """Both selectors of a request; `readers` says how a field is read that is not simply at its path."""

    labels: LabelSelector
    fields: FieldSelector
    readers: tuple[tuple[Reader, str, str], ...] = ()  # (reader, = or !=, value)

    def __bool__(self) -> bool:
        return bool(self.labels.requirements or self.fields.requirements or self.readers)

    def matches(self, obj: Object) -> bool:
        """Whether an object is selected."""
        if not self.labels.matches(obj["metadata"].get("labels")) or not self.fields.matches(obj):
            return False
        return all((read(obj) == value) == (sign == "=") for read, sign, value in self.readers)


@dataclass(frozen=True)
class Selectable:
    """What a resource can be selected by."""

    fields: frozenset[str]
    readers: Mapping[str, Reader]

    def select(self, labels: str, fields: str) -> Selector:
        """The selector of a request.

        Raises:
            RefusedError: the text cannot be parsed.
            StatusError: 400, it names a field that cannot be selected by.
        """
        plain, read = [], []
        for path, sign, value in criteria.fields(fields).requirements:
            if path not in self.fields:
                raise statuses.bad_request(f"field label not supported: {path}")
            if path in self.readers:
                read.append((self.readers[path], sign, value))
            else:
                plain.append((path, sign, value))
        return Selector(criteria.labels(labels), FieldSelector(tuple(plain)), tuple(read))


def chooses(selector: dict[str, Any] | None, obj: Object) -> bool:
    """Whether a LabelSelector object selects an object."""
    return criteria.from_object(selector).matches((obj.get("metadata") or {}).get("labels"))
