"""A kind of object: its schema, how a body becomes an object of it, and what makes an object acceptable.

Flows in: `schemas` (built-in kinds) and `crd` (custom kinds). Flows out: `Kind` values that the server, `fields`,
`openapi` and `patch` work with.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from supernode.local.machinery import check, decode, metadata, schemas
from supernode.local.machinery.cel_rules import MISSING
from supernode.local.machinery.refusals import (
    NOT_SUPPORTED,
    BadRequestError,
    Cause,
    InvalidError,
    PatchedInvalidError,
    RefusedError,
)
from supernode.local.machinery.schema import Schema

STRICT: Final = "Strict"
WARN: Final = "Warn"
IGNORE: Final = "Ignore"
# As the real server: more is not reported one by one.
_MAX_REPORTED: Final = 100


@dataclass(frozen=True, eq=False)
class Kind:
    """One kind in one version.

    Attributes:
        schema: of the whole object.
        custom: from a CRD.
        has_status: `status` belongs to the status endpoint and is not written by the main one.
        raw: the CRD's `openAPIV3Schema` as it was written, for OpenAPI; None for built-ins.
        columns: the CRD's additionalPrinterColumns.
    """

    group: str
    version: str
    kind: str
    schema: Schema
    custom: bool = False
    has_status: bool = False
    raw: dict[str, Any] | None = None
    columns: tuple[dict[str, Any], ...] = field(default=())

    @property
    def api_version(self) -> str:
        """`group/version`, or the version alone for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def decode(
        self, value: Any, *, field_validation: str = WARN, duplicates: Iterable[str] = (), patched: bool = False
    ) -> tuple[dict[str, Any], list[str]]:
        """The object that a decoded body means, and warnings. `patched`: the value is what a patch made of an object.

        Raises:
            BadRequestError: a type that the kind cannot take; with Strict also unknown and repeated fields.
            PatchedInvalidError: the same, of a patched object.
            InvalidError: an unknown `field_validation`.
        """
        if not isinstance(value, dict):
            raise self._refused(f"json: cannot unmarshal {decode.json_type(value)} into an object", value, patched)
        if field_validation not in ("", STRICT, WARN, IGNORE):
            listed = f'"", "{IGNORE}", "{STRICT}", "{WARN}"'
            why = f'Unsupported value: "{field_validation}": supported values: {listed}'
            raise InvalidError([Cause(NOT_SUPPORTED, why, "fieldValidation")])
        unknown: list[str] = []
        obj: dict[str, Any]
        try:
            if self.custom:
                obj = self._decode_custom(value, unknown)
            else:
                obj = decode.convert(self.schema, value, "", unknown.append)
        except decode.DecodeError as exc:
            raise self._refused(str(exc), value, patched) from exc
        problems = [f'duplicate field "{path}"' for path in duplicates] + [
            f'unknown field "{path}"' for path in unknown
        ]
        if problems and field_validation == STRICT:
            why = f"strict decoding error: {', '.join(problems[:_MAX_REPORTED])}"
            raise self._refused(why, value, patched)
        return obj, problems[:_MAX_REPORTED] if field_validation in ("", WARN) else []

    def validate(self, new: dict[str, Any], old: dict[str, Any] | None = None, *, subresource: str = "") -> None:
        """Whether a decoded object is acceptable; metadata is checked apart (`metadata.validate`).

        Raises:
            InvalidError: with a cause for everything that is wrong.
        """
        causes = self.causes(new, old, subresource=subresource)
        if causes:
            raise InvalidError(causes)

    def causes(
        self,
        new: dict[str, Any],
        old: dict[str, Any] | None = None,
        *,
        subresource: str = "",
        earlier: list[Cause] | None = None,
    ) -> list[Cause]:
        """As `validate`, but gives the causes; `earlier` ones (from `metadata.validate`) come first."""
        if not self.custom:
            return [*(earlier or ()), *([] if subresource == "status" else check.builtin(self.schema, new))]
        return check.custom(self.schema, new, MISSING if old is None else old, earlier)

    def admit(
        self, value: Any, old: dict[str, Any] | None, field_validation: str = WARN, duplicates: Iterable[str] = ()
    ) -> tuple[dict[str, Any], list[str]]:
        """`decode`, then `validate`."""
        obj, warnings = self.decode(value, field_validation=field_validation, duplicates=duplicates)
        self.validate(obj, old)
        return obj, warnings

    def without_status(self, new: dict[str, Any], old: dict[str, Any] | None) -> dict[str, Any]:
        """What a write to the main endpoint keeps of `new`: everything but the status, which stays as it was."""
        if not self.has_status:
            return new
        result = {name: value for name, value in new.items() if name != "status"}
        if old is not None and "status" in old:
            result["status"] = old["status"]
        elif not self.custom and "status" in new and "status" in self.schema.properties:
            result["status"] = {}
        return result

    def only_status(self, new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
        """What a write to the status endpoint keeps of `new`: the status (and metadata.managedFields)."""
        result = {name: value for name, value in old.items() if name != "status"}
        if "status" in new:
            result["status"] = new["status"]
        fresh = new.get("metadata", {})
        kept = dict(old.get("metadata", {}))
        for name in ("managedFields", "resourceVersion"):
            if name in fresh:
                kept[name] = fresh[name]
        return result | {"metadata": kept}

    def _decode_custom(self, value: dict[str, Any], unknown: list[str]) -> dict[str, Any]:
        found = value.get("metadata")
        shallow = {name: item for name, item in value.items() if name != "metadata"}
        meta: Any = {}
        meta_unknown: list[str] = []
        if found is not None:
            meta = decode.convert(self.schema.properties["metadata"], found, "metadata", meta_unknown.append)
        obj = decode.prune(self.schema, shallow, "", unknown.append)
        unknown[:] = [*meta_unknown, *sorted(unknown)]
        for name in ("apiVersion", "kind"):
            if name in obj and not isinstance(obj[name], str):
                raise decode.DecodeError(
                    f"json: cannot unmarshal {decode.json_type(obj[name])} into {name} of type string"
                )
        filled: dict[str, Any] = decode.fill_defaults(self.schema, obj)
        return filled | {"metadata": meta}

    def _refused(self, why: str, value: Any, patched: bool) -> RefusedError:
        if patched:
            return PatchedInvalidError(json.dumps(value, separators=(",", ":")), why)
        return BadRequestError(f'{self.kind} in version "{self.version}" cannot be handled as a {self.kind}: {why}')


# Built-in kinds whose status is written by its own endpoint only.
_WITH_STATUS: Final = frozenset(
    [
        "Namespace",
        "Node",
        "Pod",
        "PersistentVolume",
        "PersistentVolumeClaim",
        "ReplicationController",
        "ResourceQuota",
        "Service",
        "DaemonSet",
        "Deployment",
        "ReplicaSet",
        "StatefulSet",
        "HorizontalPodAutoscaler",
        "CronJob",
        "Job",
        "Ingress",
        "ServiceCIDR",
        "PodDisruptionBudget",
        "CustomResourceDefinition",
    ]
)


@functools.cache
def builtin(group: str, version: str, kind: str) -> Kind | None:
    """A built-in kind, or None when it is not among the served ones."""
    schema = schemas.builtin().find(group, version, kind)
    if schema is None:
        return None
    return Kind(group, version, kind, schema, has_status=kind in _WITH_STATUS)


__all__ = ["IGNORE", "STRICT", "WARN", "Kind", "builtin", "metadata"]
