"""A trace of real devices: kernels, copies and collectives with the times of the virtual clock."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from supernode.cli import main
from supernode.emulator.client import connect
from supernode.emulator.server import Server
from supernode.emulator.trace_files import check


def events(trace: dict[str, Any], rank: int) -> list[dict[str, Any]]:
    return [event for event in trace["traceEvents"] if event["ph"] == "X" and event["pid"] == rank]


def test_a_sidecar_tells_what_its_devices_did(sidecar: Callable[..., Server], tmp_path: Path) -> None:
    server = sidecar(2)
    with connect(server.config.socket, environment={}) as emulator:
        group = emulator.group()
        arrays = [device.array(np.ones((64, 64), np.float32)) for device in emulator.devices]
        arrays = [device.launch("matmul", array, array) for device, array in zip(emulator.devices, arrays, strict=True)]
        handle = group.start("all_reduce", arrays)
        squares = [device.launch("square", device.full(8, 2.0)) for device in emulator.devices]
        end = handle.synchronize()
        squares[0].numpy()
        now = emulator.synchronize()
    assert server.http is not None
    out = tmp_path / "trace.json"
    assert main(["emulator", "trace", f"127.0.0.1:{server.http.port}", "--output", str(out)]) == 0
    trace = json.loads(out.read_text())
    check(trace, "trace")
    for rank in (0, 1):
        found = {event["name"]: event for event in events(trace, rank)}
        assert {"copy from host", "matmul", "all_reduce", "full", "square"} <= set(found)
        assert found["copy from host"]["args"] == {"bytes": 64 * 64 * 4}
        assert found["matmul"]["args"] == {"inputs": "f32[64,64], f32[64,64]", "flops": 2 * 64**3}
        reduce = found["all_reduce"]
        assert reduce["args"]["count"] == 64 * 64
        assert reduce["args"]["moving"][1] == pytest.approx(end * 1e6)
        assert reduce["ts"] + reduce["dur"] == pytest.approx(end * 1e6)
        assert reduce["tid"] != found["matmul"]["tid"]
        assert reduce["ts"] >= found["matmul"]["ts"] + found["matmul"]["dur"] - 1e-6
        assert max(event["ts"] + event["dur"] for event in events(trace, rank)) <= now * 1e6 + 1e-6
    assert "copy to host" in {event["name"] for event in events(trace, 0)}
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http.port}/trace") as answer:
        assert answer.headers["Content-Type"] == "application/json"


def test_a_command_beside_an_emulator_leaves_its_trace(tmp_path: Path) -> None:
    out = tmp_path / "two.json"
    program = (
        "from supernode.emulator.client import connect\n"
        "with connect() as e:\n"
        "    e.group().all_reduce([d.full(4, 1.0) for d in e.devices]); e.synchronize()\n"
    )
    command = [sys.executable, "-m", "supernode", "emulator", "exec", "--chip", "hygon-bw1000", "--devices", "2"]
    subprocess.run([*command, "--trace", str(out), "--", sys.executable, "-c", program], check=True, timeout=60)
    trace = json.loads(out.read_text())
    check(trace, "trace")
    assert [[event["name"] for event in events(trace, rank)] for rank in (0, 1)] == [["full", "all_reduce"]] * 2


def test_an_address_that_does_not_answer_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["emulator", "trace", "127.0.0.1:1"]) == 1
    assert "127.0.0.1:1 gives no trace" in capsys.readouterr().err
