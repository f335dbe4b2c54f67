"""Operators with random shapes and attributes against the reference implementation.

Left out is where the reference is not right: softmax before set 13 (it ignores that all axes from there on are meant),
pooling over one axis (it ignores padding), cubic sampling with the border repeated (PyTorch agrees with us), slices
backwards from before the first element (see `test_slices_backwards`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from supernode.emulator import onnx_backend

Case = tuple[str, list[Any], dict[str, Any], int]
OUTPUTS = {"TopK": 2, "Split": 3, "LSTM": 3, "GRU": 2, "RNN": 2, "LayerNormalization": 3}
REDUCTIONS = "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSumExp ReduceSumSquare"
CONVERTED = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT32, TensorProto.BOOL, TensorProto.FLOAT8E4M3FN)


class Maker:
    """Draws shapes and arrays."""

    def __init__(self, seed: int) -> None:
        self.pick, self.numbers = random.Random(seed), np.random.default_rng(seed)

    def shape(self, axes: int) -> tuple[int, ...]:
        return tuple(self.pick.randint(1, 6) for _ in range(axes))

    def part(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A shape that broadcasts to another."""
        return tuple(1 if self.pick.random() < 0.3 else n for n in shape[self.pick.randint(0, len(shape)) :])

    def floats(self, *shape: int) -> Any:
        return (self.numbers.standard_normal(shape) * 2).astype(np.float32)

    def whole(self, shape: tuple[int, ...], low: int, high: int) -> Any:
        return self.numbers.integers(low, high, shape)

    def flag(self) -> int:
        return self.pick.randint(0, 1)


def elements(m: Maker) -> Iterator[Case]:
    """Element by element, along axes, by number."""
    count = m.pick.randint(1, 4)
    shape, axis = m.shape(count), m.pick.randrange(-count, count)
    some = m.pick.sample(range(count), m.pick.randint(1, count))
    yield "Softmax", [m.floats(*shape)], {"axis": axis}, 13
    yield m.pick.choice(REDUCTIONS.split()), [m.floats(*shape), np.array(some)], {"keepdims": m.flag()}, 18
    ends = {"axis": axis, "keepdims": m.flag(), "select_last_index": m.flag()}
    yield m.pick.choice(["ArgMax", "ArgMin"]), [m.floats(*shape)], ends, 13
    positive = [np.abs(m.floats(*s)) + 0.1 for s in (shape, m.part(shape))]
    yield m.pick.choice(["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"]), positive, {}, 13
    yield "Div", [m.whole(shape, 0, 9), m.whole(m.part(shape), 1, 9)], {}, 13
    yield "Mod", [m.whole(shape, -9, 9), m.whole(m.part(shape), 1, 9)], {}, 13
    yield "Mod", [m.floats(*shape), m.floats(*m.part(shape))], {"fmod": 1}, 13
    steps = np.array([m.pick.choice([1, 2, 3]) for _ in range(count)])
    yield "Slice", [m.floats(*shape), *(m.whole((count,), -7, 8) for _ in range(2)), np.arange(count), steps], {}, 13
    places = m.whole(m.shape(m.pick.randint(0, 2)), -shape[axis], shape[axis])
    yield "Gather", [m.floats(*shape), places], {"axis": axis}, 13
    every = m.whole(shape, 0, shape[axis])
    kind = m.pick.choice(["add", "mul", "max", "min"])
    yield "ScatterElements", [m.floats(*shape), every, m.floats(*shape)], {"axis": axis, "reduction": kind}, 18
    yield "GatherND", [m.floats(*shape), m.whole((2, m.pick.randint(1, count)), 0, min(shape))], {}, 13
    yield "Transpose", [m.floats(*shape)], {"perm": m.pick.sample(range(count), count)}, 13
    yield "Pad", [m.floats(*shape), m.whole((2 * count,), 0, 4), np.float32(1.5)], {"mode": "constant"}, 19
    edges = np.array([m.pick.randint(0, n - 1) for n in shape] * 2)
    yield "Pad", [m.floats(*shape), edges], {"mode": m.pick.choice(["edge", "reflect"])}, 19
    yield "Tile", [m.floats(*shape), m.whole((count,), 1, 4)], {}, 13
    yield "CumSum", [m.floats(*shape), np.array(axis)], {"exclusive": m.flag(), "reverse": m.flag()}, 14
    most = np.array([m.pick.randint(1, shape[axis])])
    yield "TopK", [m.floats(*shape), most], {"axis": axis, "largest": m.flag()}, 11
    hot = [m.whole(shape, -3, 3), np.array(5), np.array([0, 2.5], np.float32)]
    yield "OneHot", hot, {"axis": m.pick.randrange(-count - 1, count + 1)}, 13
    behind = shape[axis % count :]
    yield "LayerNormalization", [m.floats(*shape), m.floats(*behind), m.floats(*behind)], {"axis": axis}, 17
    yield "Trilu", [m.floats(*m.shape(3)), np.array(m.pick.randint(-5, 5))], {"upper": m.flag()}, 14
    yield "Cast", [m.floats(*shape) * 50], {"to": m.pick.choice(CONVERTED)}, 19
    zero = np.array(3, m.pick.choice([np.int8, np.uint8, np.int16]))
    yield "QuantizeLinear", [m.floats(*shape), np.float32(0.1), zero], {}, 21
    yield "Split", [m.floats(7), np.array([3, 0, 4])], {}, 13


