"""Reads Kubernetes' protobuf request bodies: `kubectl create` and other typed Go clients send nothing else.

In: the bytes of a body (`k8s` and a zero byte, then a `runtime.Unknown` around the object). Out: the object as JSON
would say it. Answers are never protobuf: such clients accept JSON too. Message names and field numbers are facts from
Kubernetes' `generated.proto` files, in protobuf.json (made by tests/conformance/extract_protobuf.py).
"""

from __future__ import annotations

import base64
import functools
import json
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import resources
from typing import Any, Final

from supernode.local.server import statuses
from supernode.local.server.statuses import Object

MAGIC: Final = b"k8s\0"
# Messages that stand in JSON as if their fields were the parent's own (Go's embedded structs).
_EMBEDDED: Final = {
    "localObjectReference",
    "ephemeralContainerCommon",
    "persistentVolumeSource",
    "handler",
    "volumeSource",
    "ingressRuleValue",
}
# Go writes every field that is no pointer, even if it is empty; JSON leaves those out. These are pointers: a zero that
# is written was meant.
_MEANT: Final = {
    "replicas",
    "terminationGracePeriodSeconds",
    "activeDeadlineSeconds",
    "gracePeriodSeconds",
    "parallelism",
    "completions",
    "backoffLimit",
    "ttlSecondsAfterFinished",
    "defaultMode",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "runAsUser",
    "runAsGroup",
    "fsGroup",
    "runAsNonRoot",
    "allowPrivilegeEscalation",
    "privileged",
    "readOnlyRootFilesystem",
    "tolerationSeconds",
    "partition",
    "blockOwnerDeletion",
    "controller",
    "revisionHistoryLimit",
    "expirationSeconds",
}
_PACKAGES: Final = {"": "core", "rbac.authorization.k8s.io": "rbac"}
_SIGNED: Final = ("int32", "int64")
_TOO_SHORT: Final = "the protobuf body ends early or is damaged"

Fields = dict[str, list[str]]


@functools.cache
def _messages() -> dict[str, Fields]:
    text = resources.files("supernode.local.server").joinpath("protobuf.json").read_text()
    found: dict[str, Fields] = json.loads(text)["messages"]
    return found


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(data) or shift > 63:
            raise statuses.bad_request(_TOO_SHORT)
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7


def _parts(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) in order; values are integers or bytes."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 0:
            number, place = _varint(data, place)
            yield key >> 3, number
            continue
        if kind == 2:
            size, place = _varint(data, place)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise statuses.bad_request(_TOO_SHORT)
        if place + size > len(data):
            raise statuses.bad_request(_TOO_SHORT)
        yield key >> 3, data[place : place + size]
        place += size


def _time(data: bytes, *, micro: bool) -> str | None:
    found = {number: int(value) for number, value in _parts(data) if isinstance(value, int)}
    seconds = _signed(found.get(1, 0))
    if seconds <= 0:
        return None  # Go's zero time
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError) as exc:
        raise statuses.bad_request(_TOO_SHORT) from exc
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{found.get(2, 0) // 1000:06d}Z" if micro else f"{text}Z"


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _scalar(kind: str, value: int | bytes) -> Any:
    if isinstance(value, int):
        if kind == "bool":
            return bool(value)
        return _signed(value) if kind in _SIGNED else value
    if kind == "bytes":
        return base64.b64encode(value).decode()
    if kind == "double" and len(value) == 8:
        return struct.unpack("<d", value)[0]
    return value.decode(errors="replace")


def _special(kind: str, data: bytes) -> tuple[bool, Any]:
    """Messages whose JSON is not an object of their fields: (whether it is one, value)."""
    parts = dict(_parts(data)) if kind in ("util.intstr.IntOrString", "api.resource.Quantity") else {}
    match kind:
        case "meta.v1.Time" | "meta.v1.MicroTime":
            return True, _time(data, micro=kind.endswith("MicroTime"))
        case "api.resource.Quantity":
            return True, _scalar("string", parts.get(1, b""))
        case "util.intstr.IntOrString":
            if parts.get(1, 0) == 1:
                return True, _scalar("string", parts.get(3, b""))
            return True, _scalar("int32", parts.get(2, 0))
        case "meta.v1.FieldsV1" | "runtime.RawExtension":
            raw = next((value for number, value in _parts(data) if number == 1 and isinstance(value, bytes)), b"null")
            return True, _json(raw)
        case "meta.v1.Verbs" | "api.authentication.v1.ExtraValue" | "api.authorization.v1.ExtraValue":
            return True, [_scalar("string", value) for number, value in _parts(data) if number == 1]
    return False, None


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw or b"null")
    except ValueError as exc:
        raise statuses.bad_request(_TOO_SHORT) from exc


def _value(kind: str, value: int | bytes) -> Any:
    if kind not in _messages():
        return _scalar(kind, value)
    if isinstance(value, int):
        raise statuses.bad_request(_TOO_SHORT)
    special, found = _special(kind, value)
    return found if special else _message(kind, value)


def _pair(kind: str, data: int | bytes) -> tuple[str, Any]:
    """An entry of a map."""
    if isinstance(data, int):
        raise statuses.bad_request(_TOO_SHORT)
    found = dict(_parts(data))
    key = _scalar("string", found.get(1, b""))
    return str(key), _value(kind, found.get(2, b""))


def _message(kind: str, data: bytes) -> Object:
    fields = _messages()[kind]
    result: Object = {}
    for number, value in _parts(data):
        if str(number) not in fields:
            continue
        name, label, inner = fields[str(number)]
        if label == "map":
            key, item = _pair(inner, value)
            result.setdefault(name, {})[key] = item
        elif label == "list":
            result.setdefault(name, []).append(_value(inner, value))
        elif name in _EMBEDDED:
            result.update(_value(inner, value))
        else:
            found = _value(inner, value)
            if found is not None and (found not in (0, "") or found is False or name in _MEANT):
                result[name] = found
            if found is False and name not in _MEANT:
                result.pop(name, None)
    return result


def load(body: bytes) -> Object:
    """The object that a protobuf body carries.

    Raises:
        StatusError: 400 the body is damaged, 415 a kind that is not known here.
    """
    if not body.startswith(MAGIC):
        raise statuses.bad_request(_TOO_SHORT)
    meta: Object = {}
    raw = b""
    for number, value in _parts(body[len(MAGIC) :]):
        if isinstance(value, bytes) and number == 1:
            meta = _message("runtime.TypeMeta", value)
        elif isinstance(value, bytes) and number == 2:
            raw = value
    group, _, version = str(meta.get("apiVersion", "")).rpartition("/")
    package = _PACKAGES.get(group, group.partition(".")[0])
    kind = f"api.{package}.{version}.{meta.get('kind', '')}"
    if meta.get("kind") == "DeleteOptions":
        kind = "meta.v1.DeleteOptions"
    if kind not in _messages():
        text = f"{meta.get('apiVersion')} {meta.get('kind')} as protobuf"
        raise statuses.unsupported_media_type(text, ("application/json", "application/yaml"))
    return {**meta, **_message(kind, raw)}
