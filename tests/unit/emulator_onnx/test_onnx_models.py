"""Models as people export them, against the reference implementation; memory, time and failures of a run."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from supernode.chips import find_chip
from supernode.emulator import onnx_backend
from supernode.emulator.client import Device
from supernode.emulator.kernels import TABLE, Spec
from supernode.emulator.onnx_backend import Profile
from supernode.emulator.onnx_backend.operators.recurrent import OPERATORS as RECURRENT
from supernode.emulator.runtime.clock import CostModel
from supernode.errors import ChipError, InputError, KernelError, ModelError, OutOfDeviceMemoryError

RNG = np.random.default_rng(7)
CHIP = "hygon-bw1000"


def weights(**shapes: tuple[int, ...]) -> list[Any]:
    scale = {name: 1 / np.sqrt(max(np.prod(shape[1:]), 1)) for name, shape in shapes.items()}
    return [
        numpy_helper.from_array((RNG.standard_normal(shape) * scale[name]).astype(np.float32), name)
        for name, shape in shapes.items()
    ]


def model(
    nodes: list[Any],
    inputs: dict[str, tuple[Any, ...]],
    outputs: list[str],
    constants: list[Any] = (),  # type: ignore[assignment]
    *,
    opset: int = 20,
    dtype: int = TensorProto.FLOAT,
    functions: list[Any] = (),  # type: ignore[assignment]
) -> Any:
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [helper.make_value_info(name, onnx.TypeProto()) for name in outputs],
        list(constants),
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(f.domain, 1) for f in functions)]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions))


def residual_block() -> tuple[Any, dict[str, Any]]:
    """Two convolutions with batch norms, a shortcut, pooling and a classifier."""
    channels = ("one", "two", "short")
    constants = weights(w1=(16, 8, 3, 3), w2=(16, 16, 3, 3), ws=(16, 8, 1, 1), fc=(10, 16), fb=(10,))
    for name in channels:
        for part in ("scale", "bias", "mean"):
            constants += weights(**{f"{name}_{part}": (16,)})
        constants.append(numpy_helper.from_array(RNG.random(16).astype(np.float32) + 0.5, f"{name}_var"))

    def norm(x: str, name: str, out: str) -> Any:
        return helper.make_node(
            "BatchNormalization", [x, *(f"{name}_{p}" for p in ("scale", "bias", "mean", "var"))], [out]
        )

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        norm("a", "one", "b"),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "w2"], ["d"], auto_pad="SAME_UPPER"),
        norm("d", "two", "e"),
        helper.make_node("Conv", ["x", "ws"], ["s"], strides=[2, 2]),
        norm("s", "short", "t"),
        helper.make_node("Add", ["e", "t"], ["f"]),
        helper.make_node("Relu", ["f"], ["g"]),
        helper.make_node("GlobalAveragePool", ["g"], ["h"]),
        helper.make_node("Flatten", ["h"], ["i"]),
        helper.make_node("Gemm", ["i", "fc", "fb"], ["y"], transB=1),
    ]
    return model(nodes, {"x": (2, 8, 16, 16)}, ["y"], constants), {"x": normal(2, 8, 16, 16)}


def transformer_block() -> tuple[Any, dict[str, Any]]:
    """Self-attention with shapes computed on the way, as exporters write it, and a feed-forward part."""
    hidden, heads = 32, 4
    constants = weights(
        wq=(hidden, hidden), wk=(hidden, hidden), wv=(hidden, hidden), wo=(hidden, hidden),
        w1=(hidden, 4 * hidden), w2=(4 * hidden, hidden), g1=(hidden,), b1=(hidden,), g2=(hidden,), b2=(hidden,),
    )  # fmt: skip
    for name, value in (("zero", 0), ("one", 1), ("heads", heads), ("size", hidden // heads)):
        constants.append(numpy_helper.from_array(np.array([value], np.int64), name))
    constants.append(numpy_helper.from_array(np.array(np.sqrt(hidden // heads), np.float32), "root"))
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Gather", ["shape", "one"], ["tokens"]),
        helper.make_node("Concat", ["batch", "tokens", "heads", "size"], ["apart"], axis=0),
        helper.make_node("Mul", ["heads", "size"], ["width"]),
        helper.make_node("Concat", ["batch", "tokens", "width"], ["together"], axis=0),
        helper.make_node("LayerNormalization", ["x", "g1", "b1"], ["n"]),
    ]
    for name, axes in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes += [
            helper.make_node("MatMul", ["n", f"w{name}"], [f"{name}0"]),
            helper.make_node("Reshape", [f"{name}0", "apart"], [f"{name}1"]),
            helper.make_node("Transpose", [f"{name}1"], [f"{name}2"], perm=axes),
        ]
    nodes += [
        helper.make_node("MatMul", ["q2", "k2"], ["scores"]),
        helper.make_node("Div", ["scores", "root"], ["scaled"]),
        helper.make_node("Softmax", ["scaled"], ["chances"], axis=-1),
        helper.make_node("MatMul", ["chances", "v2"], ["seen"]),
        helper.make_node("Transpose", ["seen"], ["back"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["back", "together"], ["flat"]),
        helper.make_node("MatMul", ["flat", "wo"], ["projected"]),
        helper.make_node("Add", ["x", "projected"], ["r"]),
        helper.make_node("LayerNormalization", ["r", "g2", "b2"], ["m"]),
        helper.make_node("MatMul", ["m", "w1"], ["wide"]),
        helper.make_node("Gelu", ["wide"], ["active"]),
        helper.make_node("MatMul", ["active", "w2"], ["narrow"]),
        helper.make_node("Add", ["r", "narrow"], ["y"]),
    ]
    return model(nodes, {"x": ("batch", "tokens", hidden)}, ["y"], constants), {"x": normal(2, 5, hidden)}


def bidirectional_lstm() -> tuple[Any, dict[str, Any]]:
    constants = weights(w=(2, 24, 4), r=(2, 24, 6), b=(2, 48), h=(2, 3, 6), c=(2, 3, 6))
    constants.append(numpy_helper.from_array(np.array([5, 2, 4], np.int32), "lengths"))
    nodes = [
        helper.make_node(
            "LSTM", ["x", "w", "r", "b", "", "h", "c"], ["y", "last", "cell"], hidden_size=6, direction="bidirectional"
        )
    ]
    return model(nodes, {"x": (5, 3, 4)}, ["y", "last", "cell"], constants), {"x": normal(5, 3, 4)}


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


ARCHITECTURES = {"resnet": residual_block, "transformer": transformer_block, "lstm": bidirectional_lstm}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gives_what_the_reference_gives_on_the_device_alone(name: str) -> None:
    proto, feeds = ARCHITECTURES[name]()
    prepared = onnx_backend.prepare(proto)
    profile = Profile(prepared.device)
    found = prepared.run(feeds, profile=profile)
    for one, other in zip(found, ReferenceEvaluator(proto).run(None, feeds), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)
    assert {row.where for row in profile.rows.values()} <= {"device", "shapes", "copy"}
    assert [row.operator for row in profile.rows.values() if row.where != "copy"] == [
        n.op_type for n in proto.graph.node
    ]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_device_time_is_the_sum_over_the_launches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proto, feeds = ARCHITECTURES[name]()
    prepared = onnx_backend.prepare(proto, chip=CHIP)
    costs = CostModel(find_chip(CHIP))
    seconds, launched = [], Device.launch

    def launch(self: Device, kernel: str, *arrays: Any, **attributes: Any) -> Any:
        plan = TABLE.plan(kernel, tuple(a.spec for a in arrays if hasattr(a, "spec")), attributes)
        seconds.append(costs.seconds(plan.cost))
        return launched(self, kernel, *arrays, **attributes)

    monkeypatch.setattr(Device, "launch", launch)
    profile = Profile(prepared.device)
    prepared.run(feeds, profile=profile)
    rows = [row for row in profile.rows.values() if row.where == "device"]
    assert sum(row.seconds for row in rows) == pytest.approx(sum(seconds), rel=1e-9)
    assert sum(row.launches for row in rows) == len(seconds) > 0
    assert profile.seconds == pytest.approx(sum(row.seconds for row in profile.rows.values()), rel=1e-9)


def test_the_same_run_takes_the_same_time() -> None:
    proto, feeds = transformer_block()
    prepared = onnx_backend.prepare(proto)
    times = []
    for _ in range(3):
        profile = Profile(prepared.device)
        prepared.run(feeds, profile=profile)
        times.append(profile.seconds)
    assert times[1] == pytest.approx(times[0], rel=1e-9)
    assert times[2] == pytest.approx(times[0], rel=1e-9)


def test_results_leave_no_memory_behind() -> None:
    proto, feeds = residual_block()
    prepared = onnx_backend.prepare(proto, chip=CHIP, memory_bytes=64 << 20)
    in_use = []
    for _ in range(4):
        prepared.run(feeds)
        in_use.append(prepared.device.memory().in_use)
    assert len(set(in_use[1:])) == 1
    device = prepared.device
    del prepared
    gc.collect()
    assert device.memory().in_use < in_use[-1]


def test_a_value_is_dropped_after_its_last_use() -> None:
    """Thirty results of 1 MiB one after the other need room for a few, not for thirty."""
    size = (1 << 20) // 4
    nodes = [helper.make_node("Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(30)]
    prepared = onnx_backend.prepare(model(nodes, {"v0": (size,)}, ["v30"]), chip=CHIP, memory_bytes=9 << 20)
    (y,) = prepared.run([np.ones(size, np.float32)])
    assert y[0] == 1
    assert prepared.device.memory().peak < 6 << 20


def test_out_of_memory_says_how_much_and_where() -> None:
    """The weights fit; the second product does not."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="small"),
        helper.make_node("Expand", ["a", "shape"], ["b"], name="large"),
        helper.make_node("ReduceSum", ["b"], ["y"], name="sum", keepdims=0),
    ]
    constants = [*weights(w=(64, 64)), numpy_helper.from_array(np.array([4096, 64, 64], np.int64), "shape")]
    prepared = onnx_backend.prepare(model(nodes, {"x": (64, 64)}, ["y"], constants), chip=CHIP, memory_bytes=1 << 20)
    with pytest.raises(OutOfDeviceMemoryError, match=r"node 'large' \(Expand\).*64 MiB.*1 MiB"):
        prepared.run([normal(64, 64)])
    # The device goes on.
    shown = onnx_backend.prepare(
        model(nodes[:1], {"x": (64, 64)}, ["a"], constants[:1]), chip=CHIP, memory_bytes=1 << 20
    )
    assert shown.run([normal(64, 64)])[0].shape == (64, 64)


