"""A local cluster per engine for the whole session, as `supernode local up` starts it; each test has a namespace."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.wire.local_agent.cluster import Namespace, local, until_account

from supernode.local.client import Connection, KubeClient

Object = dict[str, Any]
ASSETS = os.environ.get("KUBEBUILDER_ASSETS", "")
KUBECTL = Path(ASSETS) / "kubectl"

NODES = """
apiVersion: supernode.dev/v1alpha1
kind: NodeSet
metadata: {name: node}
spec: {count: 2, template: {metadata: {labels: {half: "h{index}"}}, status: {capacity: {cpu: "8", memory: 16Gi}}}}
"""


@pytest.fixture(scope="session", params=["embedded", pytest.param("envtest", marks=pytest.mark.envtest)])
def kubeconfig(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Path of a running cluster's kubeconfig."""
    with tempfile.TemporaryDirectory(prefix="sn", dir="/tmp") as folder:
        directory = Path(folder)
        file = directory / "nodes.yaml"
        file.write_text(NODES)
        flags = (
            "--engine",
            request.param,
            "--cluster",
            str(file),
            "--no-operator",
            "--restart-delay",
            "0.3",
            "--detach",
        )
        up = local(directory / "d", "up", *flags)
        try:
            assert up.returncode == 0, up.stdout + up.stderr
            yield directory / "d" / "local" / "kubeconfig"
        finally:
            down = local(directory / "d", "down")
        assert down.returncode == 0, down.stdout + down.stderr
        assert not (directory / "d").exists()


@pytest.fixture
async def namespace(kubeconfig: Path, request: pytest.FixtureRequest) -> AsyncIterator[Namespace]:
    """A fresh namespace."""
    name = f"t{abs(hash(request.node.nodeid)) % 10**12}"
    async with KubeClient(Connection.from_kubeconfig(kubeconfig)) as client:
        await client.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        await until_account(client, name)
        yield Namespace(client, name)
        pods = (await client.get(f"/api/v1/namespaces/{name}/pods")).get("items") or []
        for pod in pods:
            path = f"/api/v1/namespaces/{name}/pods/{pod['metadata']['name']}"
            await client.delete(path, {"gracePeriodSeconds": 0})
        await client.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def kubectl(kubeconfig: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The real kubectl."""
    if not KUBECTL.is_file():
        pytest.skip("needs kubectl: KUBEBUILDER_ASSETS is not set, or lacks it")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(KUBECTL), "--kubeconfig", str(kubeconfig), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    return run
