"""Reductions over axes, cumulative sums, places of extremes.

Flows in: a tensor and axes (an input or an attribute, by version). Flows out: the reduced tensor. Not here: pooling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import numpy as np

from supernode.emulator.client import Array
from supernode.emulator.dtypes import DTYPES, FLOATS, NUMBERS
from supernode.emulator.onnx_backend.call import Call, Lowering

_Reduce: TypeAlias = Callable[[Call, Array, "list[int] | None", bool], Array]


def reduction(reduce: _Reduce, *dtypes: str) -> Lowering:
    """A reduction; without axes it is over all, or changes nothing where the node says so."""

    def lower(call: Call) -> Any:
        x = call.array(0)
        if x.dtype not in dtypes:
            return NotImplemented
        axes = call.ints(1, "axes")
        keep = bool(call.get("keepdims", 1))
        if not axes:
            axes = [] if call.get("noop_with_empty_axes", 0) else None
        # Over no axes each element is reduced with itself.
        return call.out(reduce(call, x, axes, keep))

    return lower


def _plain(kernel: str) -> _Reduce:
    def reduce(call: Call, x: Array, axes: list[int] | None, keep: bool) -> Array:
        out: Array = call.launch(kernel, x, axis=axes, keepdims=keep)
        return out

    return reduce


def _total(kernel: str) -> _Reduce:
    """Sums: in the type of the input, as ONNX wants it."""

    def reduce(call: Call, x: Array, axes: list[int] | None, keep: bool) -> Array:
        out: Array = call.launch(kernel, x, axis=axes, keepdims=keep, dtype=x.dtype)
        return out

    return reduce


def _mean(call: Call, x: Array, axes: list[int] | None, keep: bool) -> Array:
    if x.dtype in FLOATS:
        return _plain("mean")(call, x, axes, keep)
    return call.cast(call.launch("mean", call.cast(x, "f64"), axis=axes, keepdims=keep), x.dtype)


def _wide(dtype: str) -> str:
    """What several kernels after one another compute in, so that there is one rounding at the end."""
    return "f32" if dtype in ("f16", "bf16") else dtype


def _l1(call: Call, x: Array, axes: list[int] | None, keep: bool) -> Array:
    return _total("sum")(call, call.launch("absolute", x), axes, keep)


def _squares(call: Call, x: Array, axes: list[int] | None, keep: bool) -> Array:
    wide = call.cast(x, _wide(x.dtype))
    return call.cast(_total("sum")(call, call.launch("square", wide), axes, keep), x.dtype)


def _l2(call: Call, x: Array, axes: list[int] | None, keep: bool) -> Array:
    wide = call.cast(x, _wide(x.dtype) if x.dtype in FLOATS else "f64")
    total = _total("sum")(call, call.launch("square", wide), axes, keep)
    return call.cast(call.launch("sqrt", total), x.dtype)


def _log_sum(call: Call, x: Array, axes: list[int] | None, keep: bool) -> Array:
    wide = call.cast(x, _wide(x.dtype) if x.dtype in FLOATS else "f64")
    return call.cast(call.launch("log", _total("sum")(call, wide, axes, keep)), x.dtype)


def _log_sum_exp(call: Call, x: Array, axes: list[int] | None, keep: bool) -> Array:
    wide = call.cast(x, _wide(x.dtype) if x.dtype in FLOATS else "f64")
    return call.cast(call.launch("log_sum_exp", wide, axis=axes, keepdims=keep), x.dtype)


def _extreme(kernel: str) -> _Reduce:
    def reduce(call: Call, x: Array, axes: list[int] | None, keep: bool) -> Array:
        places = range(len(x.shape)) if axes is None else [axis % len(x.shape) for axis in axes]
        if any(x.shape[axis] == 0 for axis in places):
            shape = [1 if i in places else n for i, n in enumerate(x.shape) if keep or i not in places]
            made: Array = call.launch("full", shape=shape, value=_limit(x.dtype, kernel), dtype=x.dtype)
            return made
        wide = call.cast(x, "u8") if x.dtype == "bool" else x
        out: Array = call.launch(kernel, wide, axis=axes, keepdims=keep)
        return call.cast(out, x.dtype)

    return reduce


def _limit(dtype: str, kernel: str) -> Any:
    """The extreme of nothing."""
    if dtype == "bool":
        return kernel == "min"
    if dtype in FLOATS:
        return math.inf if kernel == "min" else -math.inf
    limits = np.iinfo(DTYPES[dtype])
    return int(limits.max if kernel == "min" else limits.min)


def _argument(kernel: str) -> Lowering:
    def lower(call: Call) -> Any:
        x = call.array(0)
        if x.dtype not in NUMBERS:
            return NotImplemented
        axis = call.get("axis", 0)
        axis += len(x.shape) if axis < 0 else 0
        last = bool(call.get("select_last_index", 0))
        out = call.launch(kernel, call.launch("flip", x, axis=[axis]) if last else x, axis=axis)
        if last:
            out = call.launch("subtract", call.launch("full", shape=[], value=x.shape[axis] - 1, dtype="i64"), out)
        if call.get("keepdims", 1):
            out = out.reshape([*x.shape[:axis], 1, *x.shape[axis + 1 :]])
        return call.out(out)

    return lower


def _cumulative(kernel: str) -> Lowering:
    def lower(call: Call) -> Any:
        x = call.array(0)
        if x.dtype not in NUMBERS:
            return NotImplemented
        axis = int(call.scalar(1))
        axis += len(x.shape) if axis < 0 else 0
        reverse, exclusive = bool(call.get("reverse", 0)), bool(call.get("exclusive", 0)) and x.shape[axis] > 0
        own = x.dtype
        if reverse:
            x = call.launch("flip", x, axis=[axis])
        if exclusive:
            x = call.launch("slice", x, start=0, stop=x.shape[axis] - 1, axis=axis)
        x = call.launch(kernel, x, axis=axis, dtype=own, initial=exclusive)
        return call.out(call.launch("flip", x, axis=[axis]) if reverse else x)

    return lower


OPERATORS: Final[Mapping[str, Lowering]] = {
    "ReduceSum": reduction(_total("sum"), *NUMBERS),
    "ReduceMean": reduction(_mean, *NUMBERS),
    "ReduceProd": reduction(_total("prod"), *NUMBERS),
    "ReduceMax": reduction(_extreme("max"), "bool", *NUMBERS),
    "ReduceMin": reduction(_extreme("min"), "bool", *NUMBERS),
    "ReduceL1": reduction(_l1, *NUMBERS),
    "ReduceL2": reduction(_l2, *NUMBERS),
    "ReduceSumSquare": reduction(_squares, *NUMBERS),
    "ReduceLogSum": reduction(_log_sum, *NUMBERS),
    "ReduceLogSumExp": reduction(_log_sum_exp, *NUMBERS),
    "ArgMax": _argument("argmax"),
    "ArgMin": _argument("argmin"),
    "CumSum": _cumulative("cumulative_sum"),
    "CumProd": _cumulative("cumulative_prod"),
}
