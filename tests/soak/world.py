"""The embedded API server without sockets, in virtual time, and clients that reach it through a bad network.

A request is on its way for a while, is handled by the server even if its sender is dead by then, and its answer takes
its time too. What the server does is the code that serves `supernode local up`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import json
import random
from collections.abc import AsyncIterator, Callable, Mapping
from types import SimpleNamespace
from typing import Any

from kubernetes.aio.client import Configuration
from multidict import CIMultiDict, MultiDict

from supernode.cluster.client import Client
from supernode.cluster.kinds import Json, Kind
from supernode.cluster.refusals import error_from
from supernode.errors import UnavailableError
from supernode.local.server import ApiServer, Faults, watching
from supernode.local.server.clock import Clock
from supernode.local.server.negotiation import negotiate
from supernode.local.server.render import Renderer
from supernode.local.server.store import ResourceKey, Store
from supernode.local.server.surface import Surface

# The wall clock at virtual second 0.
EPOCH = 1_800_000_000.0
# Who makes the change that the store is telling of: the name of a client.
WRITER: contextvars.ContextVar[str] = contextvars.ContextVar("writer", default="server")
USER = "user"


class _Request:
    """As much of an aiohttp request as the server asks for."""

    def __init__(
        self, method: str, path: str, params: Mapping[str, str] | None, body: Any, content_type: str, agent: str
    ) -> None:
        self.method, self.path, self.path_qs = method, path, path
        self.rel_url = SimpleNamespace(raw_path=path)
        self.query = MultiDict(params or {})
        self.content_type = content_type
        self.headers = CIMultiDict(
            {
                "Authorization": "Bearer soak",
                "User-Agent": agent,
                "Accept": "application/json",
                "Content-Type": content_type,
            }
        )
        self._body = b"" if body is None else json.dumps(body).encode()

    async def read(self) -> bytes:
        return self._body


class World:
    """The server, the time and the lots.

    Args:
        chance: draws all lots.
        faults: of the server.
        latency: most seconds that a request, and its answer, is on its way.
    """

    def __init__(self, chance: random.Random, faults: Faults, latency: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.chance = chance
        self.faults = faults
        self.latency = latency
        self.server = ApiServer(token="soak", faults=faults, clock=Clock(self.wall))
        self.on_send: Callable[[str, str, str], None] = lambda agent, method, path: None
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

    async def serve(self, request: _Request, agent: str) -> tuple[int, str | None, bytes]:
        """(status, Retry-After, body), after the way there and back; goes on whatever becomes of the caller."""

        async def there_and_back() -> tuple[int, str | None, bytes]:
            WRITER.set(agent)
            lab = self.faults.spares(agent)
            if not lab:
                await asyncio.sleep(self.chance.uniform(0.0, self.latency))
            response: Any = await self.surface.handle(request)  # type: ignore[arg-type]
            if not lab:
                await asyncio.sleep(self.chance.uniform(0.0, self.latency))
            return response.status, response.headers.get("Retry-After"), bytes(response.body or b"")

        task = self.loop.create_task(there_and_back())
        self._on_their_way.add(task)
        task.add_done_callback(self._on_their_way.discard)
        return await asyncio.shield(task)


class DirectClient(Client):
    """A client of the world. `gone`: its process is dead. `cut_until`: nothing gets through before that second."""

    def __init__(self, world: World, agent: str) -> None:
        super().__init__(Configuration())
        self._host = "https://soak"
        self.world, self.agent = world, agent
        self.gone = False
        self.cut_until = 0.0

    async def _through(self) -> None:
        if self.gone:
            await asyncio.get_running_loop().create_future()
        if self.world.loop.time() < self.cut_until:
            await asyncio.sleep(0.5)
            raise UnavailableError("no route to the server")

    async def _once(
        self, method: str, path: str, params: Mapping[str, str] | None, body: Any, content_type: str
    ) -> bytes:
        await self._through()
        self.world.on_send(self.agent, method, path)
        request = _Request(method, path, params, body, content_type or "application/json", self.agent)
        status, retry_after, answer = await self.world.serve(request, self.agent)
        await self._through()
        if status >= 400:
            raise error_from(method, path, status, answer, retry_after)
        return answer

    @contextlib.asynccontextmanager
    async def watch(
        self, kind: Kind, *, namespace: str | None = None, resource_version: str, seconds: int
    ) -> AsyncIterator[AsyncIterator[Json]]:
        await self._through()
        world = self.world
        if world.faults.expires():
            raise error_from("WATCH", kind.plural, 410, b"{}", None)
        served = world.server._objects.kinds.find(kind.group, kind.version, kind.plural)
        if served is None:
            raise error_from("WATCH", kind.plural, 404, b"{}", None)
        selector = served.selectable.select("", "")
        asked = watching.WatchRequest(served, namespace, selector, resource_version, True, None, float(seconds))
        renderer = Renderer(served, negotiate("application/json"), world.server._objects.clock, "")
        running = watching.Watch(world.store, asked, renderer)
        events = self._events(running, kind)
        try:
            yield events
        finally:
            running.close()

    async def _events(self, running: watching.Watch, kind: Kind) -> AsyncIterator[Json]:
        world = self.world
        lifetime = world.faults.watch_lifetime()
        end = None if lifetime is None else world.loop.time() + lifetime
        chunks = running.events(world.loop.time)
        while True:
            try:
                async with asyncio.timeout_at(end):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise UnavailableError(f"WATCH {kind.plural}: the connection broke") from None
            await asyncio.sleep(world.faults.event_delay())
            await self._through()
            events = [json.loads(line) for line in chunk.splitlines()]
            if world.faults.event_delay() and len(events) > 1 and world.chance.random() < 0.1:
                # More than any server does; versions put it right.
                at = world.chance.randrange(len(events) - 1)
                events[at], events[at + 1] = events[at + 1], events[at]
            for event in events:
                if event.get("type") == "ERROR":
                    raise error_from("WATCH", kind.plural, int(event["object"]["code"]), b"{}", None)
                again = copy.deepcopy(event) if world.chance.random() < 0.03 else None
                yield event
                if again is not None:
                    yield again
