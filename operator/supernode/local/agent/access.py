"""What a pod needs from the agent that runs it: handed over once, at its start."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supernode.local.agent.environment import Lookup
from supernode.local.agent.sandbox import Services
from supernode.local.client import KubeClient

Object = dict[str, Any]


@dataclass(frozen=True)
class PodAccess:
    """The agent, as one pod sees it.

    Attributes:
        client: the API server.
        services: shared by all pods.
        host: address of the pod's node.
        address: the pod's address.
        rewrite: replaces names of pods by addresses.
        directory: for the pod's files.
        memory_directory: for its volumes in memory.
        log_directory: for its logs.
        lookup: finds secrets and config maps.
        kubeconfig: text of a kubeconfig for a token.
        event: records an event: (pod, type, reason, message, container).
        admit: None, or why the node refuses the pod.
        allocatable: the node's allocatable resources.
    """

    client: KubeClient
    services: Services
    host: str
    address: str
    rewrite: Callable[[str], str]
    directory: Path
    memory_directory: Path
    log_directory: Path
    lookup: Lookup
    kubeconfig: Callable[[str], str]
    event: Callable[[Object, str, str, str, str], None]
    admit: Callable[[Object], Awaitable[tuple[str, str] | None]]
    allocatable: dict[str, str]
