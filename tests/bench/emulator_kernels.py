"""Operators of the emulated device through the socket, data resident, beside straightforward NumPy in this process.

Each pair is measured in turns; a value is NumPy's least time over the device's, so higher is better. Straightforward is
what somebody writes who has NumPy and the formula: whole arrays, no blocks, f32, bf16 by ml_dtypes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from tests.bench.case import Case
from tests.bench.emulator_sidecar import by_turns, sidecar

from supernode.emulator.client import Array, Device

F32 = np.float32
BF16 = ml_dtypes.bfloat16
Host = np.ndarray[Any, Any]
HIDDEN = ~np.tri(1024, dtype=bool)


def attention(q: Host, k: Host, v: Host) -> Host:
    """Causal, 8 heads."""
    scores = q @ k.swapaxes(-1, -2) * F32(1 / np.sqrt(q.shape[-1]))
    scores = np.where(HIDDEN, F32(-np.inf), scores)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def layer_norm(x: Host, gain: Host, bias: Host) -> Host:
    """Over the last axis."""
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + F32(1e-5)) * gain + bias


def adamw(state: dict[str, Host], step: int) -> None:
    """One step with f32 master weights and moments; the parameter is bf16."""
    grad = state["grad"].astype(F32)
    state["m"] = F32(0.9) * state["m"] + F32(0.1) * grad
    state["v"] = F32(0.999) * state["v"] + F32(0.001) * grad**2
    m, v = state["m"] / F32(1 - 0.9**step), state["v"] / F32(1 - 0.999**step)
    state["master"] = state["master"] - F32(1e-3) * (m / (np.sqrt(v) + F32(1e-8)) + F32(0.1) * state["master"])
    state["param"] = state["master"].astype(BF16)


def cross_entropy(logits: Host, targets: Host) -> Any:
    """Mean over rows."""
    shifted = logits - logits.max(1, keepdims=True)
    logs = np.log(np.exp(shifted).sum(1))
    return (logs - shifted[np.arange(len(targets)), targets]).mean()


def convolution(x: Host, weight: Host) -> Host:
    """3 x 3 with padding 1, by windows and one product."""
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True)


def launches(device: Device, kernel: str, arrays: list[Array], attributes: Mapping[str, Any]) -> Callable[[], object]:
    """A launch that is waited for; its results are freed."""

    def run() -> None:
        device.launch(kernel, *arrays, **attributes)
        device.synchronize()

    return run


def pairs(device: Device) -> Iterator[tuple[str, float | None, Callable[[], object], Callable[[], object]]]:
    """Name, goal, straightforward NumPy, and the device, of each case."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Host:
        return rng.standard_normal(shape, dtype=F32)

    def on_device(kernel: str, *arrays: Host, **attributes: Any) -> Callable[[], object]:
        return launches(device, kernel, [device.array(x, x.dtype) for x in arrays], attributes)

    q, k, v = normal(8, 1024, 64), normal(8, 1024, 64), normal(8, 1024, 64)
    yield "attention 8 x 1024 x 64 causal", 1.5, lambda: attention(q, k, v), on_device("attention", q, k, v)
    x, gain, bias = normal(4096, 1024), normal(1024), normal(1024)
    yield "layer norm 4096 x 1024", 1.5, lambda: layer_norm(x, gain, bias), on_device("layer_norm", x, gain, bias)
    flat = normal(1 << 24)
    state = {name: flat.astype(BF16) for name in ("param", "grad")} | {
        name: np.abs(flat) for name in ("master", "m", "v")
    }
    names = ("param", "grad", "master", "m", "v")
    update = on_device("adamw", *(state[n] for n in names), learning_rate=1e-3, step=3, weight_decay=0.1)
    yield "bf16 AdamW 16 Mi", 1.5, lambda: adamw(state, 3), update
    logits, targets = normal(2048, 8192), rng.integers(0, 8192, 2048)
    loss = on_device("softmax_cross_entropy", logits, targets)
    yield "cross-entropy 2048 x 8192", None, lambda: cross_entropy(logits, targets), loss
    image, weight = normal(8, 32, 64, 64), normal(64, 32, 3, 3)
    convolved = on_device("convolution", image, weight, padding=1)
    yield "convolution 8 x 32 x 64 x 64, 64 of 3 x 3", None, lambda: convolution(image, weight), convolved


def cases() -> Iterator[Case]:
    """How many times as fast as straightforward NumPy each operator is."""
    with sidecar() as emulator:
        for name, goal, plain, device in pairs(emulator.devices[0]):
            alone, through = by_turns(plain, device)
            yield Case(f"{name}, times NumPy", round(alone / through, 2), "times", goal, "higher")
