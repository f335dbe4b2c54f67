"""What a write is about, how it is asked for and what it did; and the checks that need nothing but the body.

Values and pure functions, shared by `objects`, `deletion`, `subresources` and `surface`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from supernode.local.machinery.refusals import Cause, RefusedError
from supernode.local.server import statuses
from supernode.local.server.kinds import Served
from supernode.local.server.statuses import Object, StatusError
from supernode.local.server.store import Stored

_STANDARD_FINALIZERS: Final = frozenset(
    {"orphan", "foregroundDeletion", "kubernetes", "customresourcecleanup.apiextensions.k8s.io"}
)
JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_PATCH: Final = "application/strategic-merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"


@dataclass(frozen=True)
class Write:
    """How a write is asked for."""

    manager: str
    validation: str = "Warn"  # fieldValidation: Strict, Warn or Ignore
    dry_run: bool = False
    force: bool = False  # server-side apply takes fields over
    duplicates: tuple[str, ...] = ()  # keys that stood twice in the body


@dataclass(frozen=True)
class Target:
    """One object, or the place for one."""

    served: Served
    namespace: str
    name: str
    subresource: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Key in the store."""
        return (self.namespace, self.name)


@dataclass(frozen=True)
class Written:
    """What a write did."""

    stored: Stored
    created: bool = False
    warnings: tuple[str, ...] = ()


def refused(target: Target, error: RefusedError) -> StatusError:
    """A refusal by the machinery, with the object it is about."""
    status = error.status(target.served.group, target.served.kind, target.name)
    return StatusError(status["code"], status["reason"], status["message"], status.get("details"))


def is_finished(obj: Object) -> bool:
    """Whether an object is being deleted and nothing holds it any more."""
    meta = obj["metadata"]
    held = meta.get("finalizers") or meta.get("deletionGracePeriodSeconds")
    return bool(meta.get("deletionTimestamp")) and not held


def check_type(target: Target, value: Object) -> None:
    """Refuse a body of another type than the endpoint's; a body that says none gets it."""
    expected = (target.served.api_version, target.served.kind)
    given = (value.get("apiVersion"), value.get("kind"))
    value.setdefault("apiVersion", expected[0])
    value.setdefault("kind", expected[1])
    if given[0] and given[0] != expected[0]:
        text = f"the API version in the data ({given[0]}) does not match the expected API version ({expected[0]})"
        if target.served.custom is None:
            text = (
                f'{given[1]} in version "{given[0].rpartition("/")[2]}" cannot be handled as a {expected[1]}: '
                f'no kind "{given[1]}" is registered for version "{given[0]}"'
            )
        raise statuses.bad_request(text)
    if given[1] and given[1] != expected[1]:
        text = f'{given[1]} in version "{expected[0].rpartition("/")[2]}" cannot be handled as a {expected[1]}: '
        text += f"converting ({given[1]}) to ({expected[1]}): unknown conversion"
        raise statuses.bad_request(text)


def check_namespace(target: Target, value: Object) -> None:
    """Refuse a body that names another namespace than the path."""
    given = (value.get("metadata") or {}).get("namespace")
    if target.served.namespaced and given and given != target.namespace:
        raise statuses.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )


def check_finalizers(meta: Object) -> list[Cause]:
    """Finalizers of built-in kinds are the standard ones, or carry their owner's domain."""
    why = "name is neither a standard finalizer name nor is it fully qualified"
    return [
        statuses.invalid_value(f"metadata.finalizers[{index}]", each, why)
        for index, each in enumerate(meta.get("finalizers") or ())
        if "/" not in each and each not in _STANDARD_FINALIZERS
    ]


def intersect(said: Any, kept: Any) -> Any:
    """`said` without what decoding took out (unknown fields), and with decoded values."""
    if isinstance(said, dict) and isinstance(kept, dict):
        return {key: intersect(value, kept[key]) for key, value in said.items() if key in kept}
    if isinstance(said, list) and isinstance(kept, list) and len(said) == len(kept):
        return [intersect(left, right) for left, right in zip(said, kept, strict=True)]
    return kept