def images(m: Maker) -> Iterator[Case]:
    """Windows, products, resizing, recurrent layers."""
    channels, groups, sizes = m.pick.choice([2, 4]), m.pick.choice([1, 2]), [m.pick.randint(5, 9) for _ in range(2)]
    kernel = [m.pick.randint(1, 3) for _ in range(2)]
    way: dict[str, Any] = {name: [m.pick.randint(1, 2) for _ in range(2)] for name in ("strides", "dilations")}
    pads = [m.pick.randint(0, 2) for _ in range(4)]
    x = m.floats(2, channels, *sizes)
    weight = m.floats(4, channels // groups, *kernel)
    yield "Conv", [x, weight, m.floats(4)], {**way, "pads": pads, "group": groups}, 11
    # In one group: the reference cannot do more.
    cut = [min(n, k - 1) for n, k in zip(pads, kernel * 2, strict=True)]
    transposed = {"strides": way["strides"], "pads": cut}
    yield "ConvTranspose", [x, m.floats(channels, 3, *kernel), m.floats(3)], transposed, 11
    window = {**way, "kernel_shape": [max(2, k) for k in kernel], "pads": [min(n, 1) for n in pads]}
    counted = {**window, "ceil_mode": m.flag(), "count_include_pad": m.flag()}
    yield "AveragePool", [x], counted, 19
    third = m.floats(*m.pick.choice([(5,), (1, 5), (3, 1), (1,), (3, 5), ()]))
    factors = {"alpha": m.pick.choice([1.0, 0.5]), "beta": m.pick.choice([1.0, 2.0])}
    yield "Gemm", [m.floats(3, 4), m.floats(4, 5), third], factors, 13
    shape = m.shape(2)
    yield "MatMul", [m.floats(*m.part(shape), 3, 4), m.floats(*shape, 4, 2)], {}, 13
    words = m.pick.choice(["bij,bjk->bik", "bij,bjk->bk", "bij,bjk", "...ij,...jk->...ik"])
    yield "Einsum", [m.floats(2, 3, 4), m.floats(2, 4, 5)], {"equation": words}, 12
    mode = m.pick.choice(["nearest", "linear", "cubic"])
    at = {"mode": mode, "coordinate_transformation_mode": m.pick.choice(["half_pixel", "asymmetric", "align_corners"])}
    at |= {"nearest_mode": m.pick.choice(["floor", "ceil"])} if mode == "nearest" else {"antialias": m.flag()}
    scales = np.array([1, 1, *(m.pick.choice([0.5, 0.7, 1.3, 2.0, 2.5]) for _ in range(2))], np.float32)
    yield "Resize", [m.floats(1, 2, 7, 6), None, scales], at, 18
    grid = (m.numbers.random((2, 3, 3, 2)) * 2.4 - 1.2).astype(np.float32)
    sampled = {"mode": m.pick.choice(["linear", "nearest"]), "align_corners": m.flag()}
    yield (
        "GridSample",
        [m.floats(2, 3, 5, 4), grid],
        {**sampled, "padding_mode": m.pick.choice(["zeros", "border"])},
        20,
    )
    operator, gates = m.pick.choice([("LSTM", 4), ("GRU", 3), ("RNN", 1)])
    direction, count = m.pick.choice([("forward", 1), ("reverse", 1), ("bidirectional", 2)])
    states = [m.floats(count, gates * 3, 3) * 0.3 for _ in range(2)]
    layer = {"hidden_size": 3, "direction": direction}
    yield operator, [m.floats(4, 2, 3), *states, m.floats(count, 6 * gates)], layer, 14


@pytest.mark.parametrize("seed", range(12))
def test_random(seed: int) -> None:
    maker = Maker(seed)
    for operator, inputs, attributes, version in (*elements(maker), *images(maker)):
        values = {f"x{i}": np.asarray(value) for i, value in enumerate(inputs) if value is not None}
        names = ["" if value is None else f"x{i}" for i, value in enumerate(inputs)]
        outputs = [f"y{i}" for i in range(OUTPUTS.get(operator, 1))]
        graph = helper.make_graph(
            [helper.make_node(operator, names, outputs, **attributes)],
            operator,
            [
                helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
                for n, v in values.items()
            ],
            [helper.make_value_info(name, onnx.TypeProto()) for name in outputs],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
        with np.errstate(all="ignore"):
            expected = ReferenceEvaluator(model).run(None, values)
        words = f"{operator} {attributes} {[v.shape for v in values.values()]}"
        for one, other in zip(onnx_backend.run_model(model, values), map(np.asarray, expected), strict=True):
            assert (one.dtype, one.shape) == (other.dtype, other.shape), words
            wide = (one.astype(np.float64), other.astype(np.float64))
            np.testing.assert_allclose(*wide, rtol=2e-4, atol=2e-5, err_msg=words)


@pytest.mark.parametrize(
    ("start", "stop", "step", "expected"),
    [
        (-9, -9, -1, [0]),
        (9, -9, -2, [4, 2, 0]),
        (3, 0, -1, [3, 2, 1]),
        (0, 9, 2, [0, 2, 4]),
        (-2, 9, 1, [3, 4]),
        (4, 2, 1, []),
    ],
)
def test_slices_backwards(start: int, stop: int, step: int, expected: list[int]) -> None:
    """Backwards the standard brings a start into the axis, where Python gives nothing."""
    node = helper.make_node("Slice", ["x", "a", "b", "", "c"], ["y"])
    (y,) = onnx_backend.run_node(node, [np.arange(5.0), *(np.array([n]) for n in (start, stop, step))])
    assert y.tolist() == expected
