"""A small client for a Kubernetes API: raw JSON over HTTP, and a list-and-watch loop.

In: an address with credentials (`Connection`), paths such as ``/api/v1/pods``. Out: decoded JSON objects, or an error
of the `ClusterError` family. Not here: knowledge of kinds, caches, retries of single requests (callers know what may be
repeated).
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import aiohttp
import yaml

from supernode.errors import (
    BadRequestError,
    ClusterError,
    ConflictError,
    ForbiddenError,
    GoneError,
    LocalError,
    NotFoundError,
    UnavailableError,
)

Object = dict[str, Any]

JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_PATCH: Final = "application/strategic-merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"

# Seconds. A watch is asked to end by itself in this time, so that a dead connection is noticed.
_WATCH_SECONDS: Final = 240
_REQUEST_SECONDS: Final = 30
# A watch event carries one object; etcd's own limit for one is 1.5 MiB, JSON with managed fields stays below this.
_LINE_LIMIT: Final = 16 * 1024 * 1024

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Connection:
    """Where an API server is and how to be let in.

    Attributes:
        url: base address, such as ``https://127.0.0.1:6443``.
        token: bearer token, or None.
        ca: PEM text of the certificate authority for https, or None for the machine's own trust store.
        client_certificate: paths of (certificate, key) PEM files, or None.
        insecure: do not verify the server's certificate.
    """

    url: str
    token: str | None = None
    ca: str | None = None
    client_certificate: tuple[str, str] | None = None
    insecure: bool = False

    @classmethod
    def from_kubeconfig(cls, path: Path, context: str | None = None) -> Connection:
        """Read a kubeconfig file; LocalError names what is missing in it."""
        try:
            config = yaml.safe_load(path.read_text())
            wanted = context or config["current-context"]
            chosen = _named(config["contexts"], wanted)["context"]
            cluster = _named(config["clusters"], chosen["cluster"])["cluster"]
            user = _named(config["users"], chosen["user"])["user"]
            url = cluster["server"]
        except (OSError, yaml.YAMLError, KeyError, TypeError) as exc:
            raise LocalError(f"cannot read kubeconfig {path}: {exc!r}") from exc
        ca = None
        if data := cluster.get("certificate-authority-data"):
            ca = base64.b64decode(data).decode()
        elif file := cluster.get("certificate-authority"):
            ca = (path.parent / file).read_text()
        pair = None
        if (cert := user.get("client-certificate")) and (key := user.get("client-key")):
            pair = (str(path.parent / cert), str(path.parent / key))
        return cls(url, user.get("token"), ca, pair, bool(cluster.get("insecure-skip-tls-verify")))

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS settings for an https address; None for plain http."""
        if not self.url.startswith("https:"):
            return None
        context = ssl.create_default_context(cadata=self.ca)
        if self.client_certificate:
            context.load_cert_chain(*self.client_certificate)
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _named(entries: list[Object], name: str) -> Object:
    for entry in entries:
        if entry.get("name") == name:
            return entry
    raise KeyError(name)


