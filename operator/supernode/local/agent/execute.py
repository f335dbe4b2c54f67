"""Commands run inside a container beside its process: exec probes and lifecycle hooks.

In: a command and the launch of the container it runs in. Out: its exit code and output. It ends with its time, and
takes everything that it started with it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Final

from supernode.local.agent.sandbox import Launch
from supernode.local.agent.supervise import Warden, signal_group

_OUTPUT_LIMIT: Final = 1 << 16


async def execute(
    command: list[str], launch: Launch, warden: Warden, *, label: str, seconds: float
) -> tuple[int | None, str]:
    """Run a command: (exit code, or None when it took longer than `seconds`; output)."""
    reading, writing = os.pipe()
    try:
        process = await warden.spawn(
            launch.command(command),
            environment=launch.environment,
            directory=launch.directory,
            output=writing,
            label=label,
        )
    except BaseException as exc:
        os.close(reading)
        if isinstance(exc, OSError):
            return 126, f"cannot run {command[:1]}: {exc}"
        raise
    finally:
        os.close(writing)
    code: int | None = None
    try:
        # Not wait_for: in Python 3.11 that may swallow a cancellation, and the probe would go on for ever.
        async with asyncio.timeout(seconds):
            code = await process.wait()
    except TimeoutError:
        pass
    finally:
        signal_group(process.pid, signal.SIGKILL)
        await process.wait()
        warden.forget(process.pid)
        # The pipe holds what is there by now; whoever left the group may still hold its other end, so do not wait.
        os.set_blocking(reading, False)
        text = _read(reading)
    return code, text


def _read(descriptor: int) -> str:
    try:
        return os.read(descriptor, _OUTPUT_LIMIT).decode(errors="replace")
    except BlockingIOError:
        return ""
    finally:
        os.close(descriptor)
