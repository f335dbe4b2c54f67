"""Large copies through sealed files: the data, that both sides are independent, and clients that do not play fair."""

from __future__ import annotations

import gc
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.wire.emulator.hostile import still_serves

from supernode.emulator.client import Emulator, connect
from supernode.emulator.client.connection import Connection
from supernode.emulator.client.staging import LARGE
from supernode.emulator.dtypes import DTYPES
from supernode.emulator.server import Server
from supernode.errors import EmulatorError, OutOfDeviceMemoryError, ProtocolError, SupernodeError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sealed files are Linux's")
COUNT = LARGE // 4


@pytest.fixture
def server(sidecar: Callable[..., Server]) -> Server:
    return sidecar(devices=1, memory_bytes=40 << 20)


@pytest.fixture
def emulator(server: Server) -> Iterator[Emulator]:
    with connect(server.config.socket, environment={}) as connected:
        yield connected


@pytest.mark.parametrize("dtype", ["bool", "u8", "bf16", "f32", "c128"])
def test_there_and_back(emulator: Emulator, dtype: str) -> None:
    device = emulator.devices[0]
    data = np.random.default_rng(1).integers(0, 2, LARGE // DTYPES[dtype].itemsize + 3).astype(DTYPES[dtype])
    array = device.array(data)
    for _ in range(2):
        assert array.numpy().tobytes() == data.tobytes()
    if dtype != "bool":
        assert device.launch("add", array, array).numpy().tobytes() == (data + data).tobytes()
    assert device.array(data.reshape(1, -1)[:, ::-1]).numpy().tobytes() == data[::-1].tobytes()


def test_both_sides_are_independent(emulator: Emulator) -> None:
    device = emulator.devices[0]
    data = np.arange(COUNT, dtype=np.float32)
    array = device.array(data)
    data[:] = -1
    before = array.numpy()
    assert before.flags.writeable
    before[:10] = 7
    assert array.numpy()[:3].tolist() == [0, 1, 2]
    kept = array.numpy()
    device.launch("add", array, 1.0, out=array)
    assert array.numpy()[:3].tolist() == [1, 2, 3]
    assert kept[:3].tolist() == [0, 1, 2]
    view = array.reshape((2, -1))
    device.launch("add", view, 1.0, out=view)
    assert array.numpy()[:3].tolist() == [2, 3, 4]
    assert array.part(5, (3,)).numpy().tolist() == [7, 8, 9]


def test_an_optimizer_may_write_what_was_copied(emulator: Emulator) -> None:
    device = emulator.devices[0]
    zeros, ones = np.zeros(COUNT, np.float32), np.ones(COUNT, np.float32)
    state = [device.array(x) for x in (ones, ones, ones, zeros, zeros)]
    device.launch("adamw", *state, learning_rate=0.5, step=1)
    assert state[2].numpy()[0] == pytest.approx(0.5)
    assert state[0].numpy()[0] == pytest.approx(0.5)
    assert device.array(ones).numpy().min() == 1


def test_more_than_the_card_has(emulator: Emulator) -> None:
    device = emulator.devices[0]
    device.array(np.zeros(12 << 20, np.float32))
    with pytest.raises(EmulatorError):  # refused before anything is written
        emulator.synchronize()
    arrays = [device.array(np.full(COUNT * 2, float(n), np.float32)) for n in range(6)]  # 48 of 40 MiB
    with pytest.raises(OutOfDeviceMemoryError, match=r"call \d+, upload\(f32\[2097152\]\)"):
        emulator.synchronize()
    assert arrays[0].numpy()[0] == 0


def test_descriptors_are_closed(server: Server) -> None:
    def used() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    with connect(server.config.socket, environment={}) as emulator:
        device = emulator.devices[0]
        device.array(np.zeros(COUNT, np.float32)).numpy()
        device.synchronize()
        before = used()
        for _ in range(5):
            device.array(np.zeros(COUNT, np.float32)).numpy()
        emulator.synchronize()
        assert used() <= before
        os.close(file_of(emulator.connection, 4096))  # never filled: the sidecar closes its own when the client goes
        assert used() == before + 1
        while used() > before - 2:  # both ends of the connection go too
            emulator.close()
            time.sleep(0.01)


def file_of(connection: Connection, size: int, number: int = 1) -> int:
    _, _, (descriptor,) = connection.request("file", number, size, descriptors=1)
    return descriptor


def adopt(connection: Connection, count: int, number: int = 1, handle: int = 1) -> None:
    connection.record(["adopt", 0, handle, "f32", [count], number])
    connection.request("synchronize", None)


def test_what_the_sidecar_uses_nobody_can_change(server: Server) -> None:
    connection = Connection(server.config.socket, timeout=10)
    descriptor = file_of(connection, 8192)
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 16)
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 1 << 20)
    os.pwrite(descriptor, np.ones(2048, np.float32).tobytes(), 0)
    adopt(connection, 2048)
    with pytest.raises(PermissionError):
        os.pwrite(descriptor, b"x", 0)
    with pytest.raises(PermissionError):
        mmap.mmap(descriptor, 8192)
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 0)
    header, body, _ = connection.request("read", 1, -1, 0)
    assert header["bytes"] == 8192
    assert np.frombuffer(body, np.float32).min() == 1
    os.close(descriptor)
    connection.close()


