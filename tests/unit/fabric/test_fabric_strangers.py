"""What comes in without the secret is read as far as its fixed-size messages and no further, on TCP and beside it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.fabric.pods import SECRET, a_job, at_once, run

from supernode.emulator.fabric import CollectiveCall, congestion, frames, handshake
from supernode.emulator.fabric.memory import (
    Board,
    board_bytes,
    door_name,
    half,
    receive_descriptors,
    see_board,
    send_descriptors,
)
from supernode.emulator.fabric.reception import dial
from supernode.errors import EmulatorError, ProtocolError


@pytest.fixture(scope="module")
def job():
    with a_job(2, 1) as fabrics:
        yield fabrics


def doors(job) -> list[tuple[str, int] | bytes]:
    host, port = job[0].address
    return [(host, port), door_name(SECRET, host, port)]


def connect(where: tuple[str, int] | bytes) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX if isinstance(where, bytes) else socket.AF_INET)
    sock.settimeout(10)
    sock.connect(where)
    return sock


@contextlib.contextmanager
def nothing_is_parsed() -> Iterator[list[str]]:
    """Every look into a message's body, by whichever thread."""
    looked: list[str] = []
    loads = frames.json.loads

    def watched(body: bytes) -> object:
        looked.append(threading.current_thread().name)
        return loads(body)

    frames.json.loads = watched
    try:
        yield looked
    finally:
        frames.json.loads = loads


HELLO = handshake._HELLO.pack(handshake.MAGIC, handshake.VERSION, b"r" * 32)
PIECES = st.one_of(
    st.binary(max_size=300),
    st.just(HELLO),
    st.just(frames.Seal(b"w" * 32).message({"purpose": "control", "rank": 1})),
    st.just(frames.Seal(b"w" * 32).header(frames.BULK, 1 << 40)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PIECES, min_size=1, max_size=5), st.booleans())
def test_nothing_without_the_secret_is_parsed(job, pieces, near):
    with nothing_is_parsed() as looked:
        sock = connect(doors(job)[near])
        with sock, contextlib.suppress(OSError):
            for piece in pieces:
                sock.sendall(piece)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
        assert looked == []


def test_the_job_goes_on_among_strangers(job):
    strangers = [connect(where) for where in doors(job) * 20]
    for number, stranger in enumerate(strangers):
        stranger.sendall(os.urandom(number * 7))
    data = [np.ones(1000, np.float32) for _ in range(2)]
    call = CollectiveCall("all_reduce", (0, 1), 0, "f32", 1000)
    at_once([lambda r=r: run(job, r, call, data[r], data[r]) for r in range(2)])
    assert data[0][0] == 2
    for stranger in strangers:
        stranger.close()


def test_who_holds_the_secret_but_offers_memory_over_tcp_or_no_memory_is_refused(job):
    said = {"purpose": "memory", "rank": 1, "workers": 2, "devices": 1, "attempt": 0, "wiring": job[0]._topology.digest}
    tcp, near = doors(job)
    before = job[0].turned_away["protocol"]
    deadline = time.monotonic() + 10
    connection, _ = dial(tcp, SECRET, {**said, "channel": "x"}, deadline)
    with connection.sock:
        assert connection.sock.recv(1) == b""
    for descriptors in ([], [os.memfd_create("small")]):
        connection, _ = dial(near, SECRET, {**said, "channel": "y"}, deadline)
        with connection.sock:
            if descriptors:
                socket.send_fds(connection.sock, [b"!"], descriptors * 3)
            else:
                connection.sock.sendall(b"?")
            with contextlib.suppress(EmulatorError):
                for descriptor in receive_descriptors(connection.sock, 3, deadline):
                    os.close(descriptor)
            assert connection.sock.recv(1) == b""
        for descriptor in descriptors:
            os.close(descriptor)
    while job[0].turned_away["protocol"] < before + 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert job[0].lost == {}


# --- boards -----------------------------------------------------------------------------------------------------------


def test_a_board_is_seen_but_not_written_by_others_and_cannot_change_its_size():
    size = board_bytes(2)
    board = Board(size)
    copy = os.dup(board.descriptor)
    view = see_board(os.dup(board.descriptor), size)
    half(board.bytes, 1)[:5] = [1, 2, 3, 4, 5]
    assert half(view, 3)[:5].tolist() == [1, 2, 3, 4, 5]
    assert not view.flags.writeable
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(copy, 1)
    with pytest.raises(OSError, match="not permitted"):
        os.write(copy, b"x")
    os.close(copy)
    board.close()
    assert half(view, 1)[0] == 1


@pytest.mark.parametrize("seals", [0, fcntl.F_SEAL_GROW])
def test_memory_that_could_shrink_under_a_reader_is_refused(seals):
    descriptor = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, board_bytes(2))
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    with pytest.raises(ProtocolError, match=r"with seals 0x\d came instead of \d+ bytes, sealed"):
        see_board(descriptor, board_bytes(2))
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor)  # it was taken over


def test_a_board_of_another_size_and_what_is_no_memory_are_refused():
    board = Board(board_bytes(2))
    with pytest.raises(ProtocolError, match="instead of"):
        see_board(os.dup(board.descriptor), board_bytes(3))
    board.close()
    left, right = socket.socketpair()
    with left, right, pytest.raises(ProtocolError, match="not a board"):
        see_board(os.dup(left.fileno()), 10)


def test_descriptors_that_are_not_asked_for_are_closed():
    left, right = socket.socketpair()
    with left, right:
        deadline = time.monotonic() + 5
        send_descriptors(left, [left.fileno()], deadline)
        with pytest.raises(ProtocolError, match="1 descriptors came where 3 were due"):
            receive_descriptors(right, 3, deadline)


def test_pods_on_one_machine_do_not_pace_and_others_use_what_the_system_does():
    def of(sock: socket.socket) -> bytes:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")

    with socket.socket() as fresh:
        usual = of(fresh)
    with a_job(2, 1, transport="tcp") as fabrics:
        barrier = CollectiveCall("barrier", (0, 1))
        at_once([lambda fabric=fabric: fabric.run(barrier, 0, None, None, 0.0) for fabric in fabrics])
        links = [
            link for fabric in fabrics for channel in fabric._channels.values() for link in channel._links.values()
        ]
        assert [of(link.sock) for link in links] == [b"reno", b"reno"]
        for link in links:
            congestion.as_usual(link.sock)
            assert of(link.sock) == usual


def test_no_descriptor_is_left_behind():
    def count() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    with a_job(3, 1):
        pass
    before = count()
    for _ in range(3):
        with a_job(3, 1) as fabrics:
            for channel in range(3):
                data = [np.ones(100_000, np.float32) for _ in range(3)]
                call = CollectiveCall("all_reduce", (0, 1, 2), 0, "f32", 100_000, channel=channel)
                at_once([lambda r=r, c=call, d=data: run(fabrics, r, c, d[r], d[r]) for r in range(3)])
    assert count() <= before + 2
