"""A laboratory on each engine: the real API server, and the embedded one on a bad day."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.builders.kube import ASSETS
from tests.wire.engines import BAD_DAY, embedded
from tests.wire.operatorlab import Lab, laboratory

from supernode.cluster.kinds import NODES

ENGINES = [
    pytest.param("real", marks=pytest.mark.skipif(not ASSETS, reason="KUBEBUILDER_ASSETS is not set")),
    "embedded",
]


@pytest.fixture(params=ENGINES)
async def bare_lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    """No nodes, no pools."""
    if request.param == "real":
        async with laboratory(request.getfixturevalue("real_cluster"), tmp_path) as lab:
            yield lab
    else:
        # A fresh value: faults count and draw lots.
        async with embedded(tmp_path, dataclasses.replace(BAD_DAY)) as cluster, laboratory(cluster, tmp_path) as lab:
            yield lab


@pytest.fixture
async def either_lab(bare_lab: Lab) -> Lab:
    """Four nodes of two devices in two super-nodes, a pool and a group."""
    await bare_lab.furnish()
    return bare_lab


@pytest.fixture
async def hardware_lab(bare_lab: Lab) -> Lab:
    """The same with devices that a plug-in offers."""
    for name in await bare_lab.add_nodes(4):
        offered = {"hygon.com/hcu": "2"}
        patch = {"status": {"capacity": offered, "allocatable": offered}}
        await bare_lab.client.patch(NODES, name, patch, subresource="status")
    await bare_lab.add_pool(mode="Hardware", devicesPerNode=None)
    await bare_lab.add_group()
    return bare_lab
