"""`kubectl logs`: passed through to the node's agent, as a real API server passes it to the kubelet.

The agent's address is the node's InternalIP and its daemon port; the path and parameters are the kubelet's
(`/containerLogs/NAMESPACE/POD/CONTAINER?follow=...`).
"""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp
from aiohttp import web

from supernode.local.server import statuses
from supernode.local.server.objects import Objects
from supernode.local.server.statuses import Object
from supernode.local.server.target import Target

# Parameters that a kubelet knows; `container` becomes part of the path.
_PASSED = ("follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream")
_CHUNK = 64 * 1024


def _container(pod: Object, asked: str) -> str:
    spec = pod["spec"]
    regular = [each["name"] for each in spec.get("containers") or ()]
    every = regular + [each["name"] for each in spec.get("initContainers") or ()]
    name = pod["metadata"]["name"]
    if asked:
        if asked not in every:
            raise statuses.bad_request(f"container {asked} is not valid for pod {name}")
        return asked
    if len(regular) == 1:
        return str(regular[0])
    listed = " ".join(each["name"] for each in spec.get("containers") or ())
    inits = " ".join(each["name"] for each in spec.get("initContainers") or ())
    tail = f" or one of the init containers: [{inits}]" if inits else ""
    raise statuses.bad_request(f"a container name must be specified for pod {name}, choose one of: [{listed}]{tail}")


def address_of(node: Object) -> str | None:
    """host:port of a node's agent, or None when the node does not say."""
    status = node.get("status") or {}
    port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port")
    addresses = {each.get("type"): each.get("address") for each in status.get("addresses") or ()}
    host = addresses.get("InternalIP") or addresses.get("Hostname")
    return f"{host}:{port}" if host and port else None


def url_of(objects: Objects, target: Target, query: Mapping[str, str]) -> str:
    """Where the log of a pod's container is.

    Raises:
        StatusError: 400 no such container or not on a node yet, 404 no such pod, 500 no such node.
    """
    pod = objects.find(target).obj
    container = _container(pod, query.get("container", ""))
    name = pod["spec"].get("nodeName")
    if not name:
        raise statuses.bad_request(f"pod {target.name} does not have a host assigned")
    node = objects.store.get(("", "nodes"), ("", name))
    address = address_of(node.obj) if node is not None else None
    if address is None:
        raise statuses.internal(f"node {name} has no agent address, so its logs cannot be read")
    return f"http://{address}/containerLogs/{target.namespace}/{target.name}/{container}"


async def proxy(session: aiohttp.ClientSession, url: str, request: web.Request) -> web.StreamResponse:
    """Pass the agent's answer on, chunk by chunk, until either side ends.

    Raises:
        StatusError: the agent refuses, or cannot be reached.
    """
    query = {name: request.query[name] for name in _PASSED if name in request.query}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    try:
        async with session.get(url, params=query, timeout=timeout) as answer:
            if answer.status != 200:
                text = (await answer.text())[:2000].strip()
                reason = {400: "BadRequest", 404: "NotFound"}.get(answer.status, "InternalError")
                raise statuses.StatusError(answer.status, reason, text or f"the node agent answered {answer.status}")
            response = web.StreamResponse(headers={"Content-Type": "text/plain"})
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response
    except (aiohttp.ClientConnectionError, TimeoutError) as exc:
        raise statuses.internal(f'Get "{url}": {exc}') from exc
