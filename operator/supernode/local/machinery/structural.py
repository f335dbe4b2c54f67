"""The structural schema of a CRD version, read into `Schema`, with what is wrong with it as causes.

Flows in: `openAPIV3Schema` as JSON. Flows out: a `Schema` (patterns and CEL rules compiled) and causes whose fields
are the paths that the real server uses. Estimated CEL cost is not checked: that guards a shared control plane, which
this is not.
"""

from __future__ import annotations

import json
from typing import Any, Final

import re2

from supernode.local.machinery import cel_library, cel_rules
from supernode.local.machinery.refusals import FORBIDDEN, INVALID, NOT_SUPPORTED, REQUIRED, Cause
from supernode.local.machinery.schema import NOTHING, Bounds, Schema

TYPES: Final = ("array", "boolean", "integer", "number", "object", "string")
_NUMBERS: Final = {
    "minimum": "minimum",
    "maximum": "maximum",
    "exclusiveMinimum": "exclusive_minimum",
    "exclusiveMaximum": "exclusive_maximum",
    "multipleOf": "multiple_of",
    "minLength": "min_length",
    "maxLength": "max_length",
    "minItems": "min_items",
    "maxItems": "max_items",
    "uniqueItems": "unique_items",
    "minProperties": "min_properties",
    "maxProperties": "max_properties",
}
_JUNCTORS: Final = {"allOf": "all_of", "anyOf": "any_of", "oneOf": "one_of"}
# May not be used in a CRD at all.
_FORBIDDEN: Final = (
    "definitions",
    "dependencies",
    "deprecated",
    "discriminator",
    "id",
    "patternProperties",
    "readOnly",
)
# Say structure, and so may not stand inside allOf, anyOf, oneOf and not.
_STRUCTURE: Final = ("type", "default", "additionalProperties", "nullable", "description", "title")


