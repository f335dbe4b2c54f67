"""API servers for a local cluster: `embedded` in our own process, or `envtest`, a real kube-apiserver with etcd.

An engine is started, says how to reach it, and is stopped. Nobody else can tell them apart.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final, Protocol

from supernode.errors import LocalError
from supernode.local.agent.supervise import Warden
from supernode.local.client import Connection

ENGINES: Final = ("embedded", "envtest")


class Engine(Protocol):
    """An API server."""

    @property
    def connection(self) -> Connection:
        """How to reach it as administrator; only after `start`."""
        ...

    @property
    def kubelet_tls(self) -> ssl.SSLContext | None:
        """What the node agent's endpoint must serve with for this server; None for plain http."""
        ...

    @property
    def missing_controllers(self) -> frozenset[str]:
        """Which of ours it needs beside it: `workloads`, `scheduler`, `nodelife`."""
        ...

    async def start(self) -> None:
        """Start, and return when it answers."""

    async def stop(self) -> None:
        """Stop, and return when nothing of it is left."""

    async def failed(self) -> str:
        """Return, with a message, when it has ended by itself."""
        ...


def make_engine(name: str, directory: Path, warden: Warden) -> Engine:
    """The engine of a name; LocalError for an unknown one, or one that this machine lacks the programs for."""
    if name == "embedded":
        from supernode.local.engines.embedded import EmbeddedEngine

        return EmbeddedEngine()
    if name == "envtest":
        from supernode.local.engines.envtest import EnvtestEngine, find_assets

        return EnvtestEngine(find_assets(), directory, warden)
    raise LocalError(f"unknown engine {name!r}; known are {', '.join(ENGINES)}")
