"""The wire protocol under fuzz: a corpus of conversations (corpus/*.hex), numbers at random, valid talk that is bent.

`stranger-*` is said instead of a hello, `client-*` after one. A conversation may be refused, answered or dropped; the
sidecar has no fault, serves the next client, keeps no memory, and a bystander's arrays stay as they are.
"""

from __future__ import annotations

import array
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.wire.emulator.hostile import frame, live_sidecar, say

from supernode.emulator.client import Emulator, connect
from supernode.emulator.client.connection import Connection
from supernode.emulator.server import Server
from supernode.errors import ProtocolError, SupernodeError

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.hex"))
SECRET = np.frombuffer(b"only the bystander's" * 10, np.uint8)


@pytest.fixture(scope="module")
def live() -> Iterator[Server]:
    with live_sidecar() as server:
        yield server


@pytest.fixture(scope="module")
def bystander(live: Server) -> Iterator[Emulator]:
    with connect(live.config.socket, environment={}) as connected:
        yield connected


def unharmed(came: bytes, bystander: Emulator, held: Any) -> None:
    assert b"has a fault" not in came
    assert b"only the bystander" not in came
    assert held.numpy().tobytes() == SECRET.tobytes()
    assert bystander.devices[1].full(3, 2.0).numpy().tolist() == [2, 2, 2]


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_the_corpus(live: Server, bystander: Emulator, path: Path) -> None:
    held = bystander.devices[0].array(SECRET)
    came = say(live, bytes.fromhex(path.read_text()), hello=path.stem.startswith("client"))
    unharmed(came, bystander, held)
    if path.stem.startswith("stranger"):
        assert b"ProtocolError" in came or came == b""


def test_there_is_a_corpus() -> None:
    assert len(CORPUS) > 80


small = st.integers(-6, 6)
numbers = st.one_of(small, small, small, st.integers(-(1 << 63), (1 << 63) - 1))
ready = [
    ["launch", 0, "full", [], [1], {"shape": [4], "value": 1.0}],
    ["launch", 0, "arange", [], [2], {"start": 0, "stop": 4, "dtype": "i64"}],
    ["prepare", 0, 0, "add", [["f32", [4]], ["f32", [4]]], 1, {}, False],
    ["prepare", 1, 0, "take", [["f32", [4]], ["i64", [4]]], 1, {}, False],
    ["prepare", 2, 0, "add", [["f32", [4]], ["f32", [4]]], 1, {}, True],
    ["prepare", 3, 1, "sum", [["f32", [4]]], 1, {"axis": 0}, False],
]
# Rows that are nearly right reach deeper than noise does.
rows = st.one_of(
    st.tuples(st.just(0), small, small, small),
    st.tuples(st.just(1), small, small, small),
    st.tuples(st.just(2), small, small, small),
    st.tuples(st.just(3), small, small),
    st.tuples(st.just(-1), st.just(1), small),
    st.tuples(st.just(-4), small, small, small, st.just(1), small),
    st.just((-2,)),
    st.lists(numbers, max_size=4).map(tuple),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rows, max_size=20), st.integers(0, 5), st.binary(max_size=9))
def test_rows_of_numbers(live: Server, bystander: Emulator, row: list[tuple[int, ...]], read: int, tail: bytes) -> None:
    held = bystander.devices[0].array(SECRET)
    codes = [-2] * len(ready) + [number for part in row for number in part]
    header = {"commands": ready, "codes": len(codes), "request": ["read", read, -1, 0]}
    came = say(live, frame(header, array.array("q", codes).tobytes() + tail), hello=True)
    unharmed(came, bystander, held)


KINDS = ("all_gather", "all_reduce", "broadcast", "reduce", "reduce_scatter", "all_to_all", "gather", "scatter", "recv")


@pytest.mark.parametrize("kind", [*KINDS, "send", "barrier", "all_to_all_v"])
@pytest.mark.parametrize("root", [0, 1])
def test_a_result_never_shows_what_others_had(live: Server, kind: str, root: int) -> None:
    """Results that a collective is told to make, but does not fill, with buffers that its kind has no use for."""
    mark = 0x5EC2E7
    for _ in range(3):
        with connect(live.config.socket, environment={}) as other:
            arrays = [other.devices[0].array(np.full(5000, mark, np.int32)) for _ in range(8)]
            other.devices[0].launch("add", arrays[0], arrays[1]).numpy()
            del arrays
        connection = Connection(live.config.socket, timeout=10)
        for device in (0, 1):
            own, new = 10 * device + 1, 10 * device + 2
            connection.record(["launch", device, "zeros", [], [own], {"shape": [4], "dtype": "i32"}])
            words = ["collective", device, kind, [0, 1], 0, "i32", 4, "sum", root, 0, own, new, [5000]]
            connection.record(words)
        for device in (0, 1):
            try:
                _, body, _ = connection.request("read", 10 * device + 2, -1, 0)
            except ProtocolError:
                break
            except SupernodeError:
                continue
            found = np.frombuffer(body, np.int32)
            assert not np.isin(found, (mark, 2 * mark)).any()
            assert not found.any()
        connection.close()


def talk(server: Server) -> bytes:
    """What a well-behaved client says in a short program, byte for byte."""
    said = bytearray()
    with connect(server.config.socket, environment={}, transfer="inline") as emulator:
        real = emulator.connection._socket

        class Tap:
            def sendall(self, data: Any) -> None:
                said.extend(bytes(data))
                real.sendall(data)

            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

        emulator.connection._socket = Tap()  # type: ignore[assignment]
        device = emulator.devices[0]
        x = device.array(np.arange(12, dtype=np.float32).reshape(3, 4))
        stream = device.stream(-1)
        for _ in range(3):
            y = device.launch("matmul", x, x, transpose_b=True, stream=stream)
            device.launch("add", y, y, out=y)
        event = stream.record()
        device.default.wait(event)
        y.reshape(9).part(2, (4,)).numpy()
        assert event.seconds > 0
        emulator.synchronize()
        emulator.connection._socket = real
    return bytes(said)


def test_valid_talk_that_is_bent(live: Server, bystander: Emulator) -> None:
    """Bytes changed, dropped, doubled and cut at random places; the seed is fixed, so a failure comes again."""
    said = talk(live)
    assert len(said) > 500
    rng = random.Random(7)
    held = bystander.devices[0].array(SECRET)
    for _ in range(300):
        bent = bytearray(said)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(bent))
            match rng.randrange(5):
                case 0:
                    bent[place] = rng.randrange(256)
                case 1:
                    bent[place] ^= 1 << rng.randrange(8)
                case 2:
                    del bent[place : place + rng.randint(1, 40)]
                case 3:
                    bent[place:place] = bent[place : place + rng.randint(1, 40)]
                case _:
                    del bent[place:]
            if not bent:
                break
        unharmed(say(live, bytes(bent), hello=True), bystander, held)
