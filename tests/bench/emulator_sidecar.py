"""What the parts of the emulator's benchmark share: a sidecar in a process of its own, and timing by turns."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from supernode.emulator.client import Emulator, connect

CHIP = "hygon-bw1000"


@contextlib.contextmanager
def sidecar(devices: int = 1) -> Iterator[Emulator]:
    """A connection to a fresh sidecar, which is stopped at the end."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="sn-", dir=place) as directory:
        path = Path(directory) / "e.sock"
        command = [sys.executable, "-m", "supernode", "emulator", "--chip", CHIP, "--devices", str(devices)]
        command += ["--socket", str(path), "--fabric-port", "0", "--http-port", "0", "--threads", "1"]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SUPERNODE_")}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
            try:
                if child.stdout is None or not child.stdout.readline():
                    raise RuntimeError("the sidecar did not start")
                with connect(path, environment={}) as emulator:
                    yield emulator
            finally:
                child.terminate()
                child.wait(30)


def seconds_of(run: Callable[[], object]) -> float:
    """Seconds of one run."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def by_turns(*runs: Callable[[], object], rounds: int = 7) -> tuple[float, ...]:
    """Least seconds of each, measured one after the other in each round, after one round that does not count."""
    best = [float("inf")] * len(runs)
    for number in range(rounds + 1):
        for place, run in enumerate(runs):
            seconds = seconds_of(run)
            if number:
                best[place] = min(best[place], seconds)
    return tuple(best)
