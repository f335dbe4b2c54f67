"""How every model of the API is read and described: field names, strictness, and the metadata of an object.

`Spec` is what users write: unknown fields are an error. `Status` and `Metadata` are what the cluster writes: unknown
fields are left out, so that an older operator can read what a newer one wrote. All are frozen.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from supernode.api.rules import Rule

# Units keep their usual spelling inside a camelCase name: bandwidthGBps, not bandwidthGbps.
_UNITS: Final = {"gbps": "GBps", "gib": "GiB", "gb": "GB"}


def camel(name: str) -> str:
    """`read_gbps` -> `readGBps`, `chip_spec` -> `chipSpec`."""
    first, *rest = name.split("_")
    return first + "".join(_UNITS.get(word, word.capitalize()) for word in rest)


class _Document(BaseModel):
    """Common settings; `rules` become CEL rules of the custom resource definition."""

    model_config = ConfigDict(
        alias_generator=camel, validate_by_name=True, validate_by_alias=True, strict=True, frozen=True
    )
    rules: ClassVar[tuple[Rule[Any], ...]] = ()

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core_schema))
        if cls.rules:
            schema["x-kubernetes-validations"] = [rule.validation() for rule in cls.rules if rule.cel]
        return schema


class Spec(_Document):
    """Something that a user writes."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _as_the_server_reads(cls, value: Any) -> Any:
        """A field that is null is a field left out, and 2.0 is the integer 2, as the API server has it."""
        if not isinstance(value, dict):
            return value
        known = {field.alias for field in cls.model_fields.values()}
        return {
            key: int(item) if key in known and isinstance(item, float) and item.is_integer() else item
            for key, item in value.items()
            if item is not None or key not in known
        }


class Status(_Document):
    """Something that the operator writes."""

    model_config = ConfigDict(extra="ignore")


class Metadata(Status):
    """The part of an object's metadata that the operator looks at."""

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: list[str] = Field(default_factory=list)
