"""Discrete Fourier transforms.

Flows in: a real or complex array, the axes and the length along each (None: the input's). Flows out: the transform in
the input's precision. Not here: sample frequencies (made on the host of the client, they depend on no data).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from supernode.emulator.dtypes import COMPLEX, REAL_OF
from supernode.emulator.kernels.rules import moved, narrow, normal_axis
from supernode.emulator.kernels.table import (
    LARGEST,
    REQUIRED,
    AnyArray,
    Attributes,
    Bound,
    Cost,
    Example,
    Kernel,
    Spec,
    example,
)
from supernode.errors import KernelValueError

_COMPLEX_OF: Final = {"f32": "c64", "f64": "c128", "c64": "c64", "c128": "c128"}


def _lengths(spec: Spec, attributes: Attributes) -> list[tuple[int, int | None]]:
    """(axis, length) pairs; a length of None is the input's."""
    axes = [normal_axis(axis, len(spec.shape)) for axis in attributes["axes"]]
    given = [None] * len(axes) if attributes["lengths"] is None else list(attributes["lengths"])
    if len(given) != len(axes) or len(set(axes)) != len(axes) or not axes:
        raise KernelValueError(f"axes {attributes['axes']} and lengths {attributes['lengths']} do not go together")
    lengths = [None if n is None else operator.index(n) for n in given]
    if attributes["norm"] not in ("backward", "ortho", "forward"):
        raise KernelValueError(f"norm {attributes['norm']!r} is none of backward, ortho, forward")
    return list(zip(axes, lengths, strict=True))


def _cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    elements = max(specs[0].size, outputs[0].size, 2)
    return Cost(5.0 * elements * math.log2(elements), moved(specs, outputs))


def _transform(
    name: str,
    function: Callable[..., Any],
    dtypes: tuple[str, ...],
    last: str,
    summary: str,
    *,
    bound: Bound,
    examples: tuple[Example, ...],
) -> Kernel:
    """An entry; `last` says how the last transformed axis comes out: same, half (n // 2 + 1) or twice (2 (n - 1))."""

    def shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
        out = list(specs[0].shape)
        pairs = _lengths(specs[0], attributes)
        for position, (axis, length) in enumerate(pairs):
            final = position == len(pairs) - 1
            if length is None:
                length = 2 * (out[axis] - 1) if final and last == "twice" else out[axis]
            if length < 1:
                raise KernelValueError(f"a transform of {length} points along axis {axis} is not possible")
            out[axis] = length // 2 + 1 if final and last == "half" else length
        dtype = REAL_OF[specs[0].dtype] if last == "twice" else _COMPLEX_OF[specs[0].dtype]
        return (Spec(dtype, tuple(out)),)

    def run(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
        x = inputs[0]
        pairs = _lengths(Spec(_names(x), x.shape), attributes)
        sizes = [length for _, length in pairs]
        if sizes[-1] is None and last == "twice":
            sizes[-1] = outputs[0].shape[pairs[-1][0]]
        whole = [x.shape[axis] if n is None else n for (axis, _), n in zip(pairs, sizes, strict=True)]
        return (narrow(function(x, s=whole, axes=[axis for axis, _ in pairs], norm=attributes["norm"]), outputs[0]),)

    attributes = {"axes": REQUIRED, "lengths": None, "norm": "backward"}
    return Kernel(name, ("x",), dtypes, shape, _cost, run, summary, attributes, bound=bound, examples=examples)


def _names(x: AnyArray) -> str:
    return {"float32": "f32", "float64": "f64", "complex64": "c64", "complex128": "c128"}[x.dtype.name]


def _hermitian(x: AnyArray, *, s: list[int], axes: list[int], norm: Any) -> AnyArray:
    return np.fft.hfft(x, s[0], axes[0], norm)


def _inverse_hermitian(x: AnyArray, *, s: list[int], axes: list[int], norm: Any) -> AnyArray:
    return np.fft.ihfft(x, s[0], axes[0], norm)


KERNELS: Final = (
    _transform(
        "fft",
        np.fft.fftn,
        (*COMPLEX, "f32", "f64"),
        "same",
        "Fourier transform along axes",
        bound=Bound(32, LARGEST, special="one infinite input is in every result"),
        examples=(example((3, 8), axes=[0, 1]),),
    ),
    _transform(
        "ifft",
        np.fft.ifftn,
        (*COMPLEX, "f32", "f64"),
        "same",
        "inverse of fft",
        bound=Bound(32, LARGEST, special="one infinite input is in every result"),
        examples=(example((3, 8), axes=[0, 1]),),
    ),
    _transform(
        "rfft",
        np.fft.rfftn,
        ("f32", "f64"),
        "half",
        "fft of real numbers: the half that says everything",
        bound=Bound(32, LARGEST, special="one infinite input is in every result"),
        examples=(example((3, 8), axes=[0, 1]),),
    ),
    _transform(
        "irfft",
        np.fft.irfftn,
        (*COMPLEX, "f32", "f64"),
        "twice",
        "inverse of rfft",
        bound=Bound(32, LARGEST, special="one infinite input is in every result"),
        examples=(example((3, 5), axes=[1]),),
    ),
    _transform(
        "hfft",
        _hermitian,
        (*COMPLEX, "f32", "f64"),
        "twice",
        "fft of a Hermitian half; one axis",
        bound=Bound(32, LARGEST, special="one infinite input is in every result"),
        examples=(example((3, 5), axes=[1]),),
    ),
    _transform(
        "ihfft",
        _inverse_hermitian,
        ("f32", "f64"),
        "half",
        "inverse of hfft; one axis",
        bound=Bound(32, LARGEST, special="one infinite input is in every result"),
        examples=(example((3, 8), axes=[1]),),
    ),
)
