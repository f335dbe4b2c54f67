"""A device whose part of a collective cannot be had tells the others at once, through real sidecars."""

from __future__ import annotations

import json
import threading

import numpy as np
from tests.wire.demo.workers import a_job

from supernode.emulator import client
from supernode.errors import EmulatorError, FabricError

TINY = {"name": "tiny", "memoryGiB": 0.01, "memoryGBps": 100, "tflops": {"f32": 1}, "linkGBps": 10, "scaleOutGBps": 10}


def test_out_of_memory_on_one_device_is_told_to_the_ranks_of_all_pods():
    """The fabric's timeout is far beyond the test's: waiting for it would fail the test."""
    with a_job(2, 1, SUPERNODE_CHIP=json.dumps(TINY), SUPERNODE_FABRIC_TIMEOUT="3000") as job:
        job.wait_for_sidecars()
        errors: dict[int, Exception] = {}

        def worker(rank: int) -> None:
            with client.connect(job.directory / f"{rank}.sock") as emulator:
                device = emulator.devices[0]
                hold = device.array(np.zeros(2_000_000, np.float32)) if rank == 1 else None
                data = device.array(np.ones(1_000_000, np.float32))
                emulator.group().all_reduce([data])
                try:
                    data.numpy()
                except EmulatorError as exc:
                    errors[rank] = exc
                assert hold is None or hold.size

        threads = [threading.Thread(target=worker, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=100)
            assert not thread.is_alive()
    assert isinstance(errors[0], FabricError)
    assert "rank 1 cannot take part in all_reduce" in str(errors[0])
    assert "OutOfDeviceMemoryError" in str(errors[0])
    assert "MiB" in str(errors[1])
