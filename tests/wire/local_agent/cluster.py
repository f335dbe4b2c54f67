"""What the node agent's tests share: the command line, a namespace to work in, waiting."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from supernode.errors import NotFoundError
from supernode.local.client import KubeClient

Object = dict[str, Any]


def local(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `supernode local ...`."""
    return subprocess.run(
        [sys.executable, "-m", "supernode", "local", *arguments],
        env={**os.environ, "SUPERNODE_LOCAL_DIR": str(directory)},
        capture_output=True,
        text=True,
        timeout=120,
    )


async def until(check: Callable[[], Awaitable[Any]], seconds: float = 30) -> None:
    """Wait for something to become true; TimeoutError when it doesn't."""
    async with asyncio.timeout(seconds):
        while not await check():  # noqa: ASYNC110 - what happens in other processes sets no event
            await asyncio.sleep(0.05)


async def until_account(client: KubeClient, name: str) -> None:
    """A real server refuses pods until the namespace's service account is there."""

    async def there() -> bool:
        try:
            await client.get(f"/api/v1/namespaces/{name}/serviceaccounts/default")
        except NotFoundError:
            return False
        return True

    await until(there)


class Namespace:
    """One test's namespace, and what tests do in it."""

    def __init__(self, client: KubeClient, name: str) -> None:
        self.client = client
        self.name = name
        self.path = f"/api/v1/namespaces/{name}"

    async def create(self, plural: str, obj: Object) -> Object:
        return await self.client.create(f"{self.path}/{plural}", obj)

    async def run(self, name: str, *containers: Object, **spec: Any) -> Object:
        """Create a pod on node-0."""
        body = {"nodeName": "node-0", "terminationGracePeriodSeconds": 5, "containers": list(containers), **spec}
        meta = spec.pop("metadata", {})
        body.pop("metadata", None)
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **meta}, "spec": body}
        return await self.create("pods", pod)

    async def pod(self, name: str) -> Object:
        return await self.client.get(f"{self.path}/pods/{name}")

    async def until(self, name: str, wanted: Callable[[Object], Any], seconds: float = 30) -> Object:
        """Wait for a pod to be as wanted."""
        pod: Object = {}

        async def check() -> bool:
            nonlocal pod
            pod = await self.pod(name)
            return bool(wanted(pod))

        try:
            await until(check, seconds)
        except TimeoutError:
            pytest.fail(f"pod {name} did not get there: {pod.get('status')}")
        return pod

    async def until_phase(self, name: str, *phases: str) -> Object:
        return await self.until(name, lambda pod: pod["status"].get("phase") in phases)

    async def until_gone(self, name: str) -> None:
        async def gone() -> bool:
            try:
                await self.pod(name)
            except NotFoundError:
                return True
            return False

        await until(gone)

    async def delete(self, name: str, **options: Any) -> None:
        await self.client.delete(f"{self.path}/pods/{name}", options or None)

    async def events(self, name: str) -> dict[str, str]:
        """Reasons of a pod's events with a message of each."""
        found = (await self.client.get(f"{self.path}/events")).get("items") or []
        return {entry["reason"]: entry["message"] for entry in found if entry["involvedObject"]["name"] == name}

    async def log(self, name: str, container: str, **query: str) -> str:
        """A log, as the API server passes it on."""
        path = f"{self.path}/pods/{name}/log"
        async with self.client._session.get(path, params={"container": container, **query}) as answer:
            return await answer.text()

    async def until_log(self, name: str, container: str, word: str) -> str:
        """Wait for a word in a log."""
        text = ""

        async def check() -> bool:
            nonlocal text
            text = await self.log(name, container)
            return word in text and "waiting to start" not in text

        await until(check)
        return text
