"""The demo's own local cluster: up before the demo, gone after it, however it ends.

It runs `supernode local up` and `down` as a user would, under a name of its own, so that a cluster that the user has
left running is not touched.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from supernode.errors import LocalError


class DemoCluster:
    """Async context manager: enters with the path of a kubeconfig, leaves nothing behind.

    Args:
        folder: where the kubeconfig and the log of `local up` go.
        engine: `embedded` or `envtest`.
        say: called with each line of progress.
    """

    def __init__(self, folder: Path, engine: str, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._engine = engine
        self._say = say
        self._name = f"demo-{os.getpid()}"

    async def __aenter__(self) -> Path:
        self._say(f"starting a local cluster ({self._engine} API server)")
        kubeconfig = (self._folder / "kubeconfig").resolve()
        try:
            await self._local("up", "--detach", "--engine", self._engine, "--kubeconfig", str(kubeconfig))
        except BaseException as exc:
            await self._down(type(exc))
            raise
        self._say("nodes are ready, the operator is running")
        return kubeconfig

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._down(kind)

    async def _down(self, why: type[BaseException] | None) -> None:
        if why is not None and issubclass(why, asyncio.CancelledError):
            self._say("interrupted: taking the local cluster down")
        # Shielded: a second Ctrl-C must not leave processes behind.
        await asyncio.shield(self._local("down"))
        self._say("the local cluster is gone")

    async def _local(self, verb: str, *options: str) -> None:
        """Run `supernode local VERB`; a Ctrl-C in the terminal reaches the demo only, not this child."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "supernode", "local", verb, "--name", self._name, *options),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        output, _ = await process.communicate()
        (self._folder / f"local-{verb}.log").write_bytes(output)
        if process.returncode:
            last = output.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
            raise LocalError(f"`supernode local {verb}` ended with status {process.returncode}: {last[0]}")
