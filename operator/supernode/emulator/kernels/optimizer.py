"""Optimizers: AdamW and SGD, in place on the parameter, its f32 master copy and the moments.

Flows in: parameter (any float), gradient (any float), master weights and moments in f32 (f64 of f64 parameters), and,
where a loss is scaled, a flag whether this step is to be skipped. Flows out: nothing; the parameter becomes the rounded
master. The parameter itself may be given as its own master. Not here: clipping and loss scaling (`scaling`),
learning-rate schedules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from supernode.emulator.dtypes import FLOATS
from supernode.emulator.kernels.parallel import share
from supernode.emulator.kernels.philox import random_bits
from supernode.emulator.kernels.rules import choice, moved, need, number, whole
from supernode.emulator.kernels.table import (
    LARGEST,
    REQUIRED,
    AnyArray,
    Attributes,
    Bound,
    Cost,
    CostRule,
    Draw,
    Kernel,
    Spec,
    example,
)
from supernode.emulator.rounding import stochastic, widen_into
from supernode.errors import KernelTypeError, KernelValueError

# Elements that are updated at once: parameter, gradient, master, moments and scratch stay in a core's cache.
_BLOCK: Final = 32768
# Elements below which threads cost more than they bring.
_WORTH: Final = 1 << 18


def _check(specs: Sequence[Spec], state: Sequence[str], attributes: Attributes) -> None:
    param, grad = specs[0], specs[1]
    need(grad, "grad", dtype=FLOATS, shape=param.shape)
    for name, spec in zip(state, specs[2:], strict=False):
        need(spec, name, dtype="f64" if param.dtype == "f64" else "f32", shape=param.shape)
    if len(specs) > 2 + len(state):
        need(specs[-1], "skip", dtype="f32", shape=())
    for name in ("learning_rate", "weight_decay", "gradient_scale"):
        number(attributes, name)
    if choice(attributes, "rounding", "nearest", "stochastic") == "stochastic":
        if param.dtype not in ("f16", "bf16"):
            raise KernelTypeError(f"stochastic rounding is for f16 and bf16 parameters, not {param.dtype}")
        whole(attributes, "seed", 0, (1 << 64) - 1)


def _adamw_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    _check(specs, ("master", "m", "v"), attributes)
    number(attributes, "step", 1)
    number(attributes, "beta1", 0, math.nextafter(1, 0))
    number(attributes, "beta2", 0, math.nextafter(1, 0))
    number(attributes, "epsilon", 0)
    return ()


def _updates(flops: float, writes: tuple[int, ...]) -> CostRule:
    def cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
        return Cost(flops * specs[0].size, moved(specs, ()) + sum(specs[i].nbytes for i in writes))

    return cost


Update = Callable[[AnyArray, AnyArray, AnyArray, "list[AnyArray]"], None]


def _each(inputs: Sequence[AnyArray], states: int, attributes: Attributes, update: Update) -> None:
    """Update block by block: `update(gradient, scratch, master, moments)`; then the parameter is the rounded master.

    Args:
        inputs: param, grad, master, moments, perhaps skip.
        states: how many moments there are.
        attributes: gradient_scale, rounding, seed.
        update: gets blocks of the gradient in the arithmetic's type and of scratch memory, both its own.
    """
    if len(inputs) > 3 + states and inputs[-1] != 0:
        return
    param, grad, master, *moments = (array.reshape(-1) for array in inputs[: 3 + states])
    kind = master.dtype.type
    scale = attributes["gradient_scale"]
    alone = not np.may_share_memory(param, master)
    random = attributes["rounding"] == "stochastic"

    def block(start: int) -> None:
        part = slice(start, min(start + _BLOCK, param.size))
        own, g = master[part], np.empty(len(range(*part.indices(param.size))), kind)
        widen_into(grad[part], g)
        if scale != 1.0:
            g *= kind(scale)
        update(g, np.empty_like(g), own, [moment[part] for moment in moments])
        if random:
            # A parameter that is rounded at random needs numbers of its own, step by step.
            bits = random_bits(own.size, seed=attributes["seed"], subsequence=attributes.get("step", 0), offset=start)
            param[part] = stochastic(own, param.dtype, bits)
        elif alone:
            np.copyto(param[part], own, casting="unsafe")

    share(block, range(0, param.size, _BLOCK), worth=param.size >= _WORTH)


def _adamw(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    kind = inputs[2].dtype.type
    beta1, beta2, step = attributes["beta1"], attributes["beta2"], attributes["step"]
    rate = attributes["learning_rate"]
    keep = kind(1 - rate * attributes["weight_decay"])
    first, first_new, second, second_new = kind(beta1), kind(1 - beta1), kind(beta2), kind(1 - beta2)
    # m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon), with the corrections moved out of the loop
    bias1, bias2 = 1 - beta1**step, math.sqrt(1 - beta2**step)
    stride, epsilon = kind(rate * bias2 / bias1), kind(attributes["epsilon"] * bias2)

    def update(g: AnyArray, scratch: AnyArray, master: AnyArray, moments: list[AnyArray]) -> None:
        m, v = moments
        np.multiply(g, first_new, out=scratch)
        m *= first
        m += scratch
        np.square(g, out=g)
        g *= second_new
        v *= second
        v += g
        np.sqrt(v, out=g)
        g += epsilon
        np.divide(m, g, out=g)
        g *= stride
        if keep != 1:
            master *= keep
        master -= g

    _each(inputs, 2, attributes, update)
    return ()


def _sgd_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    _check(specs, ("master", "momentum"), attributes)
    number(attributes, "momentum_factor")
    number(attributes, "dampening")
    if attributes["nesterov"] and (attributes["momentum_factor"] <= 0 or attributes["dampening"] != 0):
        raise KernelValueError("nesterov needs a momentum_factor above 0 and no dampening")
    whole(attributes, "step", 1)
    return ()


def _sgd(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    kind = inputs[2].dtype.type
    decay, factor = kind(attributes["weight_decay"]), kind(attributes["momentum_factor"])
    rate, damped = kind(attributes["learning_rate"]), kind(1 - attributes["dampening"])

    def update(g: AnyArray, scratch: AnyArray, master: AnyArray, moments: list[AnyArray]) -> None:
        (momentum,) = moments
        if decay:
            np.multiply(master, decay, out=scratch)
            g += scratch
        momentum *= factor
        if damped == 1:
            momentum += g
        else:
            np.multiply(g, damped, out=scratch)
            momentum += scratch
        if attributes["nesterov"]:
            np.multiply(momentum, factor, out=scratch)
            g += scratch
        else:
            np.copyto(g, momentum)
        g *= rate
        master -= g

    _each(inputs, 1, attributes, update)
    return ()


_STATE: Final = "the state is in place; held over finite numbers of ordinary size"
_COMMON: Final = {"weight_decay": 0.0, "gradient_scale": 1.0, "rounding": "nearest", "seed": 0}

KERNELS: Final = (
    Kernel(
        "adamw",
        ("param", "grad", "master", "m", "v", "skip"),
        FLOATS,
        _adamw_shape,
        _updates(18, (0, 2, 3, 4)),
        _adamw,
        "one step of Adam with decoupled weight decay, in place; param becomes master, rounded to nearest or at random "
        "(seed, step); nothing happens where skip is not 0",
        {
            "learning_rate": REQUIRED,
            "step": REQUIRED,
            "beta1": 0.9,
            "beta2": 0.999,
            "epsilon": 1e-8,
            **_COMMON,
        },
        optional=1,
        writes=(0, 2, 3, 4),
        outputs=(),
        bound=Bound(16, LARGEST, special=_STATE),
        examples=(
            example(
                (5, 7),
                (5, 7),
                Draw((5, 7), dtype="wide"),
                Draw((5, 7), dtype="wide"),
                Draw((5, 7), "unit", "wide"),
                learning_rate=0.01,
                step=3,
                weight_decay=0.1,
            ),
        ),
    ),
    Kernel(
        "sgd",
        ("param", "grad", "master", "momentum", "skip"),
        FLOATS,
        _sgd_shape,
        _updates(6, (0, 2, 3)),
        _sgd,
        "one step of gradient descent with (Nesterov) momentum, in place; param becomes master, rounded to nearest or "
        "at random (seed, step); nothing happens where skip is not 0",
        {
            "learning_rate": REQUIRED,
            "step": 1,
            "momentum_factor": 0.0,
            "dampening": 0.0,
            "nesterov": False,
            **_COMMON,
        },
        optional=1,
        writes=(0, 2, 3),
        outputs=(),
        bound=Bound(16, LARGEST, special=_STATE),
        examples=(
            example(
                (5, 7),
                (5, 7),
                Draw((5, 7), dtype="wide"),
                Draw((5, 7), dtype="wide"),
                learning_rate=0.1,
                momentum_factor=0.9,
                weight_decay=0.1,
                nesterov=True,
            ),
        ),
    ),
)
