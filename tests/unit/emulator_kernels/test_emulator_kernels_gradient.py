"""Every backward kernel of the table against central differences of its forward kernel, in f64.

Which inputs and outputs belong together the entries say by their names; the examples are the forward kernel's. A
kernel that names a backward kernel is checked without another line.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from supernode.emulator.dtypes import DTYPES
from supernode.emulator.kernels import TABLE, Kernel, Spec
from supernode.emulator.kernels.table import Draw, Example

Array = np.ndarray[Any, Any]
FORWARD = [kernel for kernel in TABLE.kernels.values() if kernel.backward]


def run(kernel: Kernel, inputs: Sequence[Array], attributes: Mapping[str, Any]) -> tuple[Array, ...]:
    specs = tuple(Spec({v: k for k, v in DTYPES.items()}[x.dtype], x.shape) for x in inputs)
    plan = TABLE.plan(kernel.name, specs, attributes)
    return plan.kernel.run(inputs, {**kernel.attributes, **attributes}, plan.outputs)


def values(rng: np.random.Generator, draw: Draw) -> Array:
    word, _, rest = draw.values.partition(" ")
    if word == "below":
        return rng.integers(0, int(rest), draw.shape).astype(DTYPES[draw.dtype])
    if word == "rises":
        inner = rng.integers(0, int(rest) + 1, draw.shape[0] - 2)
        return np.sort(np.r_[0, inner, int(rest)]).astype(DTYPES[draw.dtype])
    if word == "permutation":
        return rng.permutation(draw.shape[0]).astype(DTYPES[draw.dtype])
    if word == "constant":
        return np.full(draw.shape, float(rest)).astype(DTYPES[draw.dtype or "f64"])
    return rng.random(draw.shape) * 0.98 + 0.01 if word == "unit" else rng.standard_normal(draw.shape)


def differences(
    kernel: Kernel, inputs: list[Array], attributes: Mapping[str, Any], place: int, weights: Sequence[Array | None]
) -> Array:
    """d sum(weight * output) / d inputs[place], by central differences."""
    out = np.zeros_like(inputs[place])
    for index in np.ndindex(out.shape):
        step = 1e-6 * max(1.0, abs(float(inputs[place][index])))
        sides = []
        for sign in (1, -1):
            moved = [x.copy() for x in inputs]
            moved[place][index] += sign * step
            results = run(kernel, moved, attributes)
            sides.append(sum(float((w * y).sum()) for w, y in zip(weights, results, strict=True) if w is not None))
        out[index] = (sides[0] - sides[1]) / (2 * step)
    return out


def test_names_of_backward_kernels_say_what_they_are() -> None:
    assert {kernel.backward for kernel in FORWARD} == {name for name in TABLE.kernels if name.endswith("_backward")}
    for kernel in FORWARD:
        backward = TABLE.kernels[kernel.backward]
        known = {*kernel.inputs, *kernel.outputs, "grad", *(f"grad_{name}" for name in kernel.outputs)}
        assert set(backward.inputs) <= known, backward.name
        assert {name.removeprefix("grad_") for name in backward.outputs} <= set(kernel.inputs), backward.name
        assert all(name.startswith("grad_") for name in backward.outputs), backward.name


@pytest.mark.parametrize(
    ("kernel", "example"),
    [pytest.param(k, e, id=f"{k.name}-{i}") for k in FORWARD for i, e in enumerate(k.examples)],
)
def test_backward_is_the_slope_of_forward(kernel: Kernel, example: Example) -> None:
    rng = np.random.default_rng(zlib.crc32(kernel.name.encode()))
    backward = TABLE.kernels[kernel.backward]
    inputs = [values(rng, draw) for draw in example.inputs]
    with np.errstate(all="ignore"):
        results = run(kernel, inputs, example.attributes)
        named: dict[str, Array] = dict(zip(kernel.inputs, inputs, strict=False))
        named |= dict(zip(kernel.outputs, results, strict=True))
        weights: list[Array | None] = [None] * len(results)
        for i, name in enumerate(kernel.outputs):
            wanted = f"grad_{name}" if f"grad_{name}" in backward.inputs else "grad" if i == 0 else ""
            if wanted in backward.inputs:
                named[wanted] = weights[i] = rng.standard_normal(results[i].shape)
        if not any(w is not None for w in weights):
            weights[0] = np.ones(results[0].shape)  # the loss itself: its gradient is that of 1 * loss
        given = [named[name] for name in backward.inputs if name in named]
        # What only the backward kernel has (the rows of a table) stands in its own example.
        own = {k: v for k, v in backward.examples[0].attributes.items() if k not in kernel.attributes}
        shared = {k: v for k, v in example.attributes.items() if k in backward.attributes}
        found = run(backward, given, {**own, **shared})
        for name, gradient in zip(backward.outputs, found, strict=False):
            place = kernel.inputs.index(name.removeprefix("grad_"))
            if place >= len(inputs):
                continue
            expected = differences(kernel, inputs, example.attributes, place, weights)
            limit = 1e-7 * max(1.0, float(np.abs(expected).max(initial=0)))
            assert np.abs(gradient - expected).max(initial=0) <= limit, f"{backward.name} {name} {example}"
