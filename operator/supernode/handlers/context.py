"""What every handler shares, made once at start: the connection, the stores, the observer, the ways to tell people.

Data only. Everything runs in one event loop; nothing here is locked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from supernode.cluster.client import Client
from supernode.cluster.events import Events
from supernode.cluster.observe import Observer, Stores
from supernode.telemetry.metrics import OperatorMetrics

# Requests of one kind (pod creates, deletes) in flight at a time. Fewer leave etcd less to write at once (24: 3 % fewer
# pods a second); more do not make an API server faster, and each needs a connection.
IN_FLIGHT: Final = 48


@dataclass(slots=True)
class Context:
    """Shared by all handlers.

    `image`: of the emulator sidecar. `now`: seconds since the epoch. `wake`: asks for a cycle. `protobuf`: whether the
    server reads that form.
    """

    client: Client
    stores: Stores
    observer: Observer
    events: Events
    metrics: OperatorMetrics
    image: str
    now: Callable[[], float] = time.time
    protobuf: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(IN_FLIGHT))