def test_bf16_is_rounded_once_per_operator() -> None:
    import ml_dtypes

    nodes = [helper.make_node("MatMul", ["a", "b"], ["c"]), helper.make_node("Add", ["c", "c"], ["y"])]
    inputs = {"a": (8, 64), "b": (64, 8)}
    proto = model(nodes, inputs, ["y"], dtype=TensorProto.BFLOAT16)
    a, b = (normal(*shape).astype(ml_dtypes.bfloat16) for shape in inputs.values())
    (y,) = onnx_backend.run_model(proto, [a, b])
    exact = (a.astype(np.float32) @ b.astype(np.float32)).astype(ml_dtypes.bfloat16)
    assert y.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(y.astype(np.float32), 2 * exact.astype(np.float32))


def test_a_loop_over_a_branch_and_a_function() -> None:
    """Doubles x three times, then adds 1, 2 or 3 by the number of turns; the function has an attribute."""
    scaled = helper.make_function(
        "own", "Scaled", ["a"], ["b"],
        [helper.make_node("Constant", [], ["k"]), helper.make_node("Mul", ["a", "k"], ["b"])],
        [helper.make_opsetid("", 20)], attributes=["by"],
    )  # fmt: skip
    scaled.node[0].attribute.append(
        onnx.AttributeProto(name="value_float", ref_attr_name="by", type=onnx.AttributeProto.FLOAT)
    )
    value = helper.make_tensor_value_info
    even = helper.make_graph([helper.make_node("Add", ["w", "w"], ["then"])], "even", [], [value("then", 1, None)])
    odd = helper.make_graph([helper.make_node("Neg", ["w"], ["else"])], "odd", [], [value("else", 1, None)])
    body = helper.make_graph(
        [
            helper.make_node("Scaled", ["v"], ["w"], domain="own", by=2.0),
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Cast", ["turn"], ["flag"], to=TensorProto.BOOL),
            helper.make_node("If", ["flag"], ["each"], then_branch=even, else_branch=odd),
        ],
        "body",
        [value("turn", 7, []), value("go", 9, []), value("v", 1, [2])],
        [value("on", 9, []), value("w", 1, [2]), value("each", 1, [2])],
    )
    nodes = [helper.make_node("Loop", ["count", "", "x"], ["y", "all"], body=body)]
    proto = model(nodes, {"x": (2,)}, ["y", "all"], [numpy_helper.from_array(np.array(3), "count")], functions=[scaled])
    y, every = onnx_backend.run_model(proto, [np.array([1, -3], np.float32)])
    np.testing.assert_array_equal(y, [8, -24])
    np.testing.assert_array_equal(every, [[-2, 6], [8, -24], [16, -48]])


