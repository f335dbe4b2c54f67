"""Activations with a backward kernel: gelu, silu, swiglu, softmax, and the backward kernels of relu and tanh.

Flows in and out: arrays of one float dtype; 16-bit floats compute in f32 and round once. Not here: plain functions
(`elementwise`) and the softmax inside attention (`attention`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from supernode.emulator.dtypes import FLOATS
from supernode.emulator.kernels.epilogue import ACTIVATIONS, Activation, in_blocks, sigmoid
from supernode.emulator.kernels.parallel import WORTH, row_blocks, share
from supernode.emulator.kernels.rules import choice, narrow, normal_axis, same_dtype, same_shape, streaming, widen
from supernode.emulator.kernels.table import EXACT, TERMS, AnyArray, Attributes, Bound, Draw, Kernel, Spec, example


def _one(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    return (specs[0],)


def _pair(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    return (Spec(same_dtype(specs), same_shape(*specs)),)


def _gelu_one(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    choice(attributes, "approximate", "tanh", "none")
    return (specs[0],)


def _gelu_pair(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    choice(attributes, "approximate", "tanh", "none")
    return _pair(specs, attributes)


def _activation(attributes: Attributes) -> Activation:
    return ACTIVATIONS["gelu" if attributes["approximate"] == "tanh" else "gelu_exact"]


def _gelu(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    return (narrow(in_blocks(_activation(attributes).function, widen(inputs[0])), outputs[0]),)


def _gelu_backward(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    slope = in_blocks(_activation(attributes).slope, widen(inputs[1]))
    slope *= widen(inputs[0])
    return (narrow(slope, outputs[0]),)


def _silu(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    return (narrow(in_blocks(ACTIVATIONS["silu"].function, widen(inputs[0])), outputs[0]),)


def _silu_backward(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    slope = in_blocks(ACTIVATIONS["silu"].slope, widen(inputs[1]))
    slope *= widen(inputs[0])
    return (narrow(slope, outputs[0]),)


def _swiglu(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    out = in_blocks(ACTIVATIONS["silu"].function, widen(inputs[0]))
    out *= widen(inputs[1])
    return (narrow(out, outputs[0]),)


def _swiglu_backward_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    same = _pair(specs, attributes)
    return (*same, *same)


def _swiglu_backward(
    inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]
) -> tuple[AnyArray, ...]:
    shape = inputs[0].shape or (1,)
    flat = [array.reshape(math.prod(shape[:-1]), shape[-1]) for array in inputs]
    results = [np.empty(flat[0].shape, inputs[0].dtype) for _ in range(2)]

    def block(rows: slice) -> None:
        grad, gate, up = (widen(array[rows]) for array in flat)
        kind = gate.dtype.type
        near = sigmoid(gate)
        # silu is gate sigmoid, its slope sigmoid (1 + gate (1 - sigmoid)).
        inner = np.asarray(kind(1) - near)
        inner *= np.clip(gate, kind(-1000), kind(1000))
        inner += kind(1)
        inner *= near
        inner *= up
        inner *= grad
        near *= np.maximum(gate, np.finfo(gate.dtype).min)  # 0 times -infinity is not 0
        near *= grad
        np.copyto(results[0][rows], inner, casting="unsafe")
        np.copyto(results[1][rows], near, casting="unsafe")

    columns = flat[0].shape[1]
    share(block, row_blocks(len(flat[0]), columns, max(flat[0].itemsize, 4)), worth=flat[0].size >= WORTH)
    return tuple(array.reshape(spec.shape) for array, spec in zip(results, outputs, strict=True))


def _softmax_shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
    normal_axis(attributes["axis"], len(specs[0].shape))
    return _pair(specs, attributes)


def _softmax(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    x = inputs[0]
    if not x.size:
        return (x.copy(),)
    out = np.empty(x.shape, x.dtype)

    def weigh(some: AnyArray, into: AnyArray, axis: int) -> None:
        wide = widen(some)
        weights = wide - wide.max(axis=axis, keepdims=True)
        np.exp(weights, out=weights)
        weights /= weights.sum(axis=axis, keepdims=True)
        np.copyto(into, weights, casting="unsafe")

    _along(weigh, attributes["axis"], x, out)
    return (out,)


def _softmax_backward(
    inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]
) -> tuple[AnyArray, ...]:
    out = np.empty(outputs[0].shape, inputs[0].dtype)

    def slope(grad: AnyArray, y: AnyArray, into: AnyArray, axis: int) -> None:
        weights = widen(y)
        product = widen(grad) * weights
        product -= weights * product.sum(axis=axis, keepdims=True)
        np.copyto(into, product, casting="unsafe")

    _along(slope, attributes["axis"], *inputs, out)
    return (out,)


def _along(work: Callable[..., None], axis: int, *arrays: AnyArray) -> None:
    """`work(*arrays, axis)`, in blocks of rows where the axis is the last one."""
    first = arrays[0]
    if axis % first.ndim != first.ndim - 1 or not first.size:
        work(*arrays, axis)
        return
    flat = [array.reshape(-1, first.shape[-1]) for array in arrays]
    blocks = row_blocks(len(flat[0]), first.shape[-1], max(first.itemsize, 4))
    share(lambda rows: work(*(array[rows] for array in flat), 1), blocks, worth=first.size >= WORTH)


def _relu_backward(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    grad, x = inputs
    return (narrow(np.where(x > 0, grad, grad.dtype.type(0)), outputs[0]),)


def _tanh_backward(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
    grad, y = widen(inputs[0]), widen(inputs[1])
    return (narrow(grad * (1 - y * y), outputs[0]),)


_LEAST: Final = 2.0**-126  # smallest normal number of f32


def _slopes(inputs: Sequence[AnyArray], attributes: Attributes, results: Sequence[AnyArray]) -> Sequence[AnyArray]:
    grad, y = np.abs(inputs[0]), np.abs(inputs[1])
    return [y * (grad + (grad * y).sum(axis=attributes["axis"], keepdims=True))]


def _gelu_sizes(inputs: Sequence[AnyArray], attributes: Attributes, results: Sequence[AnyArray]) -> Sequence[AnyArray]:
    """The slope's terms are up to 1."""
    return [np.abs(inputs[0]) + np.abs(results[0])]


