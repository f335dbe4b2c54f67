"""The built-in kinds' schemas, from `builtin.json` (facts extracted from a real kube-apiserver, see `extract`).

Flows out: a `SchemaSet` that finds the schema of a group, version and kind, and the raw facts for OpenAPI and
discovery.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from importlib import resources
from typing import Any, Final

from supernode.local.machinery.schema import NOTHING, Schema

FORMATS: Final = {
    "int32": "integer",
    "int64": "integer",
    "double": "number",
    "date-time": "string",
    "byte": "string",
}
META: Final = "apimachinery.pkg.apis.meta.v1."


class SchemaSet:
    """Built-in schemas by group, version and kind; definitions are built when first asked for."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.version: str = facts["version"]
        self.kinds: dict[str, str] = facts["kinds"]
        self.resources: list[dict[str, Any]] = facts["resources"]
        self.definitions: dict[str, Any] = facts["definitions"]
        self._built: dict[str, Schema] = {}

    def find(self, group: str, version: str, kind: str) -> Schema | None:
        """The schema of a kind, or None when it is not one of the served built-ins."""
        name = self.kinds.get(f"{group}/{version}/{kind}" if group else f"{version}/{kind}")
        return self.named(name) if name else None

    def named(self, name: str) -> Schema:
        """The schema of a definition such as `api.core.v1.PodSpec`."""
        known = self._built.get(name)
        if known is None:
            # Entered before it is filled: JSONSchemaProps refers to itself.
            known = self._built[name] = Schema(source=name)
            self._fill(known, self.definitions[name])
        return known

    def metadata(self) -> Schema:
        """ObjectMeta, which custom resources share with the built-ins."""
        return self.named(f"{META}ObjectMeta")

    def _fill(self, schema: Schema, facts: Any) -> None:
        if isinstance(facts, dict) and "p" in facts:
            schema.type = "object"
            schema.required = tuple(facts.get("r", ()))
            schema.atomic = "a" in facts
            schema.properties.update((name, self._field(field)) for name, field in facts["p"].items())
            return
        source = self._field(facts)
        for slot in ("type", "format", "items", "additional", "int_or_string", "preserve_unknown", "list_type"):
            setattr(schema, slot, getattr(source, slot))

    def _field(self, facts: Any) -> Schema:
        if isinstance(facts, str):
            return self.named(facts[1:]) if facts.startswith("@") else self._simple(facts)
        if isinstance(facts, list):
            return Schema(type="array", items=self._field(facts[0]))
        if "*" in facts:
            return Schema(type="object", additional=self._field(facts["*"]))
        inner = self._field(facts["t"])
        changes: dict[str, Any] = {}
        if "l" in facts:
            changes["list_type"] = facts["l"]
            changes["map_keys"] = tuple(facts.get("k", ()))
        if facts.get("a") == "atomic":
            changes["atomic"] = True
        if "m" in facts:
            changes["merge_key"] = facts["m"]
        if "s" in facts:
            changes["patch_strategy"] = frozenset(facts["s"].split(","))
        if "d" in facts:
            changes["default"] = facts["d"]
        if "e" in facts:
            from supernode.local.machinery.schema import Bounds

            changes["bounds"] = Bounds(enum=tuple(facts["e"]))
        return dataclasses.replace(inner, **changes)

    @staticmethod
    def _simple(name: str) -> Schema:
        if name == "int-or-string":
            return Schema(format=name, int_or_string=True)
        if name == "quantity":
            return Schema(format=name, int_or_string=True)
        if name in ("object", "any"):
            return Schema(type="object" if name == "object" else "", preserve_unknown=True)
        return Schema(type=FORMATS.get(name, name), format=name if name in FORMATS else "")


def without_default(schema: Schema) -> Schema:
    """The same schema without its default."""
    return dataclasses.replace(schema, default=NOTHING)


@functools.cache
def builtin() -> SchemaSet:
    """The built-in schemas of the Kubernetes version that the data file states."""
    text = resources.files("supernode.local.machinery").joinpath("builtin.json").read_text(encoding="utf-8")
    return SchemaSet(json.loads(text))