class Reader:
    """Reads one schema and gathers causes."""

    def __init__(self, metadata: Schema) -> None:
        self.causes: list[Cause] = []
        self._metadata = metadata

    def read(self, facts: Any, path: str, *, junctor: bool = False, root: bool = False) -> Schema:
        """The schema at `path`; `junctor`: inside allOf, anyOf, oneOf or not, where only values are looked at."""
        schema = Schema()
        if not isinstance(facts, dict):
            self._wrong(path, f"{type(facts).__name__}: a schema is an object")
            return schema
        self._refused_words(facts, path, junctor)
        schema.type = facts.get("type", "")
        schema.format = facts.get("format", "")
        schema.nullable = bool(facts.get("nullable"))
        schema.int_or_string = bool(facts.get("x-kubernetes-int-or-string"))
        schema.preserve_unknown = bool(facts.get("x-kubernetes-preserve-unknown-fields"))
        schema.embedded = bool(facts.get("x-kubernetes-embedded-resource"))
        schema.description = facts.get("description", "")
        schema.required = tuple(facts.get("required") or ())
        self._type(facts, schema, path, junctor)
        self._children(facts, schema, path, junctor)
        self._list(facts, schema, path)
        schema.atomic = facts.get("x-kubernetes-map-type", "granular") == "atomic"
        if root:
            schema.properties.setdefault("apiVersion", Schema(type="string"))
            schema.properties.setdefault("kind", Schema(type="string"))
            schema.properties["metadata"] = self._metadata
        elif schema.embedded:
            schema.properties = {"apiVersion": Schema(type="string"), "kind": Schema(type="string")} | schema.properties
            schema.properties["metadata"] = self._metadata
        self._bounds(facts, schema, path)
        if "default" in facts:
            schema.default = facts["default"]
        self._rules(facts, schema, path)
        below = [*schema.properties.values(), *(s for s in (schema.items, schema.additional) if s)]
        below = [child for child in below if child is not self._metadata]
        schema.has_rules = bool(schema.rules) or any(child.has_rules for child in below)
        schema.has_defaults = any(child.has_defaults or child.default is not NOTHING for child in below)
        return schema

    def _wrong(self, path: str, why: str, reason: str = INVALID) -> None:
        self.causes.append(Cause(reason, why, path))

    def _refused_words(self, facts: dict[str, Any], path: str, junctor: bool) -> None:
        for word in _FORBIDDEN:
            if word in facts:
                self._wrong(f"{path}.{word}", f"Forbidden: {word} is not supported", FORBIDDEN)
        if facts.get("uniqueItems"):
            self._wrong(
                f"{path}.uniqueItems",
                "Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
                FORBIDDEN,
            )
        if "$ref" in facts:
            self._wrong(f"{path}.$ref", "Forbidden: $ref is not supported", FORBIDDEN)
        if junctor:
            for word in _STRUCTURE:
                if facts.get(word) and not (word == "type" and path.rpartition(".")[2].startswith(("anyOf", "allOf"))):
                    self._wrong(f"{path}.{word}", "Forbidden: must be empty to be structural", FORBIDDEN)

    def _type(self, facts: dict[str, Any], schema: Schema, path: str, junctor: bool) -> None:
        kind = schema.type
        if kind and kind not in TYPES:
            listed = ", ".join(f'"{name}"' for name in TYPES)
            self._wrong(f"{path}.type", f'Unsupported value: "{kind}": supported values: {listed}', NOT_SUPPORTED)
        elif not (kind or junctor or schema.int_or_string or schema.preserve_unknown or "$ref" in facts):
            self._wrong(f"{path}.type", "Required value: must not be empty for specified object fields", REQUIRED)
        if schema.embedded and kind != "object" and not junctor:
            why = f'Invalid value: "{kind}": must be object if x-kubernetes-embedded-resource is true'
            self._wrong(f"{path}.type", why)
        if schema.embedded and not schema.preserve_unknown and not facts.get("properties"):
            self._wrong(
                f"{path}.properties",
                "Required value: must not be empty if x-kubernetes-embedded-resource is true without "
                "x-kubernetes-preserve-unknown-fields",
                REQUIRED,
            )

    def _children(self, facts: dict[str, Any], schema: Schema, path: str, junctor: bool) -> None:
        properties = facts.get("properties")
        if isinstance(properties, dict):
            for name, child in properties.items():
                schema.properties[name] = self.read(child, f"{path}.properties[{name}]", junctor=junctor)
        additional = facts.get("additionalProperties")
        if isinstance(additional, dict):
            if properties:
                self._wrong(
                    f"{path}.additionalProperties",
                    "Forbidden: additionalProperties and properties are mutual exclusive",
                    FORBIDDEN,
                )
            schema.additional = self.read(additional, f"{path}.additionalProperties", junctor=junctor)
        elif additional is True:
            schema.additional = Schema(preserve_unknown=True)
        items = facts.get("items")
        if items is not None:
            schema.items = self.read(items, f"{path}.items", junctor=junctor)
        elif schema.type == "array" and not junctor:
            self._wrong(f"{path}.items", "Required value: must be specified", REQUIRED)

    def _list(self, facts: dict[str, Any], schema: Schema, path: str) -> None:
        schema.list_type = facts.get("x-kubernetes-list-type") or "atomic"
        schema.map_keys = tuple(facts.get("x-kubernetes-list-map-keys") or ())
        if schema.list_type not in ("atomic", "set", "map"):
            self._wrong(
                f"{path}.x-kubernetes-list-type",
                f'Unsupported value: "{schema.list_type}": supported values: "atomic", "set", "map"',
                NOT_SUPPORTED,
            )
            schema.list_type = "atomic"
        if "x-kubernetes-list-type" in facts and schema.type != "array":
            kind = schema.type
            self._wrong(
                f"{path}.type", f'Invalid value: "{kind}": must be array if x-kubernetes-list-type is specified'
            )
        if schema.list_type != "map":
            if schema.map_keys:
                self._wrong(
                    f"{path}.x-kubernetes-list-type",
                    "Required value: must be map if x-kubernetes-list-map-keys is non-empty",
                    REQUIRED,
                )
            return
        if not schema.map_keys:
            self._wrong(
                f"{path}.x-kubernetes-list-map-keys",
                "Required value: must not be empty if x-kubernetes-list-type is map",
                REQUIRED,
            )
        items = schema.items
        if items is None:
            why = "Required value: must have a schema if x-kubernetes-list-type is map"
            self._wrong(f"{path}.items", why, REQUIRED)
            return
        if any(key not in items.properties for key in schema.map_keys):
            shown = json.dumps(schema.map_keys, separators=(",", ":"))
            why = f"Invalid value: {shown}: entries must all be names of item properties"
            self._wrong(f"{path}.x-kubernetes-list-map-keys", why)
            return
        for key in schema.map_keys:
            if key not in items.required and items.properties[key].default is NOTHING:
                self._wrong(
                    f"{path}.items.properties[{key}].default",
                    "Required value: this property is in x-kubernetes-list-map-keys, so it must have a default "
                    "or be a required property",
                    REQUIRED,
                )

    def _bounds(self, facts: dict[str, Any], schema: Schema, path: str) -> None:
        words = ("enum", "pattern", "not", *_NUMBERS, *_JUNCTORS)
        if not any(word in facts for word in words):
            return
        bounds = schema.bounds = Bounds()
        for word, slot in _NUMBERS.items():
            if facts.get(word) is not None:
                setattr(bounds, slot, facts[word])
        if facts.get("enum") is not None:
            bounds.enum = tuple(facts["enum"])
        if facts.get("pattern"):
            bounds.pattern = facts["pattern"]
            try:
                bounds.matcher = re2.compile(bounds.pattern, cel_library.QUIET)
            except re2.error as exc:
                text = exc.args[0].decode() if exc.args and isinstance(exc.args[0], bytes) else str(exc)
                self._wrong(
                    f"{path}.pattern",
                    f'Invalid value: "{bounds.pattern}": must be a valid regular expression, but isn\'t: {text}',
                )
        for word, slot in _JUNCTORS.items():
            parts = facts.get(word) or ()
            if schema.int_or_string and word in ("anyOf", "allOf"):
                continue
            read = tuple(self.read(part, f"{path}.{word}[{i}]", junctor=True) for i, part in enumerate(parts))
            setattr(bounds, slot, read)
        if facts.get("not") is not None:
            bounds.negated = self.read(facts["not"], f"{path}.not", junctor=True)

    def _rules(self, facts: dict[str, Any], schema: Schema, path: str) -> None:
        found = facts.get("x-kubernetes-validations") or ()
        rules = []
        for index, rule in enumerate(found):
            place = f"{path}.x-kubernetes-validations[{index}]"
            compiled, causes = cel_rules.compile_rule(rule, place, schema)
            self.causes.extend(causes)
            if compiled is not None:
                rules.append(compiled)
        schema.rules = tuple(rules)
