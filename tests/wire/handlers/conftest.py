"""A laboratory on each engine: the real API server, and the embedded one on a bad day."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.builders.kube import ASSETS
from tests.wire.engines import BAD_DAY, embedded
from tests.wire.operatorlab import Lab, laboratory

ENGINES = [
    pytest.param("real", marks=pytest.mark.skipif(not ASSETS, reason="KUBEBUILDER_ASSETS is not set")),
    "embedded",
]


@pytest.fixture(params=ENGINES)
async def either_lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    """Four nodes of two devices in two super-nodes, a pool and a group."""
    if request.param == "real":
        async with laboratory(request.getfixturevalue("real_cluster"), tmp_path) as lab:
            await furnish(lab)
            yield lab
    else:
        # A fresh value: faults count and draw lots.
        async with embedded(tmp_path, dataclasses.replace(BAD_DAY)) as cluster, laboratory(cluster, tmp_path) as lab:
            await furnish(lab)
            yield lab


async def furnish(lab: Lab) -> None:
    await lab.add_nodes(4)
    await lab.add_pool()
    await lab.add_group()
