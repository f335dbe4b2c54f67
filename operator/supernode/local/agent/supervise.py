"""Processes of the local cluster: start them in their own group, and never leave one behind.

In: an argument vector with its environment. Out: the running process, its exit code. Every process started here carries
one marker variable in its environment, which its children inherit; that is how stragglers that left their process group
are found again (the way CI servers do it). A `Warden` process holds the read end of a pipe from us: when we end,
however that happens, the pipe closes and the warden kills every group that is still noted, then every marked process.
Not here: what runs in a process, and why.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from supernode.local.agent.warden import MARK_VARIABLE, marked_processes


def signal_group(group: int, number: signal.Signals) -> bool:
    """Send a signal to a whole process group; False when there is none any more."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        # Some member has changed its user; the others got the signal.
        return True
    return True


class Warden:
    """Starts processes and outlives us just long enough to end them.

    Args:
        mark: what `marked_processes` finds this cluster's processes by.
    """

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self._writer: int | None = None
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the warden process."""
        reader, writer = os.pipe()
        # -I -S: no site packages, so it starts in milliseconds and imports nothing of ours.
        environment = {"PATH": os.environ.get("PATH", os.defpath)}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(Path(__file__).with_name("warden.py")),
            self.mark,
            stdin=reader,
            env=environment,
            start_new_session=True,
        )
        os.close(reader)
        self._writer = writer

    @property
    def pid(self) -> int | None:
        """Process id of the warden process."""
        return self._process.pid if self._process else None

    async def stop(self) -> None:
        """Let the warden kill what is left, and wait for it."""
        if self._writer is not None:
            os.close(self._writer)
            self._writer = None
        if self._process is not None:
            await self._process.wait()
            self._process = None

    def note(self, group: int) -> None:
        """Have `group` killed if we end before `forget`."""
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """The group has ended."""
        self._tell(f"-{group}\n")

    def _tell(self, line: str) -> None:
        if self._writer is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._writer, line.encode())

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        directory: Path,
        output: int,
        label: str = "",
    ) -> asyncio.subprocess.Process:
        """Start `argv` as leader of a new session; stdin is empty, stdout and stderr go to the descriptor `output`.

        `label` (pod uid "/" container) is added to the mark. OSError when the program cannot be started.
        """
        mark = f"{self.mark}#{label}" if label else self.mark
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**environment, MARK_VARIABLE: mark},
            cwd=directory,
            start_new_session=True,
        )
        self.note(process.pid)
        return process

    async def finish(self, group: int, *, label: str = "") -> None:
        """After a group's leader has ended: kill what it left behind, as the end of a container does."""
        signal_group(group, signal.SIGKILL)
        if label:
            for pid in marked_processes(f"{self.mark}#{label}"):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        self.forget(group)
        await asyncio.sleep(0)
