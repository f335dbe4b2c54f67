"""The operator as a child process of the local cluster: started, started again when it ends, stopped.

In: its command. Out: a running operator that logs into a file. It is an ordinary operator outside the cluster; nothing
here knows what it does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from supernode.local.agent.supervise import Warden, signal_group

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
_STOP_SECONDS: Final = 5.0
_log = logging.getLogger(__name__)


def operator_command(kubeconfig: Path) -> list[str]:
    """Command of an operator for a cluster; port 0 is any free port, so several clusters get along."""
    return [
        *(sys.executable, "-m", "supernode", "operator"),
        *("--kubeconfig", str(kubeconfig), "--metrics-port", "0", "--health-port", "0"),
    ]


class SupervisedProcess:
    """A process that is started again when it ends.

    Args:
        argv: its command.
        log: file for its output.
        warden: starts it.
        environment: its variables, on top of ours.
    """

    def __init__(self, argv: list[str], log: Path, warden: Warden, environment: Mapping[str, str]) -> None:
        self._argv = argv
        self._log_path = log
        self._warden = warden
        self._environment = dict(environment)
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL; it is not started again."""
        process = self._process
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if process is not None and process.returncode is None:
            signal_group(process.pid, signal.SIGTERM)
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                pass
            finally:
                await self._warden.finish(process.pid)
                await process.wait()

    async def _supervise(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            began = asyncio.get_running_loop().time()
            output = os.open(self._log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                self._process = await self._warden.spawn(
                    self._argv,
                    environment={**os.environ, **self._environment},
                    directory=self._log_path.parent,
                    output=output,
                )
            finally:
                os.close(output)
            code = await self._process.wait()
            await self._warden.finish(self._process.pid)
            self._process = None
            if asyncio.get_running_loop().time() - began > _LONGEST_PAUSE:
                pause = _FIRST_PAUSE
            _log.warning(
                "the operator ended with exit code %d, again in %.0f s; its log: %s", code, pause, self._log_path
            )
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            self.restarts += 1
