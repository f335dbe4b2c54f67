"""Processes that are forked from one that is connected: workers of a data loader, most of the time."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable

import numpy as np
import pytest

from supernode.emulator.array_api import session
from supernode.emulator.client import Emulator, connect
from supernode.emulator.server import Server
from supernode.errors import EmulatorError
from supernode.names import ENV_SOCKET

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
    # Python warns of forking beside threads from 3.12 on; that it goes well is what is tested.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


def in_a_fork(child: Callable[[], None]) -> int:
    """Exit status of a forked process that runs it."""
    process = os.fork()
    if process == 0:
        try:
            child()
            os._exit(0)
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_the_parents_connection_is_the_parents(emulator: Emulator) -> None:
    device = emulator.devices[0]
    x = device.array(np.arange(6, dtype=np.float32))
    y = device.launch("add", x, 1.0)  # recorded, and not sent yet

    def child() -> None:
        for use in (
            x.numpy,
            lambda: device.launch("add", x, 2.0),
            lambda: device.array(np.zeros(1 << 16)),
            emulator.synchronize,
            device.memory,
        ):
            with pytest.raises(EmulatorError, match="forked from; connect anew"):
                use()
        emulator.close()

    assert in_a_fork(child) == 0
    assert y.numpy().tolist() == [1, 2, 3, 4, 5, 6]
    assert x.numpy().tolist() == [0, 1, 2, 3, 4, 5]


def test_a_fork_may_connect_for_itself(server: Server, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_SOCKET, str(server.config.socket))
    session.use(emulator)
    x = emulator.devices[0].full(3, 5.0)

    def child() -> None:
        import supernode.emulator.array_api as xp

        assert float(xp.sum(xp.ones(4))) == 4
        with connect(server.config.socket, environment={}) as own:
            assert own.devices[1].full(2, 7.0).numpy().tolist() == [7, 7]

    assert in_a_fork(child) == 0
    assert x.numpy().tolist() == [5, 5, 5]
    assert session.emulator() is emulator


def test_a_fork_beside_a_thread_that_waits_does_not_wait(emulator: Emulator) -> None:
    """What that thread holds in the parent, nobody would ever release in the child."""
    device = emulator.devices[0]
    x = device.full(1000, 1.0)
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            x.numpy()

    reader = threading.Thread(target=read)
    reader.start()

    def child() -> None:
        with pytest.raises(EmulatorError, match="connect anew"):
            x.numpy()
        with pytest.raises(EmulatorError, match="connect anew"):
            device.launch("add", x, 2.0)

    try:
        assert [in_a_fork(child) for _ in range(10)] == [0] * 10
    finally:
        stop.set()
        reader.join()
    assert x.numpy()[0] == 1
