"""Fixtures of the wire tests: one real control plane for the whole session, where there is one at hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.builders.kube import ASSETS
from tests.wire.controlplane import ControlPlane, control_plane
from tests.wire.operatorlab import Lab, laboratory

from supernode.cluster.client import Client


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not ASSETS:
        reason = pytest.mark.skip(reason="needs a real API server: KUBEBUILDER_ASSETS is not set")
        for item in items:
            if item.get_closest_marker("envtest"):
                item.add_marker(reason)


@pytest.fixture(scope="session")
def real_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with control_plane(tmp_path_factory.mktemp("controlplane")) as started:
        yield started


@pytest.fixture
async def admin(real_cluster: ControlPlane) -> AsyncIterator[Client]:
    client = await Client.connect(str(real_cluster.admin))
    yield client
    await client.close()


@pytest.fixture
async def lab(real_cluster: ControlPlane, tmp_path: Path) -> AsyncIterator[Lab]:
    """Four nodes of two devices in two super-nodes, a pool and a group, on the real API server."""
    async with laboratory(real_cluster, tmp_path) as lab:
        await lab.furnish()
        yield lab
