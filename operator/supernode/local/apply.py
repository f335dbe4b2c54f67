"""Applies objects of any kind to an API server, as `kubectl apply --server-side` does.

In: objects. Out: the same objects in the API; custom resource definitions are waited for until they serve. Paths of
kinds come from the server's own discovery, so every kind works, and nothing is known about any.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from supernode.errors import LocalError, NotFoundError
from supernode.local.client import APPLY_PATCH, KubeClient
from supernode.names import FIELD_MANAGER

Object = dict[str, Any]

_ESTABLISH_SECONDS: Final = 30.0


async def apply_objects(client: KubeClient, objects: Iterable[Object], *, skip_unknown: bool = False) -> list[Object]:
    """Apply objects in order; returns those skipped because the server has no such kind (if that is allowed)."""
    skipped = []
    for obj in objects:
        try:
            path = await _path(client, obj)
        except NotFoundError:
            if not skip_unknown:
                raise LocalError(f"the API server has no kind {obj['kind']} in {obj.get('apiVersion')}") from None
            skipped.append(obj)
            continue
        await client.patch(
            path, obj, kind=APPLY_PATCH, params={"fieldManager": f"{FIELD_MANAGER}-local", "force": "true"}
        )
        if obj["kind"] == "CustomResourceDefinition":
            await _established(client, path)
    return skipped


async def _path(client: KubeClient, obj: Object) -> str:
    version = str(obj.get("apiVersion") or "")
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    for resource in (await client.get(root)).get("resources") or []:
        if resource["kind"] == obj["kind"] and "/" not in resource["name"]:
            meta = obj["metadata"]
            place = f"/namespaces/{meta.get('namespace') or 'default'}" if resource["namespaced"] else ""
            return f"{root}{place}/{resource['name']}/{meta['name']}"
    raise NotFoundError(f"no kind {obj['kind']} in {version}", status=404)


async def _established(client: KubeClient, path: str) -> None:
    deadline = asyncio.get_running_loop().time() + _ESTABLISH_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        crd = await client.get(path)
        conditions = {entry["type"]: entry["status"] for entry in (crd.get("status") or {}).get("conditions") or []}
        if conditions.get("Established") == "True" and await _served(client, crd):
            return
        await asyncio.sleep(0.1)
    raise LocalError(f"{path} was not established within {_ESTABLISH_SECONDS:g} s: {conditions}")


async def _served(client: KubeClient, crd: Object) -> bool:
    """Whether discovery shows the kind; a real server needs a moment after `Established`."""
    spec = crd["spec"]
    for version in spec["versions"]:
        if not version.get("served"):
            continue
        try:
            listed = await client.get(f"/apis/{spec['group']}/{version['name']}")
        except NotFoundError:
            return False
        if all(resource["kind"] != spec["names"]["kind"] for resource in listed.get("resources") or []):
            return False
    return True
