"""The embedded API server without sockets, in virtual time: requests take their time there and back.

A request is on its way for a while, is handled by the server even if its sender is dead by then, and its answer takes
its time too. What the server does is the code that serves `supernode local up`.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from multidict import CIMultiDict, MultiDict
from tests.soak.ledger import Ledger
from tests.soak.virtual import VirtualLoop

from supernode.cluster.kinds import Json
from supernode.local.server import ApiServer, Faults
from supernode.local.server.clock import Clock
from supernode.local.server.store import ResourceKey, Store
from supernode.local.server.surface import Surface

# The wall clock at virtual second 0.
EPOCH = 1_800_000_000.0
# Who makes the change that the store is telling of: the name of a client.
WRITER: contextvars.ContextVar[str] = contextvars.ContextVar("writer", default="server")
# Whether it comes so late that its sender has given it up, or is dead.
GIVEN_UP: contextvars.ContextVar[bool] = contextvars.ContextVar("given_up", default=False)
USER = "user"
REFUSED = b'{"kind": "Status", "reason": "Forbidden", "message": "pods are forbidden: by this namespace\'s policy"}'


@dataclass
class Sent:
    """A request on its way.

    `name`: of the object in it. `late`: seconds that it takes more. `given_up`: nobody waits for the answer any more.
    """

    agent: str
    method: str
    path: str
    name: str = ""
    late: float = 0.0
    given_up: bool = False


@dataclass
class Network:
    """How bad the way to the server is: probabilities for each request, event or stream.

    Args:
        no_answer: the server does it, and the connection breaks before the answer.
        late: a write that arrives up to 45 s later.
        page_gone: 410 for the next page of a list.
        watch_gone: 410 in the middle of a watch.
        stall: a watch that says nothing for up to 20 s.
        twice: an event that comes twice.
        reorder: two events that change places.
    """

    no_answer: float = 0.0
    late: float = 0.0
    page_gone: float = 0.0
    watch_gone: float = 0.0
    stall: float = 0.0
    twice: float = 0.0
    reorder: float = 0.0


class Request:
    """As much of an aiohttp request as the server asks for."""

    def __init__(self, sent: Sent, params: Mapping[str, str] | None, body: Any, content_type: str) -> None:
        self.sent = sent
        self.method, self.path, self.path_qs = sent.method, sent.path, sent.path
        self.rel_url = SimpleNamespace(raw_path=sent.path)
        self.query = MultiDict(params or {})
        self.content_type = content_type
        self.headers = CIMultiDict(
            {
                "Authorization": "Bearer soak",
                "User-Agent": sent.agent,
                "Accept": "application/json",
                "Content-Type": content_type,
            }
        )
        self._body = b"" if body is None else json.dumps(body).encode()

    async def read(self) -> bytes:
        return self._body


async def _nothing(sent: Sent, when: str) -> None:
    return


@dataclass
class World:
    """The server, the time and the lots.

    Args:
        loop: its time.
        chance: draws all lots.
        faults: of the server.
        network: of the way to it.
        latency: most seconds that a request, and its answer, is on its way.

    `on_send` hears of each request when it is sent, `ambush` just "before" the server does it and just "after".
    `progress`: (uid, attempt) -> what the job's rank 0 reports. `barred`: namespaces that admission lets no pods into.
    """

    loop: VirtualLoop
    chance: random.Random
    faults: Faults
    network: Network
    latency: float
    ledger: Ledger = field(default_factory=Ledger)
    on_send: Callable[[str, str, str], None] = lambda agent, method, path: None
    ambush: Callable[[Sent, str], Awaitable[None]] = _nothing
    progress: dict[tuple[str, int], Json] = field(default_factory=dict)
    barred: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.server = ApiServer(token="soak", faults=self.faults, clock=Clock(self.wall))
        self._on_their_way: set[asyncio.Task[Any]] = set()

    def wall(self) -> float:
        """The right time of day."""
        return EPOCH + self.loop.time()

    @property
    def store(self) -> Store:
        return self.server.store

    @property
    def surface(self) -> Surface:
        return self.server._surface

    def objects(self, resource: ResourceKey) -> list[Json]:
        """What the server holds at this moment."""
        return [stored.obj for stored in self.store.items(resource)]

    def strikes(self, name: str, chance: float) -> bool:
        """Whether bad luck of this kind comes now; it is counted."""
        hit = chance > 0 and self.chance.random() < chance
        if hit:
            self.ledger.note(name)
        return hit

    async def serve(self, request: Request) -> tuple[int, str | None, bytes]:
        """(status, Retry-After, body), after the way there and back; goes on whatever becomes of the caller."""
        sent = request.sent

        async def there_and_back() -> tuple[int, str | None, bytes]:
            WRITER.set(sent.agent)
            lab = self.faults.spares(sent.agent)
            if not lab:
                await asyncio.sleep(self.chance.uniform(0.0, self.latency) + sent.late)
                await self.ambush(sent, "before")
                GIVEN_UP.set(sent.late > 0 and sent.given_up)
            if sent.method == "POST" and sent.path in {f"/api/v1/namespaces/{name}/pods" for name in self.barred}:
                self.ledger.note("pods refused by admission")
                return 403, None, REFUSED
            response: Any = await self.surface.handle(request)  # type: ignore[arg-type]
            if not lab:
                await self.ambush(sent, "after")
                await asyncio.sleep(self.chance.uniform(0.0, self.latency))
            return response.status, response.headers.get("Retry-After"), bytes(response.body or b"")

        task = self.loop.create_task(there_and_back())
        self._on_their_way.add(task)
        task.add_done_callback(self._on_their_way.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            sent.given_up = True
            raise
