"""Programs that write where other streams still read: what comes out is what the program says, in its order."""

from __future__ import annotations

import numpy as np
import pytest

from supernode.emulator.client import Emulator, connect
from supernode.emulator.server import Server


@pytest.fixture
def large(sidecar) -> Emulator:
    """A device with room for something that takes a while."""
    server: Server = sidecar(devices=1, memory_bytes=1 << 28)
    with connect(server.config.socket, environment={}) as emulator:
        yield emulator


@pytest.mark.parametrize("writer_is_the_reader", [True, False])
def test_an_update_waits_for_reads_on_other_streams(large: Emulator, writer_is_the_reader: bool) -> None:
    device = large.devices[0]
    stream = device.stream()
    values = np.arange(1 << 14, dtype=np.float32)
    heavy = device.array(np.ones((1400, 1400), np.float32))
    x = device.launch("add", device.array(values), 0.0, stream=stream if writer_is_the_reader else None)
    device.launch("matmul", heavy, heavy, stream=stream)  # holds the stream's copy back
    copy = device.launch("copy", x, stream=stream)
    device.launch("negative", x, out=x)
    np.testing.assert_array_equal(copy.numpy(), values)
    np.testing.assert_array_equal(x.numpy(), -values)
