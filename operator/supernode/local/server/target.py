"""What a write is about, how it is asked for and what it did; and the checks that need nothing but the body.

Values and pure functions, shared by `objects`, `deletion`, `subresources` and `surface`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from supernode.local.machinery.refusals import Cause, InvalidError, RefusedError
from supernode.local.server import statuses
from supernode.local.server.kinds import Served
from supernode.local.server.statuses import Object, StatusError
from supernode.local.server.store import Stored

_STANDARD_FINALIZERS: Final = frozenset(
    {"orphan", "foregroundDeletion", "kubernetes", "customresourcecleanup.apiextensions.k8s.io"}
)
_SHOWN: Final = 30  # characters of a body that a refusal repeats
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
    part: str = ""  # the subresource that the fields were written through, when it is not the target's


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
    # What is stored in another group's form is also judged as one of that group.
    group = target.served.group if target.served.traits.view is None else target.served.store[0]
    status = error.status(group, target.served.kind, target.name)
    return StatusError(status["code"], status.get("reason", ""), status["message"], status.get("details"))


@contextlib.contextmanager
def saying(warnings: Sequence[str]) -> Iterator[None]:
    """A refusal inside carries these warnings too."""
    try:
        yield
    except StatusError as exc:
        exc.warnings = (*warnings, *exc.warnings)
        raise


def check_uid(target: Target, new: Object, old: Object) -> None:
    """A patch cannot make it another object.

    Raises:
        StatusError: 422.
    """
    given = (new.get("metadata") or {}).get("uid")
    if given and given != old["metadata"]["uid"]:
        raise refused(target, InvalidError([statuses.invalid_value("metadata.uid", given, "field is immutable")]))


def is_finished(obj: Object) -> bool:
    """Whether an object is being deleted and nothing holds it any more."""
    meta = obj["metadata"]
    held = meta.get("finalizers") or meta.get("deletionGracePeriodSeconds")
    return bool(meta.get("deletionTimestamp")) and not held


def check_type(target: Target, value: Object) -> None:
    """Refuse a body of another type than the endpoint's; a body that says none gets it."""
    expected = (target.served.api_version, target.served.kind)
    given = (value.get("apiVersion"), value.get("kind"))
    if target.served.custom is not None:
        _check_custom_type(target, value)
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


def _check_custom_type(target: Target, value: Object) -> None:
    """A custom object says what it is."""
    kind = target.served.kind
    for name, shown in (("kind", "Kind"), ("apiVersion", "apiVersion")):
        if not value.get(name):
            text = json.dumps(value)
            short = text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."
            raise statuses.bad_request(
                f"the object provided is unrecognized (must be of type {kind}): "
                f"Object '{shown}' is missing in '{text}' ({short})"
            )
    if value["kind"] != kind and value["apiVersion"] == target.served.api_version:
        cause = statuses.invalid_value("kind", value["kind"], f"must be {kind}")
        status = InvalidError([cause]).status(
            target.served.group, value["kind"], (value.get("metadata") or {}).get("name", "")
        )
        raise StatusError(status["code"], status["reason"], status["message"], status.get("details"))


def check_applied(target: Target, config: Object) -> None:
    """What every applied configuration must say, and may not.

    Raises:
        StatusError: 400, no type or another one, or a list of managers.
    """
    if config.get("apiVersion") != target.served.api_version or config.get("kind") != target.served.kind:
        group, _, version = str(config.get("apiVersion") or "").rpartition("/")
        raise statuses.bad_request(f"invalid object type: {group}/{version}, Kind={config.get('kind') or ''}")
    if (config.get("metadata") or {}).get("managedFields") is not None:
        raise statuses.bad_request("metadata.managedFields must be nil")


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
