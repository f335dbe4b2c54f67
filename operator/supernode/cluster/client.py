"""The connection to one Kubernetes API server.

Flows in: a kubeconfig (or a pod's service account). Flows out: raw JSON objects, and ClusterError for every refusal.
The official client reads the configuration and authenticates (tokens, certificates, exec plug-ins). Requests go over
connections of our own (`connections`), because thousands of pods through model classes and a general HTTP client cost
too much; watches, logs, and everything by way of a proxy go through the official client's aiohttp session.

Not here: what the objects mean (`translate`), caching (`cache`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import aiohttp
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config
from yaml import YAMLError

from supernode.cluster.connections import Answer, Connections
from supernode.cluster.credentials import Credentials
from supernode.cluster.form import Form
from supernode.cluster.frames import events_in, framed_events_in
from supernode.cluster.kinds import Json, Kind
from supernode.cluster.kubeconfig import kubeconfig_path
from supernode.cluster.protobuf import MAGIC, PROTOBUF
from supernode.cluster.refusals import error_from
from supernode.cluster.sessions import Sessions, connections_to, proxied
from supernode.errors import ClusterError, ConflictError, NotFoundError, UnavailableError
from supernode.names import FIELD_MANAGER

MERGE_PATCH: Final = "application/merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"
JSON: Final = "application/json"

# Seconds for one ordinary request, connection and answer.
REQUEST_TIMEOUT: Final = 30.0
# Times a request is tried while the server is busy or away, before the caller hears of it.
ATTEMPTS: Final = 5
# Longest wait between two attempts, seconds.
LONGEST_PAUSE: Final = 5.0
GOODBYE: Final = 0.1  # seconds for TLS connections to close
# Concurrent connections: more than a gang's pods take at a time, so that the lease never waits for them.
CONNECTIONS: Final = 72


class Client:
    """Requests to one API server.

    Args:
        configuration: the official client's configuration, authentication included.
        timeout: seconds for one request.
        on_request: called with (verb, status or 0) after each request; for metrics.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        timeout: float = REQUEST_TIMEOUT,
        on_request: Callable[[str, int], None] | None = None,
    ) -> None:
        self._configuration = configuration
        self._timeout = timeout
        self._on_request = on_request
        self._session: aiohttp.ClientSession | None = None
        self._host = str(configuration.host).rstrip("/")
        self._root = urlsplit(self._host).path
        self._proxied = proxied(configuration, self._host)
        self._direct: Connections | None = None
        # Called before every request that writes: seconds in which it must be over, because another process may write
        # afterwards. Raises when this process may not write (lost leadership).
        self.guard: Callable[[], float] | None = None

    @classmethod
    async def connect(
        cls, kubeconfig: str | None = None, *, on_request: Callable[[str, int], None] | None = None
    ) -> Client:
        """Read the configuration: `kubeconfig`, else a pod's service account, else $KUBECONFIG or ~/.kube/config.

        Raises:
            ClusterError: no usable configuration.
        """
        configuration = Configuration()
        try:
            path = kubeconfig_path(kubeconfig)
            if path is None:
                load_incluster_config(client_configuration=configuration)
            else:
                await load_kube_config(path, client_configuration=configuration, persist_config=False)
        except (ConfigException, OSError, ValueError, TypeError, KeyError, YAMLError) as exc:
            raise ClusterError(f"the Kubernetes configuration cannot be used: {' '.join(str(exc).split())}") from exc
        configuration.connection_pool_maxsize = CONNECTIONS
        host = urlsplit(str(configuration.host)).hostname or ""
        if host == "localhost" or host.startswith("127.") or host == "::1":
            # As Go's clients do: a proxy from the environment is never used towards this machine itself.
            configuration.client_session_kwargs = {"trust_env": False}
        return cls(configuration, on_request=on_request)

    @property
    def host(self) -> str:
        """URL of the API server."""
        return self._host

    async def close(self) -> None:
        """Close all connections."""
        if self._direct is not None:
            self._direct.close()
            self._direct = None
        if self._session is not None:
            await self._session.close()
            self._session = None
        if self._host.startswith("https:"):
            # A TLS connection says good-bye before its socket closes; nobody waits for that.
            await asyncio.sleep(GOODBYE)

    async def credentials(self) -> Credentials:
        """The credentials of now; ask again when they have expired."""
        header = await self._authorization()
        token = header.partition(" ")[2].strip() if header else None
        conf = self._configuration
        return Credentials(
            server=self._host,
            token=token,
            ca_file=conf.ssl_ca_cert,
            certificate_file=conf.cert_file,
            key_file=conf.key_file,
            verify=bool(conf.verify_ssl),
            proxy=conf.proxy,
            expires=time.time() + 600 if conf.refresh_api_key_hook is not None else None,
        )

    # --- verbs ------------------------------------------------------------------------------------------------

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Json:
        """One object.

        Raises:
            NotFoundError: there is none.
        """
        return await self.request("GET", kind.path(namespace, name))

    async def list_page(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        selector: str | None = None,
        limit: int | None = None,
        token: str | None = None,
        form: Form | None = None,
    ) -> Json:
        """A list object (one page of it where `limit` is set; `token` continues); `form`: asked for instead of JSON."""
        params: dict[str, str] = {}
        if selector:
            params["labelSelector"] = selector
        if limit:
            params["limit"] = str(limit)
        if token:
            params["continue"] = token
        path = kind.path(namespace)
        answer = await self.raw("GET", path, params=params, accept=form.accept if form is not None else JSON)
        if form is None or not answer.startswith(MAGIC):
            return self._parsed("GET", path, answer)
        try:
            return form.page(answer)
        except ValueError as exc:
            raise UnavailableError(f"GET {path}: {self._host} did not answer as asked: {exc}") from exc

    async def create(self, kind: Kind, obj: Json, namespace: str | None = None, *, dry_run: bool = False) -> Json:
        """Create; safe to repeat only because all our names are deterministic. `dry_run`: only as if.

        Raises:
            ConflictError: with reason ``AlreadyExists``.
        """
        params = {"fieldManager": FIELD_MANAGER, **({"dryRun": "All"} if dry_run else {})}
        return await self.request("POST", kind.path(namespace), body=obj, params=params)

    async def patch(
        self,
        kind: Kind,
        name: str,
        patch: Json | list[Json],
        namespace: str | None = None,
        *,
        subresource: str | None = None,
        content_type: str = MERGE_PATCH,
    ) -> Json:
        """Patch an object or its subresource with our field manager."""
        return await self.request(
            "PATCH",
            kind.path(namespace, name, subresource),
            body=patch,
            params={"fieldManager": FIELD_MANAGER},
            content_type=content_type,
        )

    async def replace(self, kind: Kind, obj: Json, namespace: str | None = None) -> Json:
        """Write an object whole; its resourceVersion must be the current one."""
        name = obj["metadata"]["name"]
        return await self.request("PUT", kind.path(namespace, name), body=obj, params={"fieldManager": FIELD_MANAGER})

    async def delete(
        self, kind: Kind, name: str, namespace: str | None = None, *, uid: str | None = None, grace: int | None = None
    ) -> bool:
        """Delete; with `uid` only that very object. True if it was there, False if it was gone already."""
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        try:
            await self.request("DELETE", kind.path(namespace, name), body=options)
        except NotFoundError:
            return False
        except ConflictError:
            if uid is None:
                raise
            return False  # another object has the name now: the one we meant is gone
        return True

    # --- requests -----------------------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        attempts: int = ATTEMPTS,
    ) -> Json:
        """One request; tried again while the server is busy (429, 5xx) or away, honouring Retry-After.

        Repeating is safe: creates have deterministic names, deletes and patches say what they mean.

        Raises:
            ClusterError: the subclass by status.
        """
        answer = await self.raw(method, path, params=params, body=body, content_type=content_type, attempts=attempts)
        return self._parsed(method, path, answer)

    def _parsed(self, method: str, path: str, answer: bytes) -> Json:
        try:
            parsed: Json = json.loads(answer)
        except ValueError as exc:
            raise UnavailableError(f"{method} {path}: {self._host} did not answer in JSON") from exc
        return parsed

    async def text(self, path: str, params: Mapping[str, str] | None = None) -> str:
        """What a GET answers as plain text, such as a container's log; errors as `request`."""
        return (await self.raw("GET", path, params=params)).decode(errors="replace")

    async def raw(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = JSON,
        accept: str = JSON,
        attempts: int = ATTEMPTS,
    ) -> bytes:
        """As `request`, but what was answered as it came; `accept`: the forms in which it may."""
        headers = {"Accept": f"{accept}, */*" if accept == JSON else accept}
        if body is not None:
            headers["Content-Type"] = content_type
        for attempt in range(attempts):
            try:
                if method == "GET" or self.guard is None:
                    return await self._once(method, path, params, body, headers)
                return await self._within(self.guard(), method, path, params, body, headers)
            except UnavailableError as exc:
                if attempt + 1 == attempts:
                    raise
                pause = exc.retry_after if exc.retry_after is not None else 0.1 * 2**attempt
                await asyncio.sleep(min(pause, LONGEST_PAUSE) * (0.75 + random.random() / 2))
        raise AssertionError("unreachable")  # pragma: no cover

    async def _within(
        self,
        seconds: float,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        body: Any,
        headers: Mapping[str, str],
    ) -> bytes:
        """A write that is over by then, here and at the server: one that is held up must not land under another."""
        params = {**(params or {}), "timeout": f"{max(1, int(seconds * 1000))}ms"}
        try:
            async with asyncio.timeout(seconds):
                return await self._once(method, path, params, body, headers)
        except TimeoutError as exc:
            raise UnavailableError(f"{method} {path}: no answer from {self._host} within {seconds:.1f} s") from exc

    async def _once(
        self, method: str, path: str, params: Mapping[str, str] | None, body: Any, headers: Mapping[str, str]
    ) -> bytes:
        headers = await self._headers(headers)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
        status = 0
        try:
            if self._proxied:
                answer = await self._through_proxy(method, path, params, data, headers)
            else:
                self._direct = self._direct or connections_to(self._configuration, self._host)
                lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                target = f"{self._root}{path}?{urlencode(params)}" if params else self._root + path
                async with asyncio.timeout(self._timeout):
                    answer = await self._direct.request(method, target, lines.encode("latin-1"), data)
            status = answer.status
            if status >= 400:
                raise error_from(method, path, status, answer.body, answer.retry_after)
            return answer.body
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as exc:
            raise UnavailableError(f"{method} {path}: no answer from {self._host}: {_describe(exc)}") from exc
        finally:
            if self._on_request is not None:
                self._on_request(method, status)

    async def _through_proxy(
        self, method: str, path: str, params: Mapping[str, str] | None, data: bytes | None, headers: dict[str, str]
    ) -> Answer:
        timeout = aiohttp.ClientTimeout(total=self._timeout, connect=10)
        async with self._open_session().request(
            method, self._host + path, params=params, data=data, headers=headers, timeout=timeout, **self._extra()
        ) as response:
            return Answer(response.status, await response.read(), response.headers.get("Retry-After"))

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
        """The stream of watch events after `resource_version`, bookmarks included, for at most `seconds`.

        `form`: what to ask for instead of JSON; the server may send JSON all the same.

        Raises:
            GoneError: the version is too old.
            UnavailableError: the connection broke.
        """
        params = {
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        path = kind.path(namespace)
        # A server sends a bookmark about once a minute: a stream silent for longer is dead.
        accept = form.accept_stream if form is not None else JSON
        async with self._stream("WATCH", path, params, seconds + 15, accept) as response:
            if form is not None and response.content_type == PROTOBUF:
                yield framed_events_in(response.content.iter_any(), path, form)
            else:
                yield events_in(response.content.iter_any(), path)

    @contextlib.asynccontextmanager
    async def stream(self, path: str, params: Mapping[str, str] | None = None) -> AsyncIterator[AsyncIterator[bytes]]:
        """What a GET answers, in pieces as they come, for as long as it takes (a followed log); errors as `request`."""
        async with self._stream("GET", path, params, None, f"{JSON}, */*") as response:
            yield response.content.iter_any()

    @contextlib.asynccontextmanager
    async def _stream(
        self, verb: str, path: str, params: Mapping[str, str] | None, silence: float | None, accept: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that takes its time; `silence`: seconds without a byte after which it counts as dead."""
        timeout = aiohttp.ClientTimeout(total=None, connect=10, sock_read=silence)
        headers = await self._headers({"Accept": accept})
        session = self._open_session()
        url = self._host + path
        try:
            async with session.get(url, params=params, headers=headers, timeout=timeout, **self._extra()) as response:
                if self._on_request is not None:
                    self._on_request(verb, response.status)
                if response.status >= 400:
                    text = await response.read()
                    raise error_from(verb, path, response.status, text, response.headers.get("Retry-After"))
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise UnavailableError(f"{verb} {path}: the connection broke: {_describe(exc)}") from exc

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = Sessions(self._configuration).open()
        return self._session

    def _extra(self) -> dict[str, Any]:
        extra: dict[str, Any] = {}
        if self._configuration.tls_server_name:
            extra["server_hostname"] = self._configuration.tls_server_name
        if self._configuration.proxy:
            extra["proxy"] = self._configuration.proxy
        return extra

    async def _authorization(self) -> str | None:
        settings = await self._configuration.auth_settings()
        value = settings.get("BearerToken", {}).get("value")
        return str(value) if value else None

    async def _headers(self, given: Mapping[str, str]) -> dict[str, str]:
        headers = {**given, "User-Agent": "supernode"}
        authorization = await self._authorization()
        if authorization:
            headers["Authorization"] = authorization
        return headers


def _describe(exc: BaseException) -> str:
    return str(exc) or type(exc).__name__
