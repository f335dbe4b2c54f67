"""The kubelet's HTTP endpoint, as far as API servers use it: container logs.

In: requests that an API server passes on, on each node's own address. Out: log text. Commands in containers, port
forwarding and attaching are answered with a message that they are not there.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from aiohttp import web

from supernode.local.agent.logs import LogQuery, read_log
from supernode.local.agent.pod import PodRunner

# (namespace, pod name) -> the pod, if it is ours.
FindPod = Callable[[str, str], PodRunner | None]


class KubeletEndpoint:
    """Serves all nodes of the agent; each address is added by `listen`.

    Args:
        find: finds pods.
        tls: settings for https, which a kube-apiserver needs; None for plain http.
    """

    def __init__(self, find: FindPod, tls: ssl.SSLContext | None) -> None:
        self._find = find
        self._tls = tls
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        for word in ("exec", "attach", "portForward", "run"):
            application.router.add_route("*", f"/{word}/{{rest:.*}}", self._unsupported)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)

    async def start(self) -> None:
        """Make ready to listen."""
        await self._runner.setup()

    async def listen(self, address: str) -> int:
        """Listen on an address; returns the port."""
        listener = socket.create_server((address, 0))
        listener.setblocking(False)
        await web.SockSite(self._runner, listener, ssl_context=self._tls).start()
        return int(listener.getsockname()[1])

    async def stop(self) -> None:
        """Close all addresses and connections."""
        await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _unsupported(self, request: web.Request) -> web.Response:
        what = request.path.split("/")[1]
        return web.Response(status=501, text=f"the local cluster's node agent has no {what}: its pods are processes\n")

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        namespace, name, container_name = (request.match_info[key] for key in ("namespace", "pod", "container"))
        pod = self._find(namespace, name)
        container = pod.container(container_name) if pod else None
        if pod is None or container is None:
            text = f'container "{container_name}" of pod "{name}" in namespace "{namespace}" is not on this node\n'
            return web.Response(status=404, text=text)
        try:
            query = _query(request)
        except ValueError as exc:
            return web.Response(status=400, text=f"{exc}\n")
        path, writer = container.log_path, container.log
        if request.query.get("previous") in ("true", "1"):
            if container.restarts == 0:
                text = f'previous terminated container "{container_name}" in pod "{name}" not found\n'
                return web.Response(status=400, text=text)
            path, writer = container.path_of_run(container.restarts - 1), None
        elif container.log is None:
            reason = container.state.get("waiting", {}).get("reason", "waiting")
            text = f'container "{container_name}" in pod "{name}" is waiting to start: {reason}\n'
            return web.Response(status=400, text=text)
        elif container.log.path != path:
            # Between two runs: the last one's log is what there is.
            path = container.log.path
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        # A reader who has seen enough hangs up; that is no error.
        with contextlib.suppress(ConnectionResetError):
            async for piece in read_log(path, query, writer):
                await response.write(piece)
            await response.write_eof()
        return response


def _query(request: web.Request) -> LogQuery:
    values = request.query
    since = None
    if seconds := values.get("sinceSeconds"):
        since = datetime.now(UTC) - timedelta(seconds=int(seconds))
    elif time := values.get("sinceTime"):
        since = datetime.fromisoformat(time.replace("Z", "+00:00"))
    return LogQuery(
        follow=values.get("follow") in ("true", "1"),
        tail_lines=_number(values.get("tailLines")),
        since=since,
        timestamps=values.get("timestamps") in ("true", "1"),
        limit_bytes=_number(values.get("limitBytes")),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text else None
