"""Gradient clipping by the norm over all tensors, and dynamic loss scaling, without waiting for the host.

Flows in: gradients and scalars on the device. Flows out: scalars, or gradients changed in place. Between ranks the
squares are all-reduced by sum and the flag `found` by max. Not here: the optimizers, which skip a step that says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from supernode.emulator.dtypes import FLOATS
from supernode.emulator.kernels.parallel import share
from supernode.emulator.kernels.rules import moved, narrow, need, number, streaming, whole, widen
from supernode.emulator.kernels.table import REQUIRED, AnyArray, Attributes, Bound, Cost, Draw, Kernel, Spec, example
from supernode.errors import KernelTypeError

# Elements that are worked on at once, and below which threads cost more than they bring.
_BLOCK: Final = 1 << 16
_WORTH: Final = 1 << 18


def _blocks(size: int) -> range:
    return range(0, size, _BLOCK)


def _total_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    if any(spec.dtype not in FLOATS for spec in specs):
        raise KernelTypeError(f"squares are of floats, not {', '.join(map(str, specs))}")
    return (Spec("f64" if any(spec.dtype == "f64" for spec in specs) else "f32", ()),)


def _total(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    parts: list[AnyArray] = []
    for array in inputs:
        flat = array.reshape(-1)
        sums = np.zeros(len(_blocks(flat.size)), np.float64)

        def block(start: int, flat: AnyArray = flat, sums: AnyArray = sums) -> None:
            part = widen(flat[start : start + _BLOCK])
            # Squares of f32 can overflow it: a gradient that large must still be clipped, not lost.
            wide = part.astype(np.float64, copy=False)
            sums[start // _BLOCK] = np.dot(wide, wide)

        share(block, _blocks(flat.size), worth=flat.size >= _WORTH)
        parts.append(sums)
    return (narrow(np.concatenate(parts).sum() if parts else 0.0, outputs[0]),)


def _factor_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    need(specs[0], "squares", shape=())
    number(attributes, "max_norm", 0.0)
    number(attributes, "scale")
    return (specs[0], specs[0])


def _factor(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    norm = np.sqrt(inputs[0].astype(np.float64)) * abs(attributes["scale"])
    factor = np.minimum(attributes["max_norm"] / (norm + 1e-6), 1.0)
    return narrow(factor, outputs[0]), narrow(norm, outputs[1])


def _scale_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    need(specs[1], "factor", dtype="f64" if specs[0].dtype == "f64" else "f32", shape=())
    return ()


def _in_place(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    return Cost(2.0 * specs[0].size, moved(specs, ()) + specs[0].nbytes)


def _scale(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    flat, factor = inputs[0].reshape(-1), inputs[1]

    def block(start: int) -> None:
        part = flat[start : start + _BLOCK]
        np.copyto(part, widen(part) * factor, casting="unsafe")

    share(block, _blocks(flat.size), worth=flat.size >= _WORTH)
    return ()


def _unscale_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    need(specs[1], "scale", dtype="f32", shape=())
    need(specs[2], "found", dtype="f32", shape=())
    return ()


def _unscale(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    flat, scale, found = inputs[0].reshape(-1), inputs[1], inputs[2]
    bad = np.zeros(len(_blocks(flat.size)), np.bool_)
    # By the reciprocal in f64: exact for the powers of two that scales are.
    inverse = np.reciprocal(scale.astype(np.float64))

    def block(start: int) -> None:
        part = flat[start : start + _BLOCK]
        wide = widen(part)
        bad[start // _BLOCK] = not np.isfinite(wide).all()
        np.copyto(part, wide * wide.dtype.type(inverse), casting="unsafe")

    share(block, _blocks(flat.size), worth=flat.size >= _WORTH)
    if bad.any():
        found[...] = 1
    return ()


def _update_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    for spec, name, dtype in zip(specs, ("scale", "steps", "found"), ("f32", "i32", "f32"), strict=True):
        need(spec, name, dtype=dtype, shape=())
    number(attributes, "growth", 1.0)
    number(attributes, "backoff", math.ulp(0.0), 1.0)
    whole(attributes, "interval", 1)
    return ()


def _update(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    scale, steps, found = inputs
    if found != 0:
        scale *= np.float32(attributes["backoff"])
        steps[...] = 0
    else:
        steps += 1
        if steps >= attributes["interval"]:
            grown = scale * np.float32(attributes["growth"])
            if np.isfinite(grown):
                scale[...] = grown
            steps[...] = 0
    found[...] = 0
    return ()


_IN_PLACE: Final = "the array is changed in place; held over finite numbers of ordinary size"

KERNELS: Final = (
    Kernel(
        "total_squares",
        ("x", "..."),
        FLOATS,
        _total_shape,
        streaming(2),
        _total,
        "sum of x * x over all elements of all arrays, added up in f64, as f32 (f64 if one is)",
        bound=Bound(4, degree=2),
        examples=(example((5, 7), (3,), ()),),
    ),
    Kernel(
        "clip_factor",
        ("squares",),
        ("f32", "f64"),
        _factor_shape,
        streaming(4),
        _factor,
        "min(1, max_norm / (norm + 1e-6)), by which gradients are clipped, and norm = |scale| sqrt(squares)",
        {"max_norm": REQUIRED, "scale": 1.0},
        outputs=("factor", "norm"),
        bound=Bound(2),
        examples=(example(Draw((), "positive"), max_norm=0.5),),
    ),
    Kernel(
        "scale_by",
        ("x", "factor"),
        FLOATS,
        _scale_shape,
        _in_place,
        _scale,
        "x times a number on the device, in place",
        writes=(0,),
        outputs=(),
        bound=Bound(0.5, degree=2),
        examples=(example((5, 7), Draw((), "normal", "wide")),),
    ),
    Kernel(
        "unscale",
        ("grad", "scale", "found"),
        FLOATS,
        _unscale_shape,
        _in_place,
        _unscale,
        "grad / scale, in place; found becomes 1 if an element is infinite or NaN",
        writes=(0, 2),
        outputs=(),
        bound=Bound(2, special=_IN_PLACE),
        examples=(example((5, 7), Draw((), "constant 1024", "f32"), Draw((), "constant 0", "f32")),),
    ),
    Kernel(
        "update_scale",
        ("scale", "steps", "found"),
        ("f32",),
        _update_shape,
        streaming(1),
        _update,
        "scale times backoff if found, else times growth after interval good steps; found becomes 0; in place",
        {"growth": 2.0, "backoff": 0.5, "interval": 2000},
        writes=(0, 1, 2),
        outputs=(),
        bound=Bound(0, special=_IN_PLACE),
        examples=(
            example(Draw((), "constant 1024"), Draw((), "constant 1999", "i32"), Draw((), "constant 0", "f32")),
            example(Draw((), "constant 1024"), Draw((), "constant 7", "i32"), Draw((), "constant 1", "f32")),
        ),
    ),
)
