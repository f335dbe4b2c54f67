"""Jobs whose workers are really started by their frameworks' own launchers, with nothing but the operator's variables.

Heavy packages: `make test-frameworks` installs them apart and names their interpreter in SUPERNODE_FRAMEWORKS_PYTHON.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.builders.trouble import CORE, Trouble, trouble

PYTHON = os.environ.get("SUPERNODE_FRAMEWORKS_PYTHON", "")
PROGRAMS = Path(__file__).parent / "programs"
pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.skipif(not PYTHON, reason="heavy frameworks: run `make test-frameworks`"),
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]
WORKERS, DEVICES = 2, 2


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab() -> AsyncIterator[Trouble]:
    with tempfile.TemporaryDirectory(prefix="sn", dir="/tmp") as folder:
        async with trouble(Path(folder), "--image", f"framework={PYTHON}") as cluster:
            yield cluster


async def logs(lab: Trouble, name: str) -> list[str]:
    said = []
    for rank in range(WORKERS):
        async with lab.client._session.get(f"{CORE}/pods/{name}-worker-{rank}/log?container=trainer") as answer:
            said.append(await answer.text())
    return said


def sums(processes: int, lines: int | None = None) -> list[str]:
    """What the programs print, each process (or only `lines` of them) having added up the numbers of all."""
    return [f"sum {processes * (processes + 1) // 2} of {processes}"] * (lines or processes)


@pytest.mark.parametrize(
    ("framework", "arguments", "lines"),
    [
        ("PyTorch", ["-m", "torch.distributed.run", "torch_gloo.py"], sums(WORKERS * DEVICES)),
        ("JAX", ["jax_sum.py"], sums(WORKERS)),
        # Its servers listen on all addresses, so two cannot run on one machine: only its reader is tried.
        ("TensorFlow", ["tf_config.py"], [f"worker {rank} of {WORKERS}, 2 addresses" for rank in range(WORKERS)]),
        ("MPI", ["mpi_launch.py"], sums(WORKERS * DEVICES)),
        # Its launcher shows the output of each pod's first process only.
        ("PaddlePaddle", ["-m", "paddle.distributed.launch", "paddle_sum.py"], sums(WORKERS * DEVICES, WORKERS)),
        ("MindSpore", ["mindspore_sum.py"], sums(WORKERS * DEVICES)),
    ],
)
async def test_the_framework_finds_all_its_processes(
    lab: Trouble, framework: str, arguments: list[str], lines: list[str]
) -> None:
    name = framework.lower()
    args = [str(PROGRAMS / word) if word.endswith(".py") else word for word in arguments]
    container = {"image": "framework", "command": [], "args": args}
    await lab.job(name, framework=framework, workers=WORKERS, devices=DEVICES, container=container)
    try:
        await it_found_all(lab, name, lines)
    finally:
        await lab.settled(name)


async def it_found_all(lab: Trouble, name: str, lines: list[str]) -> None:
    status = await lab.until_state(name, "Succeeded", "Failed", seconds=240)
    said = await logs(lab, name)
    assert status["state"] == "Succeeded", "\n".join([status["message"], *said])
    assert status["restarts"] == 0
    found = [line for text in said for line in text.splitlines() if line.startswith(("sum ", "worker "))]
    assert sorted(found) == sorted(lines), "\n".join(said)
