"""Embedding: rows of a table by number, and the gradient of the table; of a table that is spread over ranks, too.

Flows in: a table [rows, columns] and integer tokens of any shape. Flows out: [..., columns]. A token outside the table
gives a row of NaN and no gradient. A rank that holds the rows from `start` on, of `total`, gives zeros for the others'
rows, so that an all-reduce by sum makes the whole. The gradient adds up in f32 (f64 of f64) in the order of the tokens,
so it is the same every time. Not here: positions (`add` with broadcasting, `rotary`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from supernode.emulator.dtypes import FLOATS, INTEGERS
from supernode.emulator.kernels.rules import known_dtype, narrow, need, streaming, whole, wide_dtype, widen
from supernode.emulator.kernels.table import (
    EXACT,
    MAGNITUDES,
    REQUIRED,
    AnyArray,
    Attributes,
    Bound,
    Cost,
    Draw,
    Kernel,
    Spec,
    example,
)
from supernode.errors import KernelValueError


def _forward_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    table, tokens = specs
    if len(table.shape) != 2 or table.shape[0] == 0:
        raise KernelValueError(f"the table must be [rows, columns] with at least one row, not {table}")
    need(tokens, "tokens", dtype=INTEGERS)
    start = whole(attributes, "start")
    if attributes["total"] is not None:
        whole(attributes, "total", start + table.shape[0])
    return (Spec(table.dtype, (*tokens.shape, table.shape[1])),)


def _forward_cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    # Only the rows that are asked for are read.
    return Cost(0.0, float(2 * outputs[0].nbytes + specs[1].nbytes))


def _forward(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    table, tokens = inputs[0], inputs[1].astype(np.int64, copy=False)
    start = attributes["start"]
    total = start + table.shape[0] if attributes["total"] is None else attributes["total"]
    rows = tokens - start if start else tokens
    here = (rows >= 0) & (rows < table.shape[0])
    if here.all():
        return (np.take(table, rows, axis=0),)
    out = np.take(table, np.where(here, rows, 0), axis=0)
    out[~here] = 0
    out[(tokens < 0) | (tokens >= total) | ((rows < 0) & (attributes["total"] is None))] = np.nan
    return (out,)


def _backward_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    grad, tokens = specs
    need(tokens, "tokens", dtype=INTEGERS)
    if grad.shape[:-1] != tokens.shape or not grad.shape:
        raise KernelValueError(f"grad {grad} must be one row per token of {tokens}")
    rows = whole(attributes, "rows", 1)
    whole(attributes, "start")
    dtype = attributes["dtype"]
    return (Spec(grad.dtype if dtype is None else known_dtype(dtype), (rows, grad.shape[-1])),)


def _backward(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    grad, tokens = widen(inputs[0]), inputs[1].astype(np.int64, copy=False).reshape(-1) - attributes["start"]
    rows, columns = outputs[0].shape
    out = np.zeros((rows, columns), np.promote_types(wide_dtype(outputs[0].dtype), grad.dtype))
    order = np.argsort(tokens, kind="stable")
    sorted_tokens = tokens[order]
    order = order[(sorted_tokens >= 0) & (sorted_tokens < rows)]
    if len(order) and columns:
        sorted_tokens = tokens[order]
        starts = np.flatnonzero(np.r_[True, sorted_tokens[1:] != sorted_tokens[:-1]])
        out[sorted_tokens[starts]] = np.add.reduceat(grad.reshape(-1, columns)[order], starts, axis=0)
    return (narrow(out, outputs[0]),)


KERNELS: Final = (
    Kernel(
        "embedding",
        ("table", "tokens"),
        FLOATS,
        _forward_shape,
        _forward_cost,
        _forward,
        "rows of the table by number, the first being start; NaN for a number outside it, 0 if it is below total",
        {"start": 0, "total": None},
        backward="embedding_backward",
        bound=EXACT,
        examples=(example((6, 3), Draw((4, 5), "below 6", "i64")),),
    ),
    Kernel(
        "embedding_backward",
        ("grad", "tokens"),
        FLOATS,
        _backward_shape,
        streaming(1),
        _backward,
        "gradient of the table: per row the sum over its tokens, in their order",
        {"rows": REQUIRED, "dtype": None, "start": 0},
        outputs=("grad_table",),
        bound=Bound(16, MAGNITUDES),
        examples=(example((4, 5, 3), Draw((4, 5), "below 6", "i64"), rows=6),),
    ),
)
