"""What workers and nodes say of themselves is bounded and plain wherever people read it, on the real API server."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest
from tests.wire.operatorlab import Lab

from supernode.cluster.kinds import EVENTS, PODS, Json

pytestmark = [pytest.mark.envtest, pytest.mark.timeout(180)]

# Repaints the terminal, sets its title, ends the line and forges another, turns the direction of text, and goes on.
NASTY = "\x1b[2J\x1b]0;owned\x07\x00\x9b31m\r\nforged: all is well\u2028\u202egnp.exe\u2066\ufeff" + "A" * 2**20
LAST = "ValueError: \x1b[31mred\x1b[0m \u202e" + "B" * 5000


def texts(value: Any) -> Iterator[str]:
    """Every string in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


def acting(text: str, keep: str = "") -> list[str]:
    return [c for c in text if c not in keep and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


async def command(lab: Lab, *arguments: str) -> str:
    line = [sys.executable, "-m", "supernode", *arguments, "--kubeconfig", str(lab.cluster.admin)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = await asyncio.to_thread(subprocess.run, line, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


async def ends(lab: Lab, pod: str, status: Json) -> None:
    await lab.client.patch(PODS, pod, {"status": status}, lab.namespace, subresource="status")


async def test_words_of_workers_and_nodes(lab: Lab) -> None:
    process = lab.operator("--log-level", "debug")
    report = {"step": 3, "loss": 1.5, "digest": "\x1b[2J" + "d" * 50, "updatedAt": NASTY[:500], "unknown": NASTY[:500]}
    for name in ("crashed", "evicted", "stuck"):
        await lab.add_job(name, workers=1, runPolicy={"backoffLimit": 0})
    lab.kubelet.held.add("stuck-worker-0")
    for name in ("crashed", "evicted"):
        await lab.until_state(name, "Running")
    said = {"reason": "Error", "exitCode": 3, "message": f"{NASTY}\nTraceback\n{LAST}\n\n"}
    sidecar = {"name": "supernode-emulator", "ready": False, "restartCount": 0, "image": "x", "imageID": "x"}
    sidecar["state"] = {"terminated": {"exitCode": 0, "message": json.dumps(report)}}
    trainer = {**sidecar, "name": "trainer", "state": {"terminated": said}}
    await ends(
        lab,
        "crashed-worker-0",
        {"phase": "Failed", "containerStatuses": [trainer], "initContainerStatuses": [sidecar]},
    )
    await ends(lab, "evicted-worker-0", {"phase": "Failed", "reason": NASTY[:2000], "message": NASTY})
    waits = {**sidecar, "name": "trainer", "state": {"waiting": {"reason": "ErrImagePull", "message": NASTY}}}
    await ends(lab, "stuck-worker-0", {"phase": "Pending", "containerStatuses": [waits]})
    for name in ("crashed", "evicted"):
        await lab.until_state(name, "Failed")
    stuck = await lab.until_status("stuck", "says why", lambda s: "ErrImagePull" in s.get("message", ""))
    assert "\\x1b[2J" in stuck["message"]
    crashed = (await lab.job("crashed"))["status"]
    assert crashed["message"].count("B") > 100, "the end of the last line is what it says"
    assert "AAAA" not in crashed["message"]
    assert crashed["progress"]["step"] == 3
    assert not {"digest", "updatedAt", "unknown"} & crashed["progress"].keys()

    async def told() -> list[Json]:
        items = (await lab.client.list_page(EVENTS, lab.namespace))["items"]
        return (
            items
            if {"crashed", "evicted"} <= {e["involvedObject"]["name"] for e in items if e["type"] == "Warning"}
            else []
        )

    events = await lab.until("events", told)
    statuses = [(await lab.job(name))["status"] for name in ("crashed", "evicted", "stuck")]
    for text in texts([statuses, [{k: e[k] for k in ("reason", "message")} for e in events]]):
        assert acting(text) == [], text
        assert len(text) <= 1024
    log = process.log.read_bytes().decode()
    assert acting(log, keep="\n") == []
    assert not [line for line in log.splitlines() if line.startswith("forged")]
    assert len(max(log.splitlines(), key=len)) < 9000
    for shown in (
        await command(lab, "why", f"{lab.namespace}/crashed"),
        await command(lab, "why", f"{lab.namespace}/stuck"),
        await command(lab, "status"),
    ):
        assert acting(shown, keep="\n") == []
        assert len(shown) < 50_000