def test_strings_and_sequences_stay_with_the_host() -> None:
    nodes = [
        helper.make_node("StringConcat", ["a", "b"], ["c"]),
        helper.make_node("SplitToSequence", ["x"], ["parts"], axis=0),
        helper.make_node("SequenceLength", ["parts"], ["n"]),
    ]
    proto = model(nodes, {"x": (3, 2)}, ["c", "parts", "n"])
    for name in ("a", "b"):
        proto.graph.input.append(helper.make_tensor_value_info(name, TensorProto.STRING, [1]))
    words = np.array(["super"], object), np.array(["node"], object)
    found = onnx_backend.run_model(proto, {"x": normal(3, 2), "a": words[0], "b": words[1]})
    assert found["c"].tolist() == ["supernode"]
    assert [part.shape for part in found["parts"]] == [(1, 2)] * 3
    assert found["n"] == 3


def test_host_operators_obey_the_device() -> None:
    """An operator without a kernel takes device time and device memory all the same."""
    node = helper.make_node("Unique", ["x"], ["y"], name="rows", axis=0)
    prepared = onnx_backend.prepare(model([node], {"x": (3000, 5)}, ["y"]))
    profile = Profile(prepared.device)
    (y,) = prepared.run([normal(3000, 5)], profile=profile)
    assert y.shape == (3000, 5)
    row = next(row for row in profile.rows.values() if row.name == "rows")
    assert (row.where, row.launches) == ("host", 1)
    assert row.bytes_moved == 2 * 3000 * 5 * 4
    # A launch that costs a pass over both, and two copies that come on top.
    specs = (Spec("f32", (3000, 5)),) * 2
    pass_over_both = CostModel(find_chip(CHIP)).seconds(TABLE.plan("host_operator", specs, {}).cost)
    assert row.seconds > pass_over_both > 0


