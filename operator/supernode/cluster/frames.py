"""The stream of a watch, cut into its events. Flows in: bytes as they come. Flows out: one JSON object per event."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator

from supernode.cluster.kinds import Json
from supernode.cluster.refusals import error_from
from supernode.errors import UnavailableError


async def events_in(chunks: AsyncIterable[bytes], path: str) -> AsyncIterator[Json]:
    """Events of the watch of `path`, however the bytes are cut.

    Raises:
        ClusterError: the server ended the watch, and says why.
        UnavailableError: something that is no event.
    """
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if not line.strip():
                continue
            try:
                event: Json = json.loads(line)
            except ValueError as exc:
                raise UnavailableError(f"WATCH {path}: a line that is not JSON") from exc
            if event.get("type") == "ERROR":
                status = event.get("object") or {}
                raise error_from("WATCH", path, int(status.get("code") or 500), json.dumps(status).encode(), None)
            yield event
