"""Pages that are no objects: health, version, discovery, OpenAPI.

Discovery and OpenAPI documents are made by the machinery from what is served now, and kept until a CRD changes that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from supernode.local.machinery import discovery, openapi
from supernode.local.server import statuses
from supernode.local.server.kinds import Kinds
from supernode.local.server.negotiation import JSON, aggregated_version
from supernode.local.server.statuses import Object
from supernode.local.server.store import encode

_HEALTH: Final = ("/healthz", "/livez", "/readyz")


class Pages:
    """Answers GET on paths that are no resources.

    Args:
        kinds: what is served.
        address: host:port of the server, for clients that ask where it is.
    """

    def __init__(self, kinds: Kinds, address: Callable[[], str]) -> None:
        self._kinds = kinds
        self._address = address
        self._made: dict[str, tuple[str, bytes]] = {}
        self._state: object = None

    def answer(self, path: str, accept: str) -> tuple[str, bytes, str]:
        """Media type, body and entity tag.

        Raises:
            StatusError: 404 there is no such page, 406 it cannot be had in that form.
        """
        if path != "/" and path.endswith("/"):
            path = path.rstrip("/")
        if path in _HEALTH or path.startswith(tuple(f"{each}/" for each in _HEALTH)):
            return "text/plain; charset=utf-8", b"ok", ""
        if path == "/version":
            return JSON, encode(openapi.version_info()), ""
        resources = self._kinds.resources()
        if resources != self._state:
            self._state, self._made = resources, {}
        form = aggregated_version(accept) if path in ("/api", "/apis") else None
        if path == "/openapi/v2" and JSON not in accept and "*/*" not in accept and accept:
            raise statuses.not_acceptable((JSON,))
        key = f"{path} {form}"
        if key not in self._made:
            body = encode(self._make(path, form))
            self._made[key] = (f'"{hashlib.sha256(body).hexdigest()[:40].upper()}"', body)
        tag, body = self._made[key]
        media = JSON if form is None else f"{JSON};g=apidiscovery.k8s.io;v={form};as=APIGroupDiscoveryList"
        return media, body, tag

    def _make(self, path: str, form: str | None) -> Object:
        resources = self._kinds.resources()
        parts = path.strip("/").split("/")
        found: Object | None = None
        match parts:
            case ["api"]:
                if form:
                    return discovery.aggregated(resources, core=True, version=form)
                return discovery.core_versions(self._address())
            case ["apis"]:
                if form:
                    return discovery.aggregated(resources, core=False, version=form)
                return discovery.group_list(resources)
            case ["api", version]:
                found = discovery.resource_list(resources, "", version)
            case ["apis", group]:
                found = discovery.group(resources, group)
            case ["apis", group, version]:
                found = discovery.resource_list(resources, group, version)
            case ["openapi", "v2"]:
                return openapi.v2(resources)
            case ["openapi", "v3"]:
                return openapi.v3_index(resources)
            case ["openapi", "v3", "api", version]:
                found = openapi.v3(resources, "", version)
            case ["openapi", "v3", "apis", group, version]:
                found = openapi.v3(resources, group, version)
            case [""]:
                return {
                    "paths": [
                        "/api",
                        "/api/v1",
                        "/apis",
                        "/healthz",
                        "/livez",
                        "/openapi/v2",
                        "/openapi/v3",
                        "/readyz",
                        "/version",
                    ]
                }
        if found is None:
            raise statuses.no_such_resource()
        return found