def _swiglu_sizes(
    inputs: Sequence[AnyArray], attributes: Attributes, results: Sequence[AnyArray]
) -> Sequence[AnyArray]:
    grad, gate, up = inputs
    return [np.abs(grad * up) * (1 + _LEAST) + np.abs(results[0]), np.abs(results[1]) + np.abs(grad * gate) * _LEAST]


def _gated(inputs: Sequence[AnyArray], attributes: Attributes, results: Sequence[AnyArray]) -> Sequence[AnyArray]:
    """Far out on the left silu is made of denormal numbers, whose few bits a large `up` shows."""
    gate, up = inputs
    return [np.abs(results[0]) + np.abs(gate * up) * _LEAST]


def _flanks(inputs: Sequence[AnyArray], attributes: Attributes, results: Sequence[AnyArray]) -> Sequence[AnyArray]:
    return [np.abs(inputs[0]) * (1 + np.square(inputs[1]))]


KERNELS: Final = (
    Kernel(
        "gelu",
        ("x",),
        FLOATS,
        _gelu_one,
        streaming(16),
        _gelu,
        "x times the normal distribution at x; approximate none or tanh, x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))",
        {"approximate": "tanh"},
        backward="gelu_backward",
        elementwise=True,
        bound=Bound(32, TERMS),
        examples=(example((3, 7)), example((3, 7), approximate="none")),
    ),
    Kernel(
        "gelu_backward",
        ("grad", "x"),
        FLOATS,
        _gelu_pair,
        streaming(24),
        _gelu_backward,
        "gradient of gelu",
        {"approximate": "tanh"},
        elementwise=True,
        outputs=("grad_x",),
        bound=Bound(32, _gelu_sizes),
        examples=(example((3, 7), (3, 7)), example((3, 7), (3, 7), approximate="none")),
    ),
    Kernel(
        "softmax",
        ("x",),
        FLOATS,
        _softmax_shape,
        streaming(12),
        _softmax,
        "exp(x - max) / sum of it, along axis",
        {"axis": -1},
        backward="softmax_backward",
        outputs=("y",),
        bound=Bound(400),
        examples=(
            example((4, 9)),
            example((4, 9), axis=0),
        ),
    ),
    Kernel(
        "softmax_backward",
        ("grad", "y"),
        FLOATS,
        _softmax_shape,
        streaming(4),
        _softmax_backward,
        "y (grad - sum(grad y)), y being the result of softmax",
        {"axis": -1},
        outputs=("grad_x",),
        bound=Bound(16, _slopes),
        examples=(example((4, 9), Draw((4, 9), "unit")),),
    ),
    Kernel(
        "relu_backward",
        ("grad", "x"),
        FLOATS,
        _pair,
        streaming(1),
        _relu_backward,
        "grad where x > 0, else 0",
        elementwise=True,
        outputs=("grad_x",),
        bound=EXACT,
        examples=(example((3, 7), (3, 7)),),
    ),
    Kernel(
        "tanh_backward",
        ("grad", "y"),
        FLOATS,
        _pair,
        streaming(3),
        _tanh_backward,
        "grad (1 - y^2), y being the result of tanh",
        elementwise=True,
        outputs=("grad_x",),
        bound=Bound(2, _flanks),
        examples=(example((3, 7), Draw((3, 7), "unit")),),
    ),
    Kernel(
        "silu",
        ("x",),
        FLOATS,
        _one,
        streaming(11),
        _silu,
        "x / (1 + exp(-x))",
        backward="silu_backward",
        elementwise=True,
        bound=Bound(16),
        examples=(example((3, 7)),),
    ),
    Kernel(
        "silu_backward",
        ("grad", "x"),
        FLOATS,
        _pair,
        streaming(14),
        _silu_backward,
        "gradient of silu",
        elementwise=True,
        outputs=("grad_x",),
        bound=Bound(16, _gelu_sizes),
        examples=(example((3, 7), (3, 7)),),
    ),
    Kernel(
        "swiglu",
        ("gate", "up"),
        FLOATS,
        _pair,
        streaming(12),
        _swiglu,
        "silu(gate) up",
        backward="swiglu_backward",
        elementwise=True,
        bound=Bound(16, _gated, 2),
        examples=(example((3, 7), (3, 7)),),
    ),
    Kernel(
        "swiglu_backward",
        ("grad", "gate", "up"),
        FLOATS,
        _swiglu_backward_shape,
        streaming(18),
        _swiglu_backward,
        "gradients of gate and up",
        outputs=("grad_gate", "grad_up"),
        bound=Bound(16, _swiglu_sizes, degree=3),
        examples=(example((3, 7), (3, 7), (3, 7)),),
    ),
)
