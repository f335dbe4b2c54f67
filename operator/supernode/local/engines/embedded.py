"""The embedded engine: our own API server, in this process, https on 127.0.0.1 with a certificate made at the start."""

from __future__ import annotations

import asyncio
import secrets
import ssl

from supernode.errors import LocalError
from supernode.local.client import Connection
from supernode.local.server import ApiServer, make_certificate


class EmbeddedEngine:
    """Runs an `ApiServer`."""

    def __init__(self) -> None:
        self._token = secrets.token_urlsafe(24)
        # kubectl sends its token over https only.
        self._certificate = make_certificate()
        self._server = ApiServer(token=self._token, certificate=self._certificate)
        self._url = ""

    @property
    def connection(self) -> Connection:
        """How to reach it."""
        if not self._url:
            raise LocalError("the embedded API server has not been started")
        return Connection(self._url, self._token, self._certificate.pem)

    @property
    def kubelet_tls(self) -> ssl.SSLContext | None:
        """None: it asks for logs over plain http."""
        return None

    @property
    def missing_controllers(self) -> frozenset[str]:
        """All of them; it is an API server and no more."""
        return frozenset({"workloads", "scheduler", "nodelife"})

    async def start(self) -> None:
        """Start to listen."""
        self._url = await self._server.start()

    async def stop(self) -> None:
        """Stop listening; the data is gone."""
        await self._server.stop()

    async def failed(self) -> str:
        """Never: it lives as long as this process."""
        await asyncio.Event().wait()
        return ""