@pytest.mark.parametrize("case", ["mapped", "sparse", "size", "none", "twice", "negative"])
def test_files_that_are_not_as_they_should_be(server: Server, case: str) -> None:
    connection = Connection(server.config.socket, timeout=10)
    data = bytes(8192)
    with pytest.raises(ProtocolError) as caught:  # noqa: PT012 - each case goes wrong at its own step
        if case == "negative":
            file_of(connection, -1)
        descriptor = file_of(connection, 8192)
        mapping = mmap.mmap(descriptor, 8192) if case == "mapped" else None
        os.pwrite(descriptor, data[: 4096 if case == "sparse" else 8192], 0)
        try:
            if case == "none":
                adopt(connection, 2048, number=2)
            if case == "twice":
                file_of(connection, 8192)
            adopt(connection, 2047 if case == "size" else 2048)
        finally:
            os.close(descriptor)
            if mapping is not None:
                mapping.close()
    words = {"mapped": "unmap it first", "sparse": "not written in full", "size": "does not fill"}
    assert words.get(case, "file") in str(caught.value)
    connection.close()
    still_serves(server)


def test_no_file_is_larger_than_a_card(server: Server) -> None:
    connection = Connection(server.config.socket, timeout=10)
    assert connection.request("file", 1, 41 << 20, descriptors=1)[2] == []
    connection.close()


def test_files_that_wait_are_limited(server: Server) -> None:
    connection = Connection(server.config.socket, timeout=10)
    for number in range(16):
        os.close(file_of(connection, 4096, number))
    with pytest.raises(ProtocolError, match="16 wait"):
        file_of(connection, 4096, 16)
    connection.close()
    still_serves(server)


def test_a_client_that_plays_with_its_shared_memory_harms_nobody(server: Server) -> None:
    """One thread rewrites, shrinks and grows a segment while the sidecar copies out of it and runs kernels."""
    connection = Connection(server.config.socket, timeout=10)
    _, _, (descriptor,) = connection.request("segment", 0, 1 << 20, descriptors=1)
    stop = threading.Event()
    rng = np.random.default_rng(1)

    def play() -> None:
        noise = rng.integers(0, 255, 1 << 20, dtype=np.uint8).tobytes()
        while not stop.is_set():
            os.pwrite(descriptor, noise, 0)
            os.ftruncate(descriptor, int(rng.integers(0, 1 << 20)))
            os.ftruncate(descriptor, 1 << 20)

    player = threading.Thread(target=play)
    with connect(server.config.socket, environment={}) as honest:
        mine = honest.devices[0].array(np.arange(1000, dtype=np.float32))
        player.start()
        try:
            handle = 1
            for _ in range(200):
                for dtype, kernel, attributes in (
                    ("i64", "argsort", {}),
                    ("f32", "sort", {}),
                    ("bool", "logical_not", {}),
                ):
                    count = 1 << 12
                    connection.record(["upload", 0, handle, dtype, [count], 0, 4096])
                    connection.record(["launch", 0, kernel, [handle], [handle + 1], attributes])
                    connection.record(["launch", 0, "take", [handle, handle], [handle + 2], {}])
                    connection.record(["free", [handle, handle + 1, handle + 2]])
                    handle += 3
                try:
                    connection.request("synchronize", None)
                except ProtocolError:  # it was caught with a segment that is too short
                    connection = Connection(server.config.socket, timeout=10)
                    _, _, (other,) = connection.request("segment", 0, 1 << 20, descriptors=1)
                    os.dup2(other, descriptor)
                    os.close(other)
                except SupernodeError:
                    pass
        finally:
            stop.set()
            player.join()
        assert mine.numpy().tolist() == list(range(1000))
    connection.close()
    os.close(descriptor)
    still_serves(server)
