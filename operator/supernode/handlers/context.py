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

# Requests of one kind (pod creates, deletes) in flight at a time: more does not make an API server faster.
IN_FLIGHT: Final = 64


@dataclass(slots=True)
class Context:
    """Shared by all handlers.

    `image`: of the emulator sidecar. `now`: seconds since the epoch. `wake`: asks for a cycle.
    """

    client: Client
    stores: Stores
    observer: Observer
    events: Events
    metrics: OperatorMetrics
    image: str
    now: Callable[[], float] = time.time
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(IN_FLIGHT))
