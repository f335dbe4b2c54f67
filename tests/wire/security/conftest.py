"""A laboratory on the real API server, with a second namespace that belongs to somebody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.wire.operatorlab import NAMESPACES, Lab

from supernode.cluster.kinds import EVENTS, JOBS, PODS, Json
from supernode.errors import NotFoundError


@dataclass
class Two:
    """A laboratory whose own namespace is one tenant's, and another tenant's namespace beside it."""

    lab: Lab
    other: str

    async def add_job(self, name: str, workers: int = 2, **spec: Any) -> Json:
        """A job of the other tenant, on the same pool."""
        mine, self.lab.namespace = self.lab.namespace, self.other
        try:
            return await self.lab.add_job(name, workers, **spec)
        finally:
            self.lab.namespace = mine

    async def until_state(self, name: str, *states: str) -> Json:
        async def ask() -> Json | None:
            obj = await self.lab.client.get(JOBS, name, self.other)
            return obj if obj.get("status", {}).get("state") in states else None

        found: Json = await self.lab.until(f"{self.other}/{name} is {'/'.join(states)}", ask)
        return found

    async def events(self, namespace: str) -> list[Json]:
        """Events of a namespace."""
        items: list[Json] = (await self.lab.client.list_page(EVENTS, namespace))["items"]
        return items


@pytest.fixture
async def two(lab: Lab) -> AsyncIterator[Two]:
    """The same with a second namespace."""
    other = f"tenant-b-{lab.suffix}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}}
    await lab.client.create(NAMESPACES, body)
    yield Two(lab, other)
    for process in lab.processes:
        if process.popen.poll() is None:
            process.kill()
    for obj in (await lab.client.list_page(JOBS, other))["items"]:
        name = obj["metadata"]["name"]
        try:
            await lab.client.delete(JOBS, name, other)
            await lab.client.patch(JOBS, name, {"metadata": {"finalizers": None}}, other)
        except NotFoundError:
            continue
    for pod in (await lab.client.list_page(PODS, other))["items"]:
        await lab.client.delete(PODS, pod["metadata"]["name"], other, grace=0)
