"""Rotary positions: pairs of elements turned by an angle that grows with the place (Su et al., RoFormer, 2021).

Flows in: x (..., size) and the place of each vector. Flows out: x, turned. Angles are computed in f64, the rest in f32
(f64 of f64), rounded once. The gradient is the turn back. Not here: which axis is which (places broadcast).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from supernode.emulator.dtypes import FLOATS, INTEGERS
from supernode.emulator.kernels.rules import broadcast, narrow, need, number, streaming, whole, widen
from supernode.emulator.kernels.table import AnyArray, Attributes, Bound, Draw, Implementation, Kernel, Spec, example
from supernode.errors import KernelValueError


def _shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    x, places = specs
    need(places, "places", dtype=INTEGERS)
    if not x.shape or broadcast(places.shape, x.shape[:-1]) != x.shape[:-1]:
        raise KernelValueError(f"places {places} do not broadcast to the vectors of {x}")
    size = x.shape[-1] if attributes["rotated"] is None else whole(attributes, "rotated", 0, x.shape[-1])
    if size % 2:
        raise KernelValueError(f"pairs are turned, but {size} elements are no pairs")
    number(attributes, "base", 1.0)
    number(attributes, "stretch", 1e-9)
    return (x,)


def _turning(direction: float) -> Implementation:
    def run(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
        x, places = widen(inputs[0]), inputs[1]
        size = x.shape[-1] if attributes["rotated"] is None else attributes["rotated"]
        half = size // 2
        speeds = attributes["base"] ** (np.arange(half) * (-2.0 / max(size, 1)))
        angles = (places / attributes["stretch"])[..., None] * speeds
        cos: Any = np.cos(angles).astype(x.dtype)
        sin: Any = (direction * np.sin(angles)).astype(x.dtype)
        if attributes["interleaved"]:
            first, second = slice(0, size, 2), slice(1, size, 2)
        else:
            first, second = slice(0, half), slice(half, size)
        out = np.empty(x.shape, x.dtype)
        a, b = x[..., first], x[..., second]
        np.subtract(a * cos, b * sin, out=out[..., first])
        np.add(b * cos, a * sin, out=out[..., second])
        out[..., size:] = x[..., size:]
        return (narrow(out, outputs[0]),)

    return run


def _lengths(inputs: Sequence[AnyArray], attributes: Attributes, results: Sequence[AnyArray]) -> Sequence[AnyArray]:
    """A turn keeps the length of a pair; the sum of both elements is more."""
    x = np.abs(inputs[0])
    size = x.shape[-1] if attributes["rotated"] is None else attributes["rotated"]
    pairs = x.copy()
    if attributes["interleaved"]:
        pairs[..., 0:size:2] += x[..., 1:size:2]
        pairs[..., 1:size:2] += x[..., 0:size:2]
    else:
        pairs[..., : size // 2] += x[..., size // 2 : size]
        pairs[..., size // 2 : size] += x[..., : size // 2]
    return [pairs]


_ATTRIBUTES: Final = {"base": 10000.0, "interleaved": False, "rotated": None, "stretch": 1.0}
_EXAMPLES: Final = (
    example((2, 5, 8), Draw((5,), "below 4096", "i64")),
    example((5, 2, 8), Draw((5, 1), "below 4096", "i64"), interleaved=True, rotated=6, stretch=4.0),
)

KERNELS: Final = (
    Kernel(
        "rotary",
        ("x", "places"),
        FLOATS,
        _shape,
        streaming(6),
        _turning(1.0),
        "pair i of each vector turned by place / stretch * base^(-2 i / size); pairs are halves apart, or neighbours "
        "(interleaved); only the first `rotated` elements, or all",
        _ATTRIBUTES,
        backward="rotary_backward",
        bound=Bound(4, _lengths),
        examples=_EXAMPLES,
    ),
    Kernel(
        "rotary_backward",
        ("grad", "places"),
        FLOATS,
        _shape,
        streaming(6),
        _turning(-1.0),
        "the gradient of x: the turn back",
        _ATTRIBUTES,
        outputs=("grad_x",),
        bound=Bound(4, _lengths),
        examples=_EXAMPLES,
    ),
)
