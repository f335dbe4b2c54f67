"""The stream of a watch, cut into its events. Flows in: bytes as they come. Flows out: one JSON object per event."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator
from typing import Final

from supernode.cluster.form import Form
from supernode.cluster.kinds import Json
from supernode.cluster.refusals import error_from
from supernode.errors import UnavailableError

# Bytes of a length before each event, where events are not lines; and the longest event that is believed (etcd keeps
# 1.5 MiB).
_PREFIX: Final = 4
_LONGEST: Final = 1 << 26


async def events_in(chunks: AsyncIterable[bytes], path: str) -> AsyncIterator[Json]:
    """Events of the watch of `path`, a line each, however the bytes are cut.

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
            yield _unless_error(event, path)


async def framed_events_in(chunks: AsyncIterable[bytes], path: str, form: Form) -> AsyncIterator[Json]:
    """The same where a length of four bytes, the highest first, stands before each event."""
    rest = b""
    async for chunk in chunks:
        rest += chunk
        start = 0
        while len(rest) >= (begin := start + _PREFIX):
            length = int.from_bytes(rest[start:begin], "big")
            if length > _LONGEST:
                raise UnavailableError(f"WATCH {path}: an event of {length:,} bytes")
            if len(rest) < begin + length:
                break
            start = begin + length
            try:
                event = form.event(rest[begin:start])
            except ValueError as exc:
                raise UnavailableError(f"WATCH {path}: {exc}") from exc
            yield _unless_error(event, path)
        rest = rest[start:]


def _unless_error(event: Json, path: str) -> Json:
    if event.get("type") == "ERROR":
        status = event.get("object") or {}
        raise error_from("WATCH", path, int(status.get("code") or 500), json.dumps(status).encode(), None)
    return event