class KubeClient:
    """Requests to one API server, as coroutines. Use as an async context manager, or call `close`."""

    def __init__(self, connection: Connection, *, user_agent: str = "supernode-local") -> None:
        self.connection = connection
        headers = {"User-Agent": user_agent, "Accept": "application/json"}
        if connection.token:
            headers["Authorization"] = f"Bearer {connection.token}"
        self._session = aiohttp.ClientSession(
            base_url=connection.url,
            headers=headers,
            connector=aiohttp.TCPConnector(ssl=connection.ssl_context() or False, limit=0),
            timeout=aiohttp.ClientTimeout(total=_REQUEST_SECONDS),
            read_bufsize=2**20,
        )

    async def __aenter__(self) -> KubeClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End all connections."""
        await self._session.close()

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Object:
        """GET one object or list."""
        return await self._call("GET", path, params=params)

    async def create(self, path: str, body: Object, params: Mapping[str, str] | None = None) -> Object:
        """POST an object to a collection (or to a subresource such as ``binding``)."""
        return await self._call("POST", path, json_body=body, params=params)

    async def replace(self, path: str, body: Object) -> Object:
        """PUT a whole object."""
        return await self._call("PUT", path, json_body=body)

    async def patch(
        self, path: str, body: Any, *, kind: str = MERGE_PATCH, params: Mapping[str, str] | None = None
    ) -> Object:
        """PATCH with one of the four patch types."""
        return await self._call("PATCH", path, json_body=body, content_type=kind, params=params)

    async def delete(self, path: str, body: Object | None = None) -> Object:
        """DELETE one object; `body` may be DeleteOptions."""
        return await self._call("DELETE", path, json_body=body)

    async def ready(self) -> bool:
        """Whether the server answers /readyz with 200."""
        try:
            async with self._session.get("/readyz", timeout=aiohttp.ClientTimeout(total=5)) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def _call(
        self,
        method: str,
        path: str,
        *,
        json_body: Any = None,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> Object:
        data = None if json_body is None else json.dumps(json_body).encode()
        headers = {"Content-Type": content_type} if data is not None else None
        try:
            async with self._session.request(
                method, path, data=data, headers=headers, params=dict(params or {})
            ) as response:
                text = await response.text()
                if response.status >= 400:
                    raise _error(f"{method} {path}", response.status, text, response.headers.get("Retry-After"))
                decoded: Object = json.loads(text) if text else {}
                return decoded
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise UnavailableError(f"{method} {path}: {exc or type(exc).__name__}") from exc
        except json.JSONDecodeError as exc:
            raise UnavailableError(f"{method} {path}: the answer is not JSON ({exc})") from exc

    async def watch(self, path: str, params: Mapping[str, str]) -> AsyncIterator[tuple[str, Object]]:
        """Stream (type, object) until the server ends the watch. GoneError when the version is too old."""
        query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(_WATCH_SECONDS), **params}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_REQUEST_SECONDS, sock_read=_WATCH_SECONDS + 30)
        try:
            async with self._session.get(path, params=query, timeout=timeout) as response:
                if response.status >= 400:
                    text = await response.text()
                    raise _error(f"WATCH {path}", response.status, text, response.headers.get("Retry-After"))
                pending = b""
                async for chunk in response.content.iter_any():
                    *lines, pending = (pending + chunk).split(b"\n")
                    for line in lines:
                        if line.strip():
                            yield _event(path, line)
                    if len(pending) > _LINE_LIMIT:
                        raise UnavailableError(f"WATCH {path}: an event larger than {_LINE_LIMIT} bytes")
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise UnavailableError(f"WATCH {path}: {exc or type(exc).__name__}") from exc


def _event(path: str, line: bytes) -> tuple[str, Object]:
    try:
        event = json.loads(line)
    except json.JSONDecodeError as exc:
        raise UnavailableError(f"WATCH {path}: an event that is not JSON ({exc})") from exc
    kind, obj = str(event.get("type")), event.get("object") or {}
    if kind == "ERROR":
        raise _error(f"WATCH {path}", int(obj.get("code") or 500), json.dumps(obj), None)
    return kind, obj


_BY_STATUS: Final[dict[int, type[ClusterError]]] = {
    400: BadRequestError,
    401: ForbiddenError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    422: BadRequestError,
}


def _error(what: str, status: int, text: str, retry_after: str | None) -> ClusterError:
    message, reason = text.strip()[:500], ""
    try:
        body = json.loads(text)
        message, reason = body.get("message") or message, body.get("reason") or ""
    except (json.JSONDecodeError, AttributeError):
        pass
    kind = _BY_STATUS.get(status, UnavailableError if status == 429 or status >= 500 else BadRequestError)
    seconds = float(retry_after) if retry_after and retry_after.isdigit() else None
    return kind(f"{what}: {status} {message}", status=status, reason=reason, retry_after=seconds)


async def persistently(work: Callable[[], Awaitable[None]], *, seconds: float = 60.0) -> None:
    """Do something again until the server lets it happen: conflicts and unavailability are tried again for so long."""
    deadline = asyncio.get_running_loop().time() + seconds
    wait = 0.1
    while True:
        try:
            return await work()
        except (ConflictError, UnavailableError) as exc:
            if asyncio.get_running_loop().time() + wait > deadline:
                raise
            await asyncio.sleep(max(wait, min(exc.retry_after or 0.0, 5.0)))
            wait = min(wait * 2, 5.0)


async def mirror(
    client: KubeClient,
    path: str,
    *,
    on_list: Callable[[list[Object]], Awaitable[None] | None],
    on_event: Callable[[str, Object], Awaitable[None] | None],
    params: Mapping[str, str] | None = None,
    pause: float = 0.5,
) -> None:
    """List a collection, then follow its changes, for ever; cancel the task to end it.

    Args:
        client: the connection to use.
        path: collection, such as ``/api/v1/pods``.
        on_list: called with every full list (at the start, and after the server forgot our version).
        on_event: called with ADDED, MODIFIED or DELETED and the object, in order.
        params: selectors for list and watch.
        pause: seconds before the first try after a failure; doubles up to 30 s.
    """
    wait = pause
    version: str | None = None
    while True:
        try:
            if version is None:
                listed = await client.get(path, params)
                items = [_typed(item, listed) for item in listed.get("items") or []]
                await _maybe(on_list(items))
                version = str(listed["metadata"]["resourceVersion"])
            async for kind, obj in client.watch(path, {**(params or {}), "resourceVersion": version}):
                version = str(obj["metadata"]["resourceVersion"])
                wait = pause
                if kind != "BOOKMARK":
                    await _maybe(on_event(kind, obj))
        except GoneError:
            version = None
        except ClusterError as exc:
            _log.debug("watch of %s interrupted: %s; again in %.1f s", path, exc, wait)
            if not isinstance(exc, UnavailableError):
                version = None
            await asyncio.sleep(wait)
            wait = min(wait * 2, 30.0)


async def _maybe(result: Awaitable[None] | None) -> None:
    if result is not None:
        await result


def _typed(item: Object, listed: Object) -> Object:
    """Items of a list carry no kind of their own; give them the list's."""
    item.setdefault("apiVersion", listed.get("apiVersion"))
    item.setdefault("kind", str(listed.get("kind", "")).removesuffix("List"))
    return item
