"""Writes status without fighting: only what differs, and only onto the version that was read.

Flows in: the object as last read and the status it should have. Flows out: the object as the server has it now.
"""

from __future__ import annotations

from typing import Any

from supernode.cluster.client import Client
from supernode.cluster.kinds import Json, Kind
from supernode.errors import ConflictError


def difference(old: Json, new: Json) -> Json:
    """The merge patch (RFC 7386) that makes `old` into `new`; empty when they are equal.

    A field that `new` has as None, or lacks, is removed. Lists are replaced whole.
    """
    patch: Json = {}
    for name in old.keys() | new.keys():
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            inner = difference(before, after)
            if inner:
                patch[name] = inner
        else:
            patch[name] = _without_none(after)
    return patch


async def write(client: Client, kind: Kind, obj: Json, status: Json, *, look: bool = False) -> Json:
    """Make the status of `obj` equal to `status`; gives the object as it is now on the server.

    The patch carries the resource version that the decision was made on, so that two writers can never both win.

    Args:
        client: the connection.
        kind, obj: what is written, as last read.
        status: all of it.
        look: at a conflict, whether it is our own write whose answer was lost; needs the right to `get`.

    Raises:
        ConflictError: the object has changed since; read again and decide again.
        NotFoundError: it is gone.
    """
    patch = difference(obj.get("status") or {}, status)
    if not patch:
        return obj
    metadata = obj["metadata"]
    body = {
        "metadata": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]},
        "status": patch,
    }
    try:
        return await client.patch(kind, metadata["name"], body, metadata.get("namespace"), subresource="status")
    except ConflictError:
        if not look:
            raise
        found = await client.get(kind, metadata["name"], metadata.get("namespace"))
        if not _is_as_written(found, obj, status):
            raise
        # Our own write, whose first answer was lost. Taken for somebody else's it would never be told of.
        return found


async def set_finalizer(client: Client, kind: Kind, obj: Json, finalizer: str, *, present: bool) -> Json:
    """Add or remove our finalizer; others' stay as they are.

    Raises:
        ConflictError: the object has changed since.
        NotFoundError: it is gone.
    """
    metadata = obj["metadata"]
    held = list(metadata.get("finalizers") or [])
    if (finalizer in held) == present:
        return obj
    wanted = [*held, finalizer] if present else [name for name in held if name != finalizer]
    body = {
        "metadata": {
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "finalizers": wanted or None,
        }
    }
    return await client.patch(kind, metadata["name"], body, metadata.get("namespace"))


def condition(obj: Json, kind: str) -> Json | None:
    """The condition of that type in an object's status, or None."""
    for entry in (obj.get("status") or {}).get("conditions") or []:
        if entry.get("type") == kind:
            found: Json = entry
            return found
    return None


def _is_as_written(found: Json, obj: Json, status: Json) -> bool:
    """Whether an object has the status that it should have, and is in all else what was decided on."""
    ours, theirs = obj["metadata"], found["metadata"]
    same = all(ours.get(name) == theirs.get(name) for name in ("uid", "generation", "deletionTimestamp"))
    return same and found.get("status") == _without_none(status)


def _without_none(value: Any) -> Any:
    """A value for a merge patch: inside a new object a None would be dropped by the server anyway."""
    if isinstance(value, dict):
        return {name: _without_none(inner) for name, inner in value.items() if inner is not None}
    return value
