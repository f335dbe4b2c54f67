"""The emulator's runtime through the socket of a real sidecar, beside NumPy in this process.

Ratios are speed: how many times as fast as the reference. Data is made on both sides beforehand; a run ends when the
device is done (`synchronize`), not when it has been asked.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from tests.bench.case import Case
from tests.bench.emulator_sidecar import by_turns, sidecar

from supernode.emulator.client import Emulator

LAUNCHES = 10_000
MIB = 1 << 20


def cases() -> Iterable[Case]:
    """All of them, on one sidecar with one device."""
    with sidecar() as emulator:
        yield from launches(emulator)
        yield from chain(emulator)
        yield from gemm(emulator)
        yield from copies(emulator)
        yield from gpt(emulator)


def launches(emulator: Emulator) -> Iterable[Case]:
    """An add of 1 KiB, many times: pipelined, and waiting for each."""
    device = emulator.devices[0]
    a, b = device.full(256, 1.0), device.full(256, 2.0)

    def pipelined() -> None:
        for _ in range(LAUNCHES):
            device.launch("add", a, b)
        device.synchronize()

    def one_at_a_time() -> None:
        for _ in range(LAUNCHES // 10):
            device.launch("add", a, b)
            device.synchronize()

    together, alone = by_turns(pipelined, one_at_a_time, rounds=30)
    each = together / LAUNCHES
    yield Case("launch of a 1 KiB add, pipelined", round(each * 1e6, 2), "microseconds", 8.0, "lower")
    yield Case(
        "launch of a 1 KiB add, pipelined, beside one at a time",
        round(alone / (LAUNCHES // 10) / each, 2),
        "times",
        10.0,
        "higher",
    )


def chain(emulator: Emulator) -> Iterable[Case]:
    """Eight elementwise operations on 16 Mi f32, each result used by the next alone."""
    device = emulator.devices[0]
    x = np.random.default_rng(1).standard_normal(16 << 20, dtype=np.float32)
    y = np.random.default_rng(2).standard_normal(16 << 20, dtype=np.float32)
    far_x, far_y = device.array(x), device.array(y)
    one = np.float32(1)

    def here() -> np.ndarray:
        z = x * y
        z = z + x
        z = np.maximum(z, y)
        z = z - y
        z = z * z
        z = z + one
        z = np.sqrt(z)
        return z / one

    def there() -> object:
        launch = device.launch
        z = launch("multiply", far_x, far_y)
        z = launch("add", z, far_x)
        z = launch("maximum", z, far_y)
        z = launch("subtract", z, far_y)
        z = launch("multiply", z, z)
        z = launch("add", z, 1.0)
        z = launch("sqrt", z)
        z = launch("divide", z, 1.0)
        device.synchronize()
        return z

    if not np.array_equal(here(), there().numpy()):
        raise RuntimeError("the chain does not give NumPy's bits")
    mine, reference = by_turns(there, here)
    yield Case("elementwise chain of 8 on 16 Mi f32, of NumPy", round(reference / mine, 3), "times", 2.0, "higher")


def gemm(emulator: Emulator) -> Iterable[Case]:
    """2048^3 in f32, data resident."""
    device = emulator.devices[0]
    a = np.random.default_rng(3).standard_normal((2048, 2048), dtype=np.float32)
    far = device.array(a)

    def there() -> None:
        device.launch("matmul", far, far)
        device.synchronize()

    mine, reference = by_turns(there, lambda: a @ a, rounds=60)
    yield Case("GEMM 2048^3 f32, of NumPy", round(reference / mine, 3), "times", 0.97, "higher")


def copies(emulator: Emulator) -> Iterable[Case]:
    """256 MiB to the device and back: two new arrays, as two calls of memcpy into new memory make them."""
    device = emulator.devices[0]
    data = np.random.default_rng(4).integers(0, 255, 256 * MIB, dtype=np.uint8)
    place, back = np.zeros_like(data), np.zeros_like(data)

    def there() -> np.ndarray:
        return device.array(data).numpy()

    def used() -> None:
        np.copyto(place, data)
        np.copyto(back, place)

    if not np.array_equal(there(), data):
        raise RuntimeError("a copy there and back changes the data")
    mine, reference, warm = by_turns(there, lambda: data.copy().copy(), used, rounds=5)
    yield Case("256 MiB to the device and back, of memcpy", round(reference / mine, 3), "times", 0.9, "higher")
    yield Case(
        "256 MiB to the device and back, of memcpy between buffers in use",
        round(warm / mine, 3),
        "times",
        None,
        "higher",
    )


def gpt(emulator: Emulator) -> Iterable[Case]:
    """Training steps of the demo's GPT, beside the same model in NumPy f32."""
    from supernode.demo.gpt import GPTConfig

    yield from gpt_of(emulator, "default sizes", GPTConfig(), 8)
    yield from gpt_of(emulator, "default sizes in f32", GPTConfig(dtype="f32"), 8)
    yield from gpt_of(emulator, "hidden 256", GPTConfig(layers=2, hidden=256, heads=8, sequence=128), 2)


def gpt_of(emulator: Emulator, label: str, config: Any, steps: int, batch: int = 8) -> Iterable[Case]:
    """One size of it."""
    from supernode.demo.adamw import AdamWConfig
    from supernode.demo.parallel import Ranks
    from supernode.demo.parameters import Parameters, start_values

    reference = _reference()
    rng = np.random.default_rng(5)
    # Other bytes at every step: a model that knows its one batch by heart computes with denormal numbers.
    data = rng.integers(0, 256, (64, 2, batch, config.sequence)).astype(np.uint8)
    here_next, there_next = itertools.cycle(data), itertools.cycle(data)
    optimizer = AdamWConfig()
    ranks = Ranks(emulator, config, optimizer, seed=1)
    device, table = emulator.devices[0], config.table()
    weights = reference.unflatten(start_values(device, table, 1).numpy(), Parameters(device, table).shapes())
    state = reference.AdamW(
        weights, beta1=optimizer.beta1, beta2=optimizer.beta2, epsilon=optimizer.epsilon, decay=optimizer.weight_decay
    )
    turns = itertools.count(1)

    def there() -> None:
        for _ in range(steps):
            ranks.step([[tuple(next(there_next))]], step=next(turns), learning_rate=1e-3).item()

    def here() -> None:
        for _ in range(steps):
            _, gradients = reference.loss_and_gradients(
                weights, *next(here_next), layers=config.layers, heads=config.heads
            )
            state.step(weights, gradients, 1e-3)

    mine, plain = by_turns(there, here, rounds=5)
    count = batch * config.sequence * steps
    yield Case(f"GPT, {label}, tokens/s, of NumPy f32", round(plain / mine, 3), "times", 0.8, "higher")
    yield Case(f"GPT, {label}", math.floor(count / mine), "tokens/s", None, "higher")


def _reference() -> ModuleType:
    path = Path(__file__).parents[1] / "unit" / "demo" / "reference.py"
    spec = importlib.util.spec_from_file_location("gpt_reference", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
