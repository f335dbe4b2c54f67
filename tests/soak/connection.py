"""A client of the world: the operator's own one, with the network in between instead of a session.

Lists and watches come late, twice, in another order or not at all; answers get lost; writes arrive when nobody waits
for them any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from kubernetes.aio.client import Configuration
from tests.soak.world import USER, Request, Sent, World

from supernode.cluster.client import REQUEST_TIMEOUT, Client
from supernode.cluster.form import Form
from supernode.cluster.kinds import Json, Kind
from supernode.cluster.refusals import error_from
from supernode.errors import UnavailableError
from supernode.local.server import watching
from supernode.local.server.negotiation import negotiate
from supernode.local.server.render import Renderer

# Most seconds that a late write takes more, and that a watch is silent.
LATEST = 45.0
SILENCE = 20.0


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
        self, method: str, path: str, params: Mapping[str, str] | None, body: Any, headers: Mapping[str, str]
    ) -> bytes:
        await self._through()
        world, network = self.world, self.world.network
        world.on_send(self.agent, method, path)
        sent = Sent(self.agent, method, path, str(((body or {}).get("metadata") or {}).get("name", "")))
        quiet = self.agent == USER
        if not quiet and method != "GET" and world.strikes("arrives late", network.late):
            sent.late = world.chance.uniform(1.0, LATEST)
        if not quiet and "continue" in (params or {}) and world.strikes("410 list's next page", network.page_gone):
            raise error_from(method, path, 410, b"{}", None)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                request = Request(sent, params, body, headers.get("Content-Type", "application/json"))
                status, retry_after, answer = await world.serve(request)
        except TimeoutError:
            raise UnavailableError(f"{method} {path}: no answer in time") from None
        await self._through()
        if not quiet and world.strikes("done, no answer", network.no_answer):
            raise UnavailableError(f"{method} {path}: the connection broke")
        if status >= 400:
            raise error_from(method, path, status, answer, retry_after)
        return answer

    @contextlib.asynccontextmanager
    async def watch(
        self,
        kind: Kind,
        *,
        namespace: str | None = None,
        resource_version: str,
        seconds: int,
        form: Form | None = None,
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
        world, network = self.world, self.world.network
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
            delay = world.faults.event_delay()
            if delay:
                world.ledger.note("events delayed")
            if world.strikes("cache stale for long", network.stall):
                delay += world.chance.uniform(2.0, SILENCE)
            await asyncio.sleep(delay)
            await self._through()
            if world.strikes("410 watch midway", network.watch_gone):
                raise error_from("WATCH", kind.plural, 410, b"{}", None)
            events = [json.loads(line) for line in chunk.splitlines()]
            if len(events) > 1 and world.strikes("events reordered", network.reorder):
                # More than any server does; versions put it right.
                at = world.chance.randrange(len(events) - 1)
                events[at], events[at + 1] = events[at + 1], events[at]
            for event in events:
                if event.get("type") == "ERROR":
                    raise error_from("WATCH", kind.plural, int(event["object"]["code"]), b"{}", None)
                again = copy.deepcopy(event) if world.strikes("event twice", network.twice) else None
                yield event
                if again is not None:
                    yield again
