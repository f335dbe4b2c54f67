"""The rules for metadata that hold for every kind: names, labels, annotations, finalizers, owners, and what may not
change."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from supernode.local.machinery.fieldset import text
from supernode.local.machinery.refusals import FORBIDDEN, INVALID, REQUIRED, TOO_LONG, Cause

_LABEL: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN: Final = rf"{_LABEL}(\.{_LABEL})*"
_SERVICE: Final = r"[a-z]([-a-z0-9]*[a-z0-9])?"
_NAME: Final = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE: Final = rf"({_NAME})?"
_MAX_ANNOTATIONS: Final = 256 * 1024
_SET_BY_SERVER: Final = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink")


def _subdomain(name: str) -> Iterable[str]:
    if len(name) > 253:
        yield "must be no more than 253 bytes"
    if not re.fullmatch(_SUBDOMAIN, name):
        yield (
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
            f"start and end with an alphanumeric character (e.g. 'example.com', regex used for "
            f"validation is '{_SUBDOMAIN}')"
        )


def _label(name: str) -> Iterable[str]:
    if len(name) > 63:
        yield "must be no more than 63 bytes"
    if not re.fullmatch(_LABEL, name):
        yield (
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and "
            f"end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for "
            f"validation is '{_LABEL}')"
        )


def _service(name: str) -> Iterable[str]:
    if len(name) > 63:
        yield "must be no more than 63 bytes"
    if not re.fullmatch(_SERVICE, name):
        yield (
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
            "character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for "
            f"validation is '{_SERVICE}')"
        )


def _path(name: str) -> Iterable[str]:
    if name in (".", ".."):
        yield f"may not be '{name}'"
    for character in ("/", "%"):
        if character in name:
            yield f"may not contain '{character}'"


NAME_RULES: Final[dict[str, Callable[[str], Iterable[str]]]] = {
    "subdomain": _subdomain,
    "label": _label,
    "service": _service,
    "path": _path,
}


def _qualified(key: str) -> Iterable[str]:
    parts = key.split("/")
    if len(parts) > 2:
        yield (
            "a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with "
            "an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
            f"'{_NAME}')"
            " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        )
        return
    name = parts[-1]
    if len(parts) == 2:
        if not parts[0]:
            yield "prefix part must be non-empty"
        else:
            yield from (f"prefix part {problem}" for problem in _subdomain(parts[0]))
    if not name:
        yield "name part must be non-empty"
    elif len(name) > 63:
        yield "name part must be no more than 63 bytes"
    if not re.fullmatch(_NAME, name):
        yield (
            "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
            f"alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for "
            f"validation is '{_NAME}')"
        )


def _value(value: str) -> Iterable[str]:
    if len(value) > 63:
        yield "must be no more than 63 bytes"
    if not re.fullmatch(_VALUE, value):
        yield (
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
            "start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for "
            f"validation is '{_VALUE}')"
        )


def validate(
    obj: dict[str, Any], old: dict[str, Any] | None = None, *, namespaced: bool, name_rule: str = "subdomain"
) -> list[Cause]:
    """What is wrong with an object's metadata; with `old`, also what may not change.

    Args:
        obj: the decoded object.
        old: the stored object of an update.
        namespaced: whether the kind lives in namespaces.
        name_rule: a key of `NAME_RULES`.
    """
    meta: dict[str, Any] = obj.get("metadata") or {}
    causes: list[Cause] = []

    def invalid(where: str, value: Any, why: str) -> None:
        causes.append(Cause(INVALID, f"Invalid value: {text(value)}: {why}", f"metadata.{where}"))

    _names(meta, namespaced, name_rule, causes, invalid)
    for key, value in (meta.get("labels") or {}).items():
        for why in _qualified(key):
            invalid("labels", key, why)
        for why in _value(value):
            invalid("labels", value, why)
    total = 0
    for key, value in (meta.get("annotations") or {}).items():
        total += len(key.encode()) + len(value.encode())
        for why in _qualified(key.lower()):
            invalid("annotations", key, why)
    if total > _MAX_ANNOTATIONS:
        why = f"Too long: may not be more than {_MAX_ANNOTATIONS} bytes"
        causes.append(Cause(TOO_LONG, why, "metadata.annotations"))
    _owners(meta, causes)
    for finalizer in meta.get("finalizers") or ():
        for why in _qualified(finalizer):
            invalid("finalizers", finalizer, why)
    if old is not None:
        _changes(meta, old.get("metadata") or {}, causes, invalid)
    return causes


def _names(
    meta: dict[str, Any],
    namespaced: bool,
    name_rule: str,
    causes: list[Cause],
    invalid: Callable[[str, Any, str], None],
) -> None:
    check = NAME_RULES[name_rule]
    if prefix := meta.get("generateName"):
        # A trailing dash is fine, the random suffix follows it.
        for why in check(prefix[:-1] + "a" if prefix.endswith("-") else prefix):
            invalid("generateName", prefix, why)
    name = meta.get("name")
    if name:
        for why in check(name):
            invalid("name", name, why)
    elif not meta.get("generateName"):
        causes.append(Cause(REQUIRED, "Required value: name or generateName is required", "metadata.name"))
    namespace = meta.get("namespace")
    if namespaced:
        if not namespace:
            causes.append(Cause(REQUIRED, "Required value", "metadata.namespace"))
        else:
            for why in _label(namespace):
                invalid("namespace", namespace, why)
    elif namespace:
        causes.append(Cause(FORBIDDEN, "Forbidden: not allowed on this type", "metadata.namespace"))


def _owners(meta: dict[str, Any], causes: list[Cause]) -> None:
    controllers = []
    for index, owner in enumerate(meta.get("ownerReferences") or ()):
        path = f"metadata.ownerReferences[{index}]"
        version = owner.get("apiVersion") or ""
        if version.count("/") > 1 or version.startswith("/"):
            why = f"Invalid value: {text(version)}: version must not be empty"
            causes.append(Cause(INVALID, why, f"{path}.apiVersion"))
        for name in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(name):
                causes.append(Cause(REQUIRED, "Required value: must not be empty", f"{path}.{name}"))
        if owner.get("controller"):
            controllers.append(f"{owner.get('kind')}/{owner.get('name')}")
    if len(controllers) > 1:
        both = f"{controllers[0]} and {controllers[1]}"
        why = f'Only one reference can have Controller set to true. Found "true" in references for {both}'
        shown = json.dumps(meta["ownerReferences"], separators=(",", ":"))
        causes.append(Cause(INVALID, f"Invalid value: {shown}: {why}", "metadata.ownerReferences"))


def _changes(
    meta: dict[str, Any], old: dict[str, Any], causes: list[Cause], invalid: Callable[[str, Any, str], None]
) -> None:
    for name in ("name", "namespace", *_SET_BY_SERVER):
        if meta.get(name) != old.get(name) and (name in ("name", "namespace") or name in meta):
            invalid(name, meta.get(name), "field is immutable")
    if old.get("deletionTimestamp"):
        added = [entry for entry in meta.get("finalizers") or () if entry not in (old.get("finalizers") or ())]
        if added:
            listed = ", ".join(text(entry) for entry in added)
            why = "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers "
            why += f"[]string{{{listed}}}"
            causes.append(Cause(FORBIDDEN, why, "metadata.finalizers"))
    if (meta.get("generation") or 0) < (old.get("generation") or 0):
        invalid("generation", meta.get("generation"), "must not be decremented")
