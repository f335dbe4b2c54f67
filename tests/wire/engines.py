"""The API servers that the operator is tested on: the real one, and the embedded one with faults."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from tests.builders.kube import write_kubeconfig
from tests.wire.controlplane import ControlPlane

from supernode.local.server import ApiServer, Faults

TOKEN = "lab"
# Conflicts, a busy server, lost answers, watches that break and lie behind: what a bad day brings, all at once.
BAD_DAY = Faults(
    seed=20261122,
    conflict=0.03,
    throttle=0.01,
    error=0.01,
    lost_answer=0.01,
    drop_watch=0.2,
    expire_watch=0.05,
    latency=0.01,
    delay_event=0.05,
    retry_after=0,
    drop_after=2.0,
    exempt=("lab",),
)


@contextlib.asynccontextmanager
async def embedded(directory: Path, faults: Faults | None = None) -> AsyncIterator[ControlPlane]:
    """An embedded API server in this event loop, as a control plane; nothing tells of who asked for what."""
    server = ApiServer(token=TOKEN, faults=faults)
    url = await server.start()
    try:
        kubeconfig = write_kubeconfig(directory / "embedded.kubeconfig", url, TOKEN)
        yield ControlPlane(url, kubeconfig, kubeconfig, directory / "none")
    finally:
        await server.stop()
