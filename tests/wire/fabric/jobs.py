"""Starts pods of a job as processes and reads what they say."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

POD = Path(__file__).with_name("pod.py")
SECRET = "a secret of the job, 32 bytes long"
# How long any single line may take before a test counts as hanging; far above what a busy machine needs.
PATIENCE = 60


class Pod:
    """A running pod."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.rank = said["rank"]
        self.process = subprocess.Popen(
            [sys.executable, str(POD), json.dumps(said)],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.seen: list[dict[str, Any]] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(json.loads(line))
        self._lines.put(None)

    def until(self, key: str) -> dict[str, Any]:
        """The next line with that key; fails if the pod ends or says nothing for too long."""
        while True:
            line = self._lines.get(timeout=PATIENCE)
            assert line is not None, f"worker {self.rank} ended without {key}; it said {self.seen}"
            self.seen.append(line)
            if key in line:
                return line

    def results(self) -> list[dict[str, Any]]:
        """Everything the pod says about its calls, until it is done."""
        self.until("done")
        return [line for line in self.seen if "number" in line and "started" not in line]


@contextmanager
def a_job(workers: int, devices: int, do: list[Any], **more: Any) -> Iterator[list[Pod]]:
    """Pods of one job on 127.0.0.2, .3 ...; `more` may hold per-rank settings in `ranks`."""
    ranks: dict[int, dict[str, Any]] = more.pop("ranks", {})
    pods: list[Pod] = []
    try:
        rendezvous = ""
        for rank in range(workers):
            said = {
                "rank": rank,
                "workers": workers,
                "devices_per_worker": devices,
                "listen_host": f"127.0.0.{2 + rank}",
                "listen_port": 0,
                "rendezvous": rendezvous,
                "secret": SECRET,
                "timeout": 30,
                "start_timeout": 30,
                "do": do,
                **more,
                **ranks.get(rank, {}),
            }
            pods.append(Pod(said))
            if rank == 0:
                host, port = pods[0].until("address")["address"]
                rendezvous = f"{host}:{port}"
        yield pods
    finally:
        end(pods)


def end(pods: list[Pod]) -> None:
    """Kill what still runs, leave nothing behind."""
    for pod in pods:
        pod.process.kill()
    for pod in pods:
        pod.process.wait()
        pod.reader.join()
        for pipe in (pod.process.stdout, pod.process.stdin):
            if pipe is not None:
                pipe.close()
