"""Pods in Kubernetes' protobuf form, which costs an API server far less to read than JSON.

Flows in: a pod as JSON. Flows out: the same pod in bytes, or None where it has a field that is not known here or a
value of another type than the field's: that pod goes as JSON, and the server says itself what is wrong with it.
`pod_fields.json` has every field of a new pod: its number on the wire and its type, as the struct tags of
`k8s.io/api/core/v1` and `k8s.io/apimachinery/pkg/apis/meta/v1` v0.37.2 have them. Numbers never change their meaning.
A name that begins with "+" is a part whose fields stand in the JSON object itself.

The pods of a gang are nearly the same: an encoder remembers what it has encoded last at each place, and encodes again
only what differs.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Final

from supernode.cluster.kinds import Json

#: Media type of the form.
PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
#: The first bytes of everything in it.
MAGIC: Final = b"k8s\0"


class _UnknownError(Exception):
    """A field or a type that is not known here."""


@dataclass(slots=True)
class _Field:
    """`key`: number and wire type, as they stand before the value. `many`: `*` a list, `{}` a map, else one."""

    key: bytes
    kind: str
    many: str


@dataclass(slots=True)
class _Shape:
    """A message. `inner`: its part whose fields stand among its own."""

    fields: dict[str, _Field] = field(default_factory=dict)
    inner: _Field | None = None


@dataclass(slots=True)
class _Memory:
    """What was encoded last at one place, and what lies below it."""

    value: Any = None
    data: bytes | None = None
    below: dict[Any, _Memory] = field(default_factory=dict)


# The value of an entry of a map.
_VALUE: Final = {kind: _Field(b"\x12", kind, "") for kind in ("text", "base64", "Quantity")}


class PodEncoder:
    """Encodes pods that are alike, one after the other."""

    def __init__(self) -> None:
        self._shapes = _shapes()
        self._memory = _Memory()

    def encode(self, pod: Json) -> bytes | None:
        """The pod in protobuf; None where it must go as JSON."""
        try:
            body = {name: value for name, value in pod.items() if name not in ("apiVersion", "kind")}
            raw = self._message("Pod", body, self._memory)
        except _UnknownError:
            return None
        kind = _sized(b"\x0a", b"v1") + _sized(b"\x12", b"Pod")
        return MAGIC + _sized(b"\x0a", kind) + _sized(b"\x12", raw) + b"\x1a\x00\x22\x00"

    def _message(self, kind: str, value: Any, memory: _Memory) -> bytes:
        if not isinstance(value, dict):
            raise _UnknownError
        shape = self._shapes[kind]
        parts: list[bytes] = []
        rest: Json = {}
        for name, item in value.items():
            if item is None:
                continue
            known = shape.fields.get(name)
            if known is None:
                rest[name] = item
                continue
            place = memory.below.get(name)
            if place is None:
                place = memory.below[name] = _Memory()
            if place.data is None or (place.value is not item and place.value != item):
                place.data = self._field(known, item, place)
                place.value = item
            parts.append(place.data)
        if rest:
            if shape.inner is None:
                raise _UnknownError
            place = memory.below.setdefault("+", _Memory())
            parts.append(_sized(shape.inner.key, self._message(shape.inner.kind, rest, place)))
        return b"".join(parts)

    def _field(self, known: _Field, value: Any, memory: _Memory) -> bytes:
        if not known.many:
            return self._one(known, value, memory)
        if known.many == "*":
            if not isinstance(value, list):
                raise _UnknownError
            parts = []
            below = memory.below
            for index, item in enumerate(value):
                place = below.get(index)
                if place is None:
                    place = below[index] = _Memory()
                if place.data is None or (place.value is not item and place.value != item):
                    place.data = self._one(known, item, place)
                    place.value = item
                parts.append(place.data)
            return b"".join(parts)
        if not isinstance(value, dict):
            raise _UnknownError
        entries = []
        for name, item in value.items():
            place = memory.below.get(name)
            if place is None:
                place = memory.below[name] = _Memory()
            if place.data is None or place.value != item:
                place.data = _sized(
                    known.key, _sized(b"\x0a", _text(name)) + self._one(_VALUE[known.kind], item, place)
                )
                place.value = item
            entries.append(place.data)
        return b"".join(entries)

    def _one(self, known: _Field, value: Any, memory: _Memory) -> bytes:
        own = _ENCODERS.get(known.kind)
        if own is not None:
            return known.key + own(value)
        return _sized(known.key, self._message(known.kind, value, memory))


@cache
def _shapes() -> dict[str, _Shape]:
    table = json.loads(files("supernode.cluster").joinpath("pod_fields.json").read_text(encoding="utf-8"))
    shapes = {}
    for message, fields in table.items():
        shape = shapes[message] = _Shape()
        for name, (number, said) in fields.items():
            kind = said.lstrip("*{}")
            known = _Field(_varint(number << 3 | (0 if kind in ("bool", "int") else 2)), kind, said[: -len(kind)])
            if name.startswith("+"):
                shape.inner = known
            else:
                shape.fields[name] = known
    return shapes


def _varint(number: int) -> bytes:
    if 0 <= number < 128:
        return bytes((number,))
    if not -(1 << 63) <= number < 1 << 63:
        raise _UnknownError
    number &= (1 << 64) - 1
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _sized(key: bytes, data: bytes) -> bytes:
    return key + _varint(len(data)) + data


def _text(value: Any) -> bytes:
    if not isinstance(value, str):
        raise _UnknownError
    try:
        return value.encode()
    except UnicodeEncodeError as exc:
        raise _UnknownError from exc


def _whole_text(value: Any) -> bytes:
    data = _text(value)
    return _varint(len(data)) + data


def _bool(value: Any) -> bytes:
    if not isinstance(value, bool):
        raise _UnknownError
    return b"\x01" if value else b"\x00"


def _int(value: Any) -> bytes:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _UnknownError
    return _varint(value)


def _bytes(value: Any) -> bytes:
    try:
        data = base64.b64decode(_text(value), validate=True)
    except binascii.Error as exc:
        raise _UnknownError from exc
    return _varint(len(data)) + data


def _quantity(value: Any) -> bytes:
    # A number stands for its own digits; a float might stand for others than the user wrote.
    text = str(_whole(value)) if not isinstance(value, str) else value
    data = _sized(b"\x0a", _text(text))
    return _varint(len(data)) + data


def _int_or_text(value: Any) -> bytes:
    if isinstance(value, str):
        data = b"\x08\x01" + _sized(b"\x1a", _text(value))
    else:
        data = b"\x08\x00\x10" + _varint(_whole(value))
    return _varint(len(data)) + data


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _UnknownError
    return value


def _never(value: Any) -> bytes:
    raise _UnknownError


# How a value is written after its key; all others are messages.
_ENCODERS: Final[dict[str, Callable[[Any], bytes]]] = {
    "text": _whole_text,
    "bool": _bool,
    "int": _int,
    "base64": _bytes,
    "Quantity": _quantity,
    "IntOrString": _int_or_text,
    "Time": _never,  # nobody sets one of a new pod
}
