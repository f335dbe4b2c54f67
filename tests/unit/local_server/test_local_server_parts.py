"""Small parts of the API server: paths, negotiation, faults, certificate, protobuf, garbage in the store."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernode.local.server import Faults, make_certificate, protobuf
from supernode.local.server.negotiation import aggregated_version, negotiate
from supernode.local.server.paths import Place, parse
from supernode.local.server.statuses import StatusError


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/api/v1/pods", Place("", "v1", None, "pods")),
        ("/api/v1/namespaces/x", Place("", "v1", None, "namespaces", "x")),
        ("/api/v1/namespaces/x/status", Place("", "v1", None, "namespaces", "x", "status")),
        ("/api/v1/namespaces/x/pods/p/log", Place("", "v1", "x", "pods", "p", "log")),
        ("/apis/apps/v1/namespaces/x/deployments/d/scale", Place("apps", "v1", "x", "deployments", "d", "scale")),
        ("/apis/x.dev/v1/namespaces/n/widgets", Place("x.dev", "v1", "n", "widgets")),
        ("/api/v1/watch/pods", Place("", "v1", None, "pods", watch=True)),
        ("/api/v1/nodes/a%2Fb", Place("", "v1", None, "nodes", "a/b")),
        ("/api/v1", None),
        ("/healthz", None),
        ("/", None),
    ],
)
def test_paths(path: str, place: Place | None) -> None:
    assert parse(path) == place


@pytest.mark.parametrize(
    ("accept", "shape"),
    [
        ("", "object"),
        ("*/*", "object"),
        ("application/vnd.kubernetes.protobuf,application/json", "object"),
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "table"),
        ("application/json;as=Table;v=v9;g=meta.k8s.io,application/json", "object"),
        ("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", "partial"),
    ],
)
def test_negotiation(accept: str, shape: str) -> None:
    assert negotiate(accept).shape == shape


def test_what_cannot_be_produced_is_refused() -> None:
    with pytest.raises(StatusError) as caught:
        negotiate("application/vnd.kubernetes.protobuf, application/cbor")
    assert caught.value.code == 406


def test_discovery_prefers_what_comes_first() -> None:
    form = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    assert aggregated_version(f"{form},application/json") == "v2"
    assert aggregated_version(f"application/json,{form}") is None


def test_the_same_seed_gives_the_same_faults() -> None:
    def run() -> list[str]:
        faults = Faults(seed=7, conflict=0.3, throttle=0.2, error=0.1)
        refusals = [faults.refusal("update") for _ in range(200)]
        assert sum(faults.counts.values()) == sum(each is not None for each in refusals)
        return [each.reason if each else "" for each in refusals]

    assert run() == run()
    assert set(run()) == {"", "Conflict", "TooManyRequests", "InternalError"}
    assert all(Faults().refusal("update") is None for _ in range(100))


def test_conflicts_strike_only_where_they_can_occur() -> None:
    faults = Faults(conflict=1.0)
    assert faults.refusal("create") is None
    refusal = faults.refusal("patch")
    assert refusal is not None
    assert refusal.code == 409


def test_the_certificate_is_accepted_as_its_own_authority() -> None:
    certificate = make_certificate(("127.0.0.1", "localhost"))
    client = ssl.create_default_context(cadata=certificate.pem)
    one, two = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(one, two, server_hostname="127.0.0.1")
    far = certificate.context().wrap_bio(two, one, server_side=True)
    open_ends = [near, far, near, far]
    for end in open_ends:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    names = near.getpeercert()
    assert names is not None
    assert names["subjectAltName"] == (("IP Address", "127.0.0.1"), ("DNS", "localhost"))


def _field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2, len(value)]) + value


def test_a_protobuf_body_is_read() -> None:
    meta = _field(1, b"v1") + _field(2, b"ConfigMap")
    entry = _field(1, b"key") + _field(2, b"value")
    raw = _field(1, _field(1, b"name") + _field(3, b"")) + _field(2, entry)
    body = protobuf.MAGIC + _field(1, meta) + _field(2, raw)
    assert protobuf.load(body) == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "name"},
        "data": {"key": "value"},
    }


@given(st.binary(max_size=200))
def test_protobuf_garbage_is_refused_and_nothing_else(noise: bytes) -> None:
    meta = _field(1, b"v1") + _field(2, b"Pod")
    for body in (noise, protobuf.MAGIC + noise, protobuf.MAGIC + _field(1, meta) + b"\x12" + noise):
        try:
            protobuf.load(body)
        except StatusError as exc:
            assert exc.code in (400, 415)