def test_unknown_operators_are_named() -> None:
    proto = model([helper.make_node("Frobnicate", ["x"], ["y"], name="odd", domain="own")], {"x": (2,)}, ["y"])
    proto.opset_import.append(helper.make_opsetid("own", 1))
    with pytest.raises(ModelError, match=r"node 'odd' \(Frobnicate\).*own.Frobnicate"):
        onnx_backend.prepare(proto)
    assert not onnx_backend.is_compatible(proto)


def test_errors_name_the_node() -> None:
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y"], name="product")]
    with pytest.raises(KernelError, match=r"node 'product' \(MatMul\).*inner sizes differ"):
        onnx_backend.run_model(model(nodes, {"x": (2, 3)}, ["y"]), [normal(2, 3)])


def test_a_missing_figure_of_the_chip_names_the_node_that_needs_it() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("MatMul", ["a", "a"], ["y"], name="product")]
    prepared = onnx_backend.prepare(model(nodes, {"x": (4, 4)}, ["y"]), chip="huawei-ascend-910b3")
    with pytest.raises(ChipError, match=r"node 'product' \(MatMul\).*f32 peak of chip huawei-ascend-910b3"):
        prepared.run([normal(4, 4)])


def test_inputs_are_checked() -> None:
    proto, feeds = residual_block()
    prepared = onnx_backend.prepare(proto)
    with pytest.raises(InputError, match="no value for x"):
        prepared.run({})
    with pytest.raises(InputError, match="no input is called z"):
        prepared.run({**feeds, "z": 1})
    with pytest.raises(InputError, match=r"input x is float32\[2,8,16,16\], but float64\[2, 8, 16, 16\] came"):
        prepared.run([feeds["x"].astype(np.float64)])
    with pytest.raises(InputError, match=r"but float32\[1, 8, 16, 16\] came"):
        prepared.run([feeds["x"][:1]])
    with pytest.raises(InputError, match="2 inputs came"):
        prepared.run([feeds["x"]] * 2)
    with pytest.raises(InputError, match="device 'CUDA'"):
        onnx_backend.prepare(proto, "CUDA")
    with pytest.raises(InputError, match="no device 3"):
        onnx_backend.prepare(proto, "HCU:3")
    assert onnx_backend.supports_device("HCU:1")
    assert not onnx_backend.supports_device("CUDA")


def test_one_node() -> None:
    x = normal(3, 4)
    (y,) = onnx_backend.run_node(helper.make_node("Softmax", ["x"], ["y"], axis=0), [x])
    np.testing.assert_allclose(y.sum(axis=0), 1, rtol=1e-6)
    (y,) = onnx_backend.run_node(helper.make_node("Softmax", ["x"], ["y"], axis=0), [x], opset_version=11)
    np.testing.assert_allclose(y.sum(), 1, rtol=1e-6)


def test_a_result_is_never_the_callers_own_array() -> None:
    x = normal(3)
    (y,) = onnx_backend.run_node(helper.make_node("Identity", ["x"], ["y"]), [x])
    y[:] = 0
    assert x.any()


def test_every_recurrent_layer_is_here() -> None:
    assert set(RECURRENT) == {"RNN", "GRU", "LSTM"}
