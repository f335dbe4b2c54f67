"""One form for what is known about a value, whether it comes from a built-in kind or from a CRD.

Flows in: `builtin.json` (by `schemas`) and structural schemas (by `structural`). Flows out: `Schema` trees, which may
share nodes and (for JSONSchemaProps alone) contain themselves. Built once, never changed afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

# A default that is not there (None is a real default for nullable fields).
NOTHING: Final = object()


@dataclass(slots=True, eq=False)
class Bounds:
    """The value validations of a CRD schema that are not about structure; None means not asked for."""

    enum: tuple[Any, ...] | None = None
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: bool = False
    exclusive_maximum: bool = False
    multiple_of: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    matcher: Any = None  # compiled `pattern`
    min_items: int | None = None
    max_items: int | None = None
    unique_items: bool = False
    min_properties: int | None = None
    max_properties: int | None = None
    all_of: tuple[Schema, ...] = ()
    any_of: tuple[Schema, ...] = ()
    one_of: tuple[Schema, ...] = ()
    negated: Schema | None = None


@dataclass(slots=True, eq=False)
class Schema:
    """What a value may be: type, structure, list and map semantics, default, bounds and rules."""

    type: str = ""  # object, array, string, integer, number, boolean; empty: anything
    format: str = ""
    properties: dict[str, Schema] = field(default_factory=dict)
    additional: Schema | None = None  # schema of the values of a map
    items: Schema | None = None
    required: tuple[str, ...] = ()
    list_type: str = "atomic"  # atomic, set, map
    map_keys: tuple[str, ...] = ()
    atomic: bool = False  # an object that is owned as a whole
    merge_key: str = ""  # strategic merge patch
    patch_strategy: frozenset[str] = frozenset()  # merge, replace, retainKeys
    default: Any = NOTHING
    nullable: bool = False
    int_or_string: bool = False
    preserve_unknown: bool = False
    embedded: bool = False
    description: str = ""
    bounds: Bounds | None = None
    rules: tuple[Any, ...] = ()  # compiled CEL rules, see `cel_rules.Rule`
    has_rules: bool = False  # here or anywhere below
    has_defaults: bool = False  # here or anywhere below
    source: str = ""  # name of the built-in definition, for OpenAPI

    @property
    def open(self) -> bool:
        """True for a value without known structure (preserved as it is)."""
        structured = self.properties or self.additional is not None or self.items is not None or self.int_or_string
        return self.type in ("", "object") and not structured

    def child(self, name: str) -> Schema | None:
        """The schema of field `name` of an object or map."""
        return self.properties.get(name) or self.additional


ANY: Final = Schema(preserve_unknown=True)
STRING: Final = Schema(type="string")
