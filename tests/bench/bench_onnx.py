"""ONNX models on the emulated device beside the reference implementation of the `onnx` package, alternating in one run.

The models are two that the package ships (their weights are made up when they run) and a transformer's layer, built
here. Each figure is the reference's time divided by ours, the best of several runs each; preparing is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tests.bench.case import Case

from supernode.emulator import onnx_backend

RUNS = 3
LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"


def layer(tokens: int = 256, hidden: int = 512, heads: int = 8) -> Any:
    """Self-attention and a feed-forward part, with operators of set 23."""
    rng = np.random.default_rng(1)

    def weight(name: str, *shape: int) -> Any:
        return numpy_helper.from_array((rng.standard_normal(shape) * 0.02).astype(np.float32), name)

    constants = [weight(name, hidden, hidden) for name in ("wq", "wk", "wv", "wo")]
    constants += [weight("w1", hidden, 4 * hidden), weight("w2", 4 * hidden, hidden), weight("g", hidden)]
    nodes = [
        helper.make_node("RMSNormalization", ["x", "g"], ["n"]),
        *(helper.make_node("MatMul", ["n", f"w{part}"], [part]) for part in "qkv"),
        helper.make_node("Attention", ["q", "k", "v"], ["a"], is_causal=1, q_num_heads=heads, kv_num_heads=heads),
        helper.make_node("MatMul", ["a", "wo"], ["o"]),
        helper.make_node("Add", ["x", "o"], ["r"]),
        helper.make_node("RMSNormalization", ["r", "g"], ["m"]),
        helper.make_node("MatMul", ["m", "w1"], ["wide"]),
        helper.make_node("Gelu", ["wide"], ["bent"]),
        helper.make_node("MatMul", ["bent", "w2"], ["narrow"]),
        helper.make_node("Add", ["r", "narrow"], ["y"]),
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, tokens, hidden]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "layer", info[:1], info[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])


def ratio(model: Any) -> float:
    """How many times faster than the reference a run is."""
    prepared, reference = onnx_backend.prepare(model), ReferenceEvaluator(model)
    first = next(info for info in model.graph.input if info.name == prepared.input_names[0])
    shape = [dim.dim_value for dim in first.type.tensor_type.shape.dim]
    feeds = {first.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    ours, theirs = [], []
    for _ in range(RUNS):
        for times, run in ((ours, lambda: prepared.run(feeds)), (theirs, lambda: reference.run(None, feeds))):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return min(theirs) / min(ours)


def cases() -> Iterable[Case]:
    """One figure per model; the goal is to be no slower."""
    models = {"transformer layer 256 x 512": layer()}
    for name in ("squeezenet", "shufflenet"):
        models[name] = onnx.load(LIGHT / f"light_{name}.onnx")
    for name, model in models.items():
        yield Case(f"onnx: {name}, times the reference implementation", round(ratio(model), 2), "x", 1.0, "higher")
