"""How to reach a server, from the official client's configuration: TLS, proxies, certificates.

Flows in: a configuration. Flows out: a session of aiohttp, or connections of our own where no proxy is in between.
"""

from __future__ import annotations

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject

from supernode.cluster.connections import Connections


class Sessions(RESTClientObject):  # type: ignore[misc]
    """The official client's way of making a session, opened to us."""

    def open(self) -> aiohttp.ClientSession:
        """A session."""
        session: aiohttp.ClientSession = self._create_pool_manager()
        self.pool_manager = session
        return session


def proxied(configuration: Configuration, url: str) -> bool:
    """Whether requests go by a proxy: the configuration's, or the environment's."""
    parts = urlsplit(url)
    if configuration.proxy:
        return True
    if (configuration.client_session_kwargs or {}).get("trust_env") is False:
        return False
    return parts.scheme in getproxies() and not proxy_bypass(parts.netloc.rpartition("@")[2])


def connections_to(configuration: Configuration, url: str) -> Connections:
    """Connections to a server, none of them open yet."""
    context = Sessions(configuration).ssl_context if url.startswith("https:") else None
    server_name = configuration.tls_server_name or None
    return Connections(url, context=context, server_name=server_name, limit=configuration.connection_pool_maxsize)
