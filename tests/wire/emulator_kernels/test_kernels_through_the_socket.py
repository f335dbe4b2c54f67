"""Kernels through a sidecar: the recipes of docs/kernels.md run, and 8-bit data survives every way it travels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

import supernode.emulator.array_api as xp
from supernode.chips import find_chip
from supernode.emulator.array_api import session
from supernode.emulator.client import Emulator, connect
from supernode.emulator.dtypes import DTYPES
from supernode.emulator.fabric import FabricConfig
from supernode.emulator.server import Server, ServerConfig
from supernode.errors import ChipError

PAGE = (Path(__file__).parents[3] / "docs/kernels.md").read_text(encoding="utf-8")
CHIP = find_chip("hygon-bw1000")
RNG = np.random.default_rng(3)


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with TemporaryDirectory(prefix="sn-") as directory:
        fabric = FabricConfig(rank=0, workers=1, devices_per_worker=2, chip=CHIP, timeout=5.0)
        server = Server(ServerConfig(CHIP, 2, Path(directory) / "s.sock", fabric, memory_bytes=64 << 20))
        server.start()
        try:
            with connect(server.config.socket, environment={}) as connected:
                yield connected
        finally:
            server.stop()


def snippet(first: str) -> str:
    """The Python block of the page that begins so."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    return next(block for block in blocks if block.startswith(first))


def test_classes_spread_over_two_devices_as_the_page_has_it(emulator: Emulator) -> None:
    """Both devices of the pod in one program: each line of the recipe is run for each, collectives once."""
    lines = snippet('top = device.launch("cross_entropy_top"').splitlines()
    logits, targets = RNG.standard_normal((6, 10)).astype(np.float32), RNG.integers(0, 10, 6)
    group = emulator.group()
    places: list[dict[str, Any]] = [
        {
            "device": device,
            "start": 5 * i,
            "logits": device.array(logits[:, 5 * i : 5 * i + 5].copy()),
            "targets": device.array(targets),
        }
        for i, device in enumerate(emulator.devices)
    ]
    for line in lines:
        reduced = re.fullmatch(r'group\.all_reduce\(\[(\w+)\], op="(\w+)"\)', line)
        if reduced:
            group.all_reduce([place[reduced[1]] for place in places], op=reduced[2])
        else:
            for place in places:
                exec(line, {}, place)
    alone = emulator.devices[0]
    loss, logsumexp = alone.launch("softmax_cross_entropy", alone.array(logits), alone.array(targets))
    slope = alone.launch("softmax_cross_entropy_backward", alone.array(logits), alone.array(targets), logsumexp)
    for place in places:
        assert abs(place["loss"].item() - loss.item()) < 1e-6
    found = np.hstack([place["dlogits"].numpy() for place in places])
    np.testing.assert_allclose(found, slope.numpy(), atol=1e-7)


def test_mixture_of_experts_as_the_page_has_it(emulator: Emulator) -> None:
    device = emulator.devices[0]
    x, logits = RNG.standard_normal((5, 3)).astype(np.float32), RNG.standard_normal((5, 8)).astype(np.float32)
    matrices = RNG.standard_normal((8, 3, 4)).astype(np.float32)
    given = {name: device.array(value) for name, value in (("x", x), ("logits", logits), ("matrices", matrices))}
    exec(snippet("weights, experts, shares"), {"device": device}, given)
    expected = np.zeros((5, 4))
    for t in range(5):
        best = np.argsort(-logits[t])[:2]
        share = np.exp(logits[t, best]) / np.exp(logits[t, best]).sum()
        expected[t] = sum(s * x[t] @ matrices[e] for s, e in zip(share, best, strict=True))
    np.testing.assert_allclose(given["out"].numpy(), expected, atol=1e-5)
    assert given["balance"].item() >= 0


def test_the_rounding_examples_of_the_page(emulator: Emulator) -> None:
    device = emulator.devices[0]
    a = b = device.array(np.eye(3), dtype="f32")
    p = device.array(np.ones((3, 4), np.int8))
    given = {"device": device, "a": a, "b": b, "w": device.array(RNG.standard_normal((4, 5)), dtype="f32"), "p": p}
    given["s"] = device.array(np.float32(0.5))
    text = next(block for block in re.findall(r"```\n(>>>.*?)```", PAGE, re.DOTALL) if "saturate" not in block)
    for line in text.replace(">>> ", "").splitlines():
        line = line.strip()
        call, _, comment = line.partition("  #")
        if "tf32" in call:
            exec(call, {}, given)
            with pytest.raises(ChipError, match="tf32 peak of chip hygon-bw1000 is not known"):
                device.synchronize()
        elif comment.strip()[:1].isdigit():
            found = eval(call, {}, given).astype(float).tolist()
            assert found == [float(number) for number in comment.split(",")]
        else:
            exec(call, {}, given)
    assert device.synchronize() > 0


@pytest.mark.parametrize("dtype", ["f8e4m3", "f8e5m2"])
@pytest.mark.parametrize("size", [5, 1 << 17])
def test_eight_bit_floats_travel_and_saturate_on_the_host_too(emulator: Emulator, dtype: str, size: int) -> None:
    x = (RNG.standard_normal(size) * 1e3).astype(np.float32)
    x[:3] = [np.inf, -1e30, np.nan]
    device = emulator.devices[0]
    sent = device.array(x, dtype=dtype)
    cast = device.launch("cast", device.array(x), dtype=dtype)
    there = sent.to(emulator.devices[1]).numpy()
    assert there.dtype == DTYPES[dtype]
    assert there.tobytes() == cast.numpy().tobytes() == sent.numpy().tobytes()
    top = {"f8e4m3": 448.0, "f8e5m2": 57344.0}[dtype]
    assert there[:2].astype(float).tolist() == [top, -top]
    assert np.isnan(there[2].astype(float))
    assert sent.nbytes == size


def test_arrays_of_eight_bits_in_the_array_namespace(emulator: Emulator) -> None:
    session.use(emulator)  # closed after the test: the next one makes its own
    x = xp.asarray([0.3, 1e6, -2.0, 0.0])
    small = xp.astype(x, xp.float8_e4m3fn)
    assert small.dtype is xp.float8_e4m3fn
    assert xp.astype(small, xp.float32).numpy().tolist() == [0.3125, 448.0, -2.0, 0.0]
    made = xp.asarray([0.3, 1e6, -2.0, 0.0], dtype=xp.float8_e4m3fn)
    assert made.numpy().tobytes() == small.numpy().tobytes()
    assert xp.concat([made, small])[::2].shape == (4,)
    assert xp.full((2,), 1e9, dtype=xp.float8_e5m2).numpy().astype(float).tolist() == [57344.0] * 2
    with pytest.raises(TypeError):
        xp.exp(small)
    with pytest.raises(TypeError):
        _ = small + x
