"""The bytes of a pod, by the wire format's own rules; that a real server reads them is tested with one."""

from __future__ import annotations

from typing import Any

import pytest

from supernode.cluster.kinds import Json
from supernode.cluster.protobuf import MAGIC, PodEncoder


def a_pod(**spec: Any) -> Json:
    container = {"name": "c", "image": "i"}
    metadata = {"name": "p", "namespace": "n"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container], **spec}}


def envelope(raw: bytes) -> bytes:
    assert len(raw) < 128
    return MAGIC + b"\x0a\x09\x0a\x02v1\x12\x03Pod" + b"\x12" + bytes((len(raw),)) + raw + b"\x1a\x00\x22\x00"


BASE = b"\x0a\x06\x0a\x01p\x1a\x01n"
CONTAINER = b"\x12\x06\x0a\x01c\x12\x01i"


@pytest.mark.parametrize(
    ("spec", "data"),
    [
        ({}, b""),
        ({"nodeName": None}, b""),
        ({"nodeName": "n"}, b"\x52\x01n"),
        ({"hostNetwork": False}, b"\x58\x00"),
        ({"terminationGracePeriodSeconds": 300}, b"\x20\xac\x02"),
        ({"priority": -1}, b"\xc8\x01" + b"\xff" * 9 + b"\x01"),
        ({"nodeSelector": {"a": "b"}}, b"\x3a\x06\x0a\x01a\x12\x01b"),
        ({"overhead": {"cpu": "1"}}, b"\x82\x02\x0a\x0a\x03cpu\x12\x03\x0a\x011"),
        # A volume's source stands among the volume's own fields, and in a message of its own in the bytes.
        ({"volumes": [{"name": "v", "emptyDir": {}}]}, b"\x0a\x07\x0a\x01v\x12\x02\x12\x00"),
        ({"securityContext": {"supplementalGroups": [1, 2]}}, b"\x72\x04\x20\x01\x20\x02"),
    ],
)
def test_each_type_is_written_as_the_format_says(spec: Json, data: bytes) -> None:
    spec_bytes = CONTAINER + data
    expected = envelope(BASE + b"\x12" + bytes((len(spec_bytes),)) + spec_bytes)
    encoder = PodEncoder()
    assert encoder.encode(a_pod(**spec)) == expected
    assert encoder.encode(a_pod(**spec)) == expected, "from memory"


@pytest.mark.parametrize(
    "spec",
    [
        {"fieldOfTheFuture": 1},
        {"nodeName": 5},
        {"nodeName": "\ud800"},
        {"hostNetwork": "yes"},
        {"priority": True},
        {"priority": 1 << 70},
        {"priority": 1.0},
        {"volumes": {}},
        {"nodeSelector": []},
        {"overhead": {"cpu": 0.1}},
        {"securityContext": "none"},
        {"containers": [{"name": "c", "ports": [{"containerPort": "80"}]}]},
        {"containers": [{"name": "c", "env": [{"name": "A", "value": 1}]}]},
    ],
)
def test_what_is_not_known_or_of_another_type_goes_as_json(spec: Json) -> None:
    encoder = PodEncoder()
    assert encoder.encode(a_pod()) is not None
    assert encoder.encode(a_pod(**spec)) is None
    assert encoder.encode(a_pod()) == PodEncoder().encode(a_pod()), "and the next one is as if nothing had been"


def test_pods_that_differ_are_encoded_as_if_each_were_the_first() -> None:
    encoder = PodEncoder()
    specs: list[Json] = [{"nodeName": "a"}, {"nodeName": "b", "hostname": "h"}, {"hostname": "h"}, {"nodeName": "a"}]
    for spec in specs:
        assert encoder.encode(a_pod(**spec)) == PodEncoder().encode(a_pod(**spec))
