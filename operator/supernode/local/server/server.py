"""The server as a whole: its parts put together, started and stopped."""

from __future__ import annotations

from typing import Final

import aiohttp
from aiohttp import web

from supernode.errors import LocalError
from supernode.local.server.certificate import Certificate
from supernode.local.server.chores import Chores
from supernode.local.server.clock import Clock
from supernode.local.server.deletion import Deletion
from supernode.local.server.faults import Faults
from supernode.local.server.garbage import Garbage
from supernode.local.server.identity import Identities
from supernode.local.server.keepers import Keepers
from supernode.local.server.kinds import Kinds
from supernode.local.server.objects import Objects
from supernode.local.server.pages import Pages
from supernode.local.server.statuses import Object
from supernode.local.server.store import HISTORY, Store
from supernode.local.server.surface import LARGEST_BODY, Surface
from supernode.local.server.target import Target, Write

_NAMESPACES: Final = ("default", "kube-system", "kube-public", "kube-node-lease")
_STOP_SECONDS: Final = 1.0


class ApiServer:
    """A Kubernetes API on HTTP, plain or with TLS.

    Args:
        host: address to listen on.
        port: port, 0 for any free one.
        token: the administrator's bearer token.
        faults: what goes wrong on purpose; None for nothing.
        clock: time of stamps and expiry.
        certificate: serve https with it; None for plain http, over which kubectl sends no token.
        history: changes kept per resource for watches and paged lists.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str,
        faults: Faults | None = None,
        clock: Clock | None = None,
        certificate: Certificate | None = None,
        history: int = HISTORY,
    ) -> None:
        self._host, self._port = host, port
        self._certificate = certificate
        self._clock = clock or Clock()
        self.store = Store(history)
        kinds = Kinds()
        objects = Objects(self.store, kinds, self._clock)
        deletion = Deletion(objects)
        self._chores = Chores()
        self._garbage = Garbage(self.store, kinds, deletion, self._chores)
        self._keepers = Keepers(objects, deletion, self._chores)
        self._objects = objects
        identities = Identities(token, self.store, self._clock)
        self._surface = Surface(objects, deletion, identities, Pages(kinds, lambda: self._address), faults)
        self._runner: web.AppRunner | None = None
        self._address = ""
        self._furnish()

    def _furnish(self) -> None:
        """What every cluster starts with."""
        write = Write("kube-apiserver")
        namespaces = self._objects.kinds.find("", "v1", "namespaces")
        if namespaces is None:
            raise LocalError("the built-in schemas lack namespaces")
        for name in _NAMESPACES:
            value: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            self._objects.create(Target(namespaces, "", name), value, write)
        self._chores.run()

    async def start(self) -> str:
        """Listen; the answer is the server's URL.

        Raises:
            LocalError: the address cannot be listened on.
        """
        app = web.Application(client_max_size=LARGEST_BODY, handler_args={"handler_cancellation": True})
        app.router.add_route("*", "/{path:.*}", self._surface.handle)
        self._surface.session = aiohttp.ClientSession()
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_STOP_SECONDS)
        await self._runner.setup()
        context = self._certificate.context() if self._certificate else None
        site = web.TCPSite(self._runner, self._host, self._port, backlog=1024, ssl_context=context)
        try:
            await site.start()
        except OSError as exc:
            await self.stop()
            raise LocalError(f"cannot listen on {self._host}:{self._port}: {exc}; choose another port") from exc
        host, port = self._runner.addresses[0][:2]
        self._address = f"{host}:{port}"
        return f"{'https' if context else 'http'}://{self._address}"

    async def stop(self) -> None:
        """End every watch, then stop listening."""
        self._chores.stop()
        self.store.drop_watches()
        session, self._surface.session = self._surface.session, None
        if session is not None:
            await session.close()
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()
