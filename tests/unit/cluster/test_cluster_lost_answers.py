"""A write that was done although its answer was lost: it counts as ours, and somebody else's write does not."""

from __future__ import annotations

import asyncio
import copy
from typing import Any, cast

import pytest

from supernode.cluster import status as statuses
from supernode.cluster.client import Client
from supernode.cluster.events import Events
from supernode.cluster.kinds import EVENTS, JOBS, Json, Kind
from supernode.errors import ConflictError

OBJ: Json = {
    "metadata": {"name": "train", "namespace": "n", "uid": "u", "resourceVersion": "1", "generation": 3},
    "status": {"state": "Pending", "message": "waits"},
}
WANTED: Json = {"state": "Running", "progress": {"step": 5, "loss": None}, "message": None}
WRITTEN: Json = {"state": "Running", "progress": {"step": 5}}


class Lost:
    """A server that does every write and loses its first answer: the client's own repeat meets a conflict."""

    def __init__(self, found: Json) -> None:
        self.found = found
        self.created: list[Json] = []
        self.counts: list[int] = []

    async def patch(self, kind: Kind, name: str, patch: Json, namespace: str, subresource: str = "") -> Json:
        if kind is EVENTS:
            self.counts.append(patch["count"])
            return {}
        raise ConflictError("the object has been modified", reason="Conflict")

    async def get(self, kind: Kind, name: str, namespace: str) -> Json:
        return self.found

    async def create(self, kind: Kind, obj: Json, namespace: str) -> Json:
        self.created.append(obj)
        raise ConflictError("it is there already", reason="AlreadyExists")


def the_server_has(**metadata: Any) -> Json:
    found = copy.deepcopy(OBJ)
    found["metadata"] |= {"resourceVersion": "2", **metadata}
    found["status"] = copy.deepcopy(WRITTEN)
    return found


async def test_a_status_that_is_there_as_we_wrote_it_is_written() -> None:
    found = the_server_has()
    assert await statuses.write(cast(Client, Lost(found)), JOBS, OBJ, WANTED, look=True) is found


@pytest.mark.parametrize(
    "found",
    [
        the_server_has(generation=4),
        the_server_has(uid="another"),
        the_server_has(deletionTimestamp="2026-01-01T00:00:00Z"),
        the_server_has() | {"status": WRITTEN | {"message": "somebody else's"}},
        {**the_server_has(), "status": None},
    ],
)
async def test_what_somebody_else_wrote_is_decided_on_again(found: Json) -> None:
    with pytest.raises(ConflictError):
        await statuses.write(cast(Client, Lost(found)), JOBS, OBJ, WANTED, look=True)


async def test_nobody_looks_who_may_not() -> None:
    with pytest.raises(ConflictError):
        await statuses.write(cast(Client, Lost(the_server_has())), JOBS, OBJ, WANTED)


async def test_an_event_that_is_there_is_counted_from_there(caplog: pytest.LogCaptureFixture) -> None:
    server = Lost({})
    events = Events(cast(Client, server), "op")
    events.normal(JOBS, OBJ, "Placed", "here")
    events.normal(JOBS, OBJ, "Placed", "here")
    task = asyncio.create_task(events.run())
    await events.drain()
    task.cancel()
    assert (len(server.created), server.counts) == (1, [2])
    assert not caplog.records
