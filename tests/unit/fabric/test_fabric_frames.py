"""Frames and handshake: what is refused before anything of it is read."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernode.emulator.fabric import handshake
from supernode.emulator.fabric.frames import BULK, HEADER, HEADER_BYTES, MAGIC, MAX_MESSAGE, MESSAGE, Seal
from supernode.errors import AuthenticationError, EmulatorError, PeerLostError, ProtocolError

KEY, OTHER = b"k" * 32, b"o" * 32


def opened(frame: bytes, seal: Seal) -> dict[str, object]:
    seal.open(frame[:HEADER_BYTES])
    return seal.check(frame[:HEADER_BYTES], frame[HEADER_BYTES:])


def test_a_message_comes_out_as_it_went_in():
    out, into = Seal(KEY), Seal(KEY)
    for number in range(3):
        words = {"number": number, "text": "ä" * number}
        assert opened(out.message(words), into) == words


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(position, bit):
    frame = bytearray(Seal(KEY).message({"channel": "c", "position": 7}))
    frame[position % len(frame)] ^= 1 << bit
    with pytest.raises((AuthenticationError, ProtocolError)):
        opened(bytes(frame), Seal(KEY))


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_random_headers_are_refused(raw):
    with pytest.raises((AuthenticationError, ProtocolError)):
        opened(raw, Seal(KEY))


def test_another_connections_key_is_refused():
    with pytest.raises(AuthenticationError):
        opened(Seal(OTHER).message({"a": 1}), Seal(KEY))
    with pytest.raises(AuthenticationError):
        Seal(KEY).open(Seal(OTHER).header(BULK, 10))


def test_a_replayed_or_dropped_frame_is_refused():
    out, into = Seal(KEY), Seal(KEY)
    first, second, third = (out.message({"n": n}) for n in range(3))
    opened(first, into)
    with pytest.raises(AuthenticationError, match="frame number 0 came where 1 was due"):
        opened(first, into)
    with pytest.raises(AuthenticationError, match="frame number 2 came where 1"):
        opened(third, into)
    assert opened(second, into) == {"n": 1}


def test_a_header_that_promises_too_much_is_refused_before_memory_is_taken():
    raw = HEADER.pack(MAGIC, MESSAGE, b"\0\0\0", MAX_MESSAGE + 1, 0, 0) + bytes(32)
    with pytest.raises(ProtocolError, match="the limit is"):
        Seal(KEY).open(raw)
    with pytest.raises(ProtocolError, match="over the fabric's limit"):
        Seal(KEY).message({"text": "x" * MAX_MESSAGE})


@pytest.mark.parametrize("body", [b"[1]", b"{", b"\xff\xfe", b"1"])
def test_a_signed_body_that_is_no_object_is_refused(body):
    out = Seal(KEY)
    with pytest.raises(ProtocolError):
        opened(out.header(MESSAGE, len(body), 0, body) + body, Seal(KEY))


# --- handshake ----------------------------------------------------------------------------------------------------


def shaken(call_secret: bytes, answer_secret: bytes) -> list[object]:
    """Both sides of a handshake over a socket pair: seals or the error of each."""
    left, right = socket.socketpair()
    results: list[object] = [None, None]

    def side(index: int, function, sock: socket.socket, secret: bytes) -> None:
        try:
            results[index] = function(sock, secret, time.monotonic() + 5)
        except EmulatorError as exc:
            results[index] = exc
            sock.close()

    threads = [
        threading.Thread(target=side, args=(0, handshake.call, left, call_secret)),
        threading.Thread(target=side, args=(1, handshake.answer, right, answer_secret)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left.close()
    right.close()
    return results


def test_both_sides_end_with_matching_keys_that_differ_by_direction_and_connection():
    (out, into), (back, forth) = shaken(KEY, KEY)
    frame = out.message({"a": 1})
    assert opened(frame, forth) == {"a": 1}
    with pytest.raises(AuthenticationError):
        opened(frame, into)
    (_, _), (_, other) = shaken(KEY, KEY)
    with pytest.raises(AuthenticationError):
        opened(frame, other)
    assert opened(back.message({"b": 2}), into) == {"b": 2}


def test_another_secret_is_refused_by_both_sides():
    for result in shaken(KEY, OTHER):
        assert isinstance(result, AuthenticationError)


def test_a_listener_that_cannot_prove_itself_is_refused():
    left, right = socket.socketpair()

    def impostor() -> None:
        hello = handshake.read(right, 52, time.monotonic() + 5)
        right.sendall(hello)
        proof = handshake.read(right, 32, time.monotonic() + 5)
        right.sendall(proof)  # the caller's own proof sent back

    thread = threading.Thread(target=impostor)
    thread.start()
    with pytest.raises(AuthenticationError, match="does not hold this job's secret"):
        handshake.call(left, KEY, time.monotonic() + 5)
    thread.join()
    left.close()
    right.close()


def test_another_version_is_named_on_both_sides():
    left, right = socket.socketpair()
    right.sendall(struct.pack("<16sHxx32s", handshake.MAGIC, 9, bytes(32)))
    with pytest.raises(ProtocolError, match=r"version 9, this one 1"):
        handshake.call(left, KEY, time.monotonic() + 5)
    right.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b" " * 60)
    with pytest.raises(ProtocolError, match="not a fabric"):
        handshake.answer(left, KEY, time.monotonic() + 5)
    left.close()
    right.close()


def test_a_side_that_says_nothing_or_too_little_meets_the_deadline():
    left, right = socket.socketpair()
    right.sendall(b"SUPER")
    with pytest.raises(PeerLostError, match="5 of 52 bytes"):
        handshake.answer(left, KEY, time.monotonic() + 0.05)
    left.close()
    right.close()


def test_nothing_on_the_wire_is_a_pickle():
    frame = Seal(KEY).message({"a": [1, "b"]})
    assert json.loads(frame[HEADER_BYTES:]) == {"a": [1, "b"]}
