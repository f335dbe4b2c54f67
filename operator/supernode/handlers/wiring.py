"""Every kopf decorator, each body one call. kopf brings the events of our three kinds; nothing else.

Only raw events are handled (`on.event`): kopf then keeps no state in the objects' annotations and sets no finalizer
of its own. What an event means is decided from the stores, level-triggered (docs/decisions/2026-11-22-kopf.md).
All are coroutines: kopf runs plain functions in threads, and the stores belong to the loop.
"""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable
from typing import Any

import kopf

from supernode.cluster.credentials import Credentials
from supernode.cluster.observe import Stores
from supernode.names import GROUP, VERSION


def settings() -> kopf.OperatorSettings:
    """kopf without its own events, peering, scanning and storage."""
    result = kopf.OperatorSettings()
    result.posting.enabled = False
    result.peering.standalone = True
    # Our kinds are there before kopf starts: no need to watch namespaces and definitions (nor for the rights to).
    result.scanning.disabled = True
    result.watching.server_timeout = 290
    result.watching.connect_timeout = 10
    result.watching.reconnect_backoff = 0.2
    result.networking.request_timeout = 30
    result.queueing.idle_timeout = 1.0
    # No handler asks what has changed: without this, every event is copied twice to find out.
    result.persistence.diffbase_storage = _NoDifferences()
    return result


class _NoDifferences(kopf.DiffBaseStorage):  # type: ignore[misc]
    """Remembers nothing of an object, and finds nothing in it that could differ."""

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:
        return {}

    def fetch(self, *, body: Any) -> None:
        return None

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        """Nothing is kept."""


def wire(stores: Stores, credentials: Callable[[], Awaitable[Credentials]]) -> kopf.OperatorRegistry:
    """A registry with all handlers of this operator."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)  # type: ignore[untyped-decorator]
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return connection(await credentials())

    @kopf.on.event(GROUP, VERSION, "trainingjobs", registry=registry)  # type: ignore[untyped-decorator]
    async def on_job(event: kopf.RawEvent, **_: Any) -> None:
        stores.jobs.apply(event["type"], _plain(event["object"]))

    @kopf.on.event(GROUP, VERSION, "acceleratorpools", registry=registry)  # type: ignore[untyped-decorator]
    async def on_pool(event: kopf.RawEvent, **_: Any) -> None:
        stores.pools.apply(event["type"], _plain(event["object"]))

    @kopf.on.event(GROUP, VERSION, "supernodegroups", registry=registry)  # type: ignore[untyped-decorator]
    async def on_group(event: kopf.RawEvent, **_: Any) -> None:
        stores.groups.apply(event["type"], _plain(event["object"]))

    return registry


def connection(credentials: Credentials) -> kopf.ConnectionInfo:
    """Our credentials in kopf's words."""
    expires = credentials.expires
    return kopf.ConnectionInfo(
        server=credentials.server,
        ca_path=credentials.ca_file,
        insecure=not credentials.verify,
        scheme="Bearer" if credentials.token else None,
        token=credentials.token,
        certificate_path=credentials.certificate_file,
        private_key_path=credentials.key_file,
        proxy_url=credentials.proxy,
        expiration=None if expires is None else datetime.datetime.fromtimestamp(expires, datetime.UTC),
    )


def _plain(obj: Any) -> dict[str, Any]:
    """A copy at the top, where the store takes things out."""
    return {**obj, "metadata": {**obj["metadata"]}}
