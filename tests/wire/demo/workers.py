"""Starts sidecars (`supernode emulator`) and workers (`supernode.demo.train`) of one job as processes."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Far above what a busy machine needs.
PATIENCE = 90


class Job:
    """Sidecars and workers of one job; pod r lives at an address of its own in 127/8."""

    def __init__(self, directory: Path, workers: int, devices: int, **env: str) -> None:
        self.directory = directory
        self.workers, self.devices = workers, devices
        net = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250) + 1}"
        self._hosts = [f"{net}.{rank + 1}" for rank in range(workers)]
        self._env = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "SUPERNODE_CHIP": "hygon-bw1000",
            "SUPERNODE_DEVICES": str(devices),
            "SUPERNODE_WORKERS": str(workers),
            "SUPERNODE_RENDEZVOUS": f"{self._hosts[0]}:29400",
            "SUPERNODE_FABRIC_SECRET": secrets.token_hex(32),
            **env,
        }
        self.sidecars = [self._sidecar(rank) for rank in range(workers)]
        self.trainers: list[subprocess.Popen[str]] = []

    def _own(self, rank: int) -> dict[str, str]:
        return {
            **self._env,
            "SUPERNODE_RANK": str(rank),
            "SUPERNODE_POD_IP": self._hosts[rank],
            "SUPERNODE_EMULATOR_SOCKET": str(self.directory / f"{rank}.sock"),
            "TERMINATION_LOG": str(self.directory / f"{rank}.log"),
        }

    def _sidecar(self, rank: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "supernode", "emulator", "--http-port", "0"]
        return subprocess.Popen(command, env=self._own(rank))

    def wait_for_sidecars(self) -> None:
        """Wait until all sidecars listen."""
        deadline = time.monotonic() + PATIENCE
        for rank in range(self.workers):
            while not (self.directory / f"{rank}.sock").exists():
                assert self.sidecars[rank].poll() is None, f"sidecar {rank} has ended"
                assert time.monotonic() < deadline, f"sidecar {rank} does not listen"
                time.sleep(0.02)

    def train(self, *arguments: str) -> None:
        """Start the workers as soon as their sidecars listen."""
        self.wait_for_sidecars()
        for rank in range(self.workers):
            command = [sys.executable, "-m", "supernode.demo.train", *arguments]
            self.trainers.append(
                subprocess.Popen(
                    command, env=self._own(rank), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
                )
            )

    def ends(self) -> list[tuple[int, list[dict[str, Any]], str]]:
        """Per worker: exit status, lines, standard error."""
        ended = []
        for trainer in self.trainers:
            out, err = trainer.communicate(timeout=PATIENCE)
            ended.append((trainer.returncode, [json.loads(line) for line in out.splitlines()], err))
        return ended

    def progress(self) -> list[dict[str, Any]]:
        """Stop the sidecars; what each wrote as its termination message."""
        for sidecar in self.sidecars:
            sidecar.send_signal(signal.SIGTERM)
        for sidecar in self.sidecars:
            assert sidecar.wait(timeout=PATIENCE) == 0
        return [json.loads((self.directory / f"{rank}.log").read_text()) for rank in range(self.workers)]

    def close(self) -> None:
        """Kill what still runs."""
        for process in [*self.trainers, *self.sidecars]:
            process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


@contextmanager
def a_job(workers: int, devices: int, **env: str) -> Iterator[Job]:
    # Not pytest's tmp_path: the path of a Unix socket must stay short.
    with tempfile.TemporaryDirectory(prefix="sn-") as directory:
        job = Job(Path(directory), workers, devices, **env)
        try:
            yield job
        finally:
            job.close()
