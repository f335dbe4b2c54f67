"""Optimizers: AdamW and SGD, in place on the parameter, its f32 master copy and the moments.

Flows in: parameter (any float), gradient (any float), master weights and moments in f32 (f64 of f64 parameters).
Flows out: nothing; the parameter becomes the rounded master. The parameter itself may be given as its own master.
Not here: clipping (`sum_of_squares` and `gradient_scale`), learning-rate schedules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from supernode.emulator.dtypes import FLOATS
from supernode.emulator.kernels.rules import moved, need
from supernode.emulator.kernels.table import REQUIRED, AnyArray, Attributes, Cost, CostRule, Kernel, Spec
from supernode.errors import KernelError

# Elements that are updated at once: parameter, gradient, master, moments and scratch stay in a core's cache.
_BLOCK: Final = 16384


def _check(specs: Sequence[Spec], state: Sequence[str]) -> None:
    param, grad = specs[0], specs[1]
    need(grad, "grad", dtype=FLOATS, shape=param.shape)
    for name, spec in zip(state, specs[2:], strict=True):
        need(spec, name, dtype="f64" if param.dtype == "f64" else "f32", shape=param.shape)


def _number(attributes: Attributes, name: str, low: float, high: float) -> None:
    value = attributes[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise KernelError(f"{name} must be from {low:g} to {high:g}, not {value!r}")


def _adamw_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    _check(specs, ("master", "m", "v"))
    _number(attributes, "step", 1, math.inf)
    _number(attributes, "beta1", 0, math.nextafter(1, 0))
    _number(attributes, "beta2", 0, math.nextafter(1, 0))
    _number(attributes, "epsilon", 0, math.inf)
    for name in ("learning_rate", "weight_decay", "gradient_scale"):
        _number(attributes, name, -math.inf, math.inf)
    return ()


def _updates(flops: float, writes: tuple[int, ...]) -> CostRule:
    def cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
        return Cost(flops * specs[0].size, moved(specs, ()) + sum(specs[i].nbytes for i in writes))

    return cost


def _blocks(arrays: Sequence[AnyArray]) -> list[list[AnyArray]]:
    flat = [array.reshape(-1) for array in arrays]
    return [[a[i : i + _BLOCK] for a in flat] for i in range(0, flat[0].size, _BLOCK)]


def _gradient(grad: AnyArray, kind: Any, scale: float) -> AnyArray:
    out: AnyArray = grad.astype(kind)
    if scale != 1.0:
        out *= kind(scale)
    return out


def _adamw(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    kind = inputs[2].dtype.type
    beta1, beta2, step = attributes["beta1"], attributes["beta2"], attributes["step"]
    rate = attributes["learning_rate"]
    keep = kind(1 - rate * attributes["weight_decay"])
    # m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon), with the corrections moved out of the loop
    bias1, bias2 = 1 - beta1**step, math.sqrt(1 - beta2**step)
    stride, epsilon = kind(rate * bias2 / bias1), kind(attributes["epsilon"] * bias2)
    for param, grad, master, m, v in _blocks(inputs):
        g = _gradient(grad, kind, attributes["gradient_scale"])
        scratch = g * kind(1 - beta1)
        m *= kind(beta1)
        m += scratch
        np.square(g, out=g)
        g *= kind(1 - beta2)
        v *= kind(beta2)
        v += g
        np.sqrt(v, out=g)
        g += epsilon
        np.divide(m, g, out=g)
        g *= stride
        if keep != 1:
            master *= keep
        master -= g
        if not np.may_share_memory(param, master):
            param[...] = master
    return ()


def _sgd_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    _check(specs, ("master", "momentum"))
    for name in ("learning_rate", "weight_decay", "gradient_scale", "momentum_factor"):
        _number(attributes, name, -math.inf, math.inf)
    return ()


def _sgd(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    kind = inputs[2].dtype.type
    for param, grad, master, momentum in _blocks(inputs):
        g = _gradient(grad, kind, attributes["gradient_scale"])
        if attributes["weight_decay"]:
            g += master * kind(attributes["weight_decay"])
        momentum *= kind(attributes["momentum_factor"])
        momentum += g
        master -= momentum * kind(attributes["learning_rate"])
        if not np.may_share_memory(param, master):
            param[...] = master
    return ()


KERNELS: Final = (
    Kernel(
        "adamw",
        ("param", "grad", "master", "m", "v"),
        FLOATS,
        _adamw_shape,
        _updates(18, (0, 2, 3, 4)),
        _adamw,
        "one step of Adam with decoupled weight decay, in place; param becomes master, rounded",
        {
            "learning_rate": REQUIRED,
            "step": REQUIRED,
            "beta1": 0.9,
            "beta2": 0.999,
            "epsilon": 1e-8,
            "weight_decay": 0.0,
            "gradient_scale": 1.0,
        },
        writes=(0, 2, 3, 4),
    ),
    Kernel(
        "sgd",
        ("param", "grad", "master", "momentum"),
        FLOATS,
        _sgd_shape,
        _updates(6, (0, 2, 3)),
        _sgd,
        "one step of gradient descent with momentum, in place; param becomes master, rounded",
        {"learning_rate": REQUIRED, "momentum_factor": 0.0, "weight_decay": 0.0, "gradient_scale": 1.0},
        writes=(0, 2, 3),
    ),
)
