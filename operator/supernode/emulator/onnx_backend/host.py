"""Operators that the host computes: what the device has no kernel for, and arithmetic on shapes.

Flows in: a node and values. Flows out: values, computed by the reference implementation of the `onnx` package in this
process (no code ever goes to the sidecar). An operator of the model that is computed here obeys the device's rules all
the same: its inputs come from device memory and its results go there, each copy takes its time on the device's clock,
and so does a launch that stands for the operator and costs one pass over its inputs and results. Arithmetic on shapes
costs nothing, as everywhere: it is the host's own work. Not here: operators with kernels (`operators`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from supernode.emulator.onnx_backend.graph import Node
from supernode.emulator.onnx_backend.values import AnyArray, Tensor, Value, from_host, to_host
from supernode.errors import ModelError

#: Operators that are arithmetic on shapes when all they are given is whole numbers that the host knows anyway.
SHAPE_ARITHMETIC: Final = frozenset(
    (
        "Abs",
        "Add",
        "And",
        "Cast",
        "Concat",
        "ConstantOfShape",
        "Div",
        "Equal",
        "Expand",
        "Flatten",
        "Gather",
        "Greater",
        "GreaterOrEqual",
        "Identity",
        "Less",
        "LessOrEqual",
        "Max",
        "Min",
        "Mod",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "Range",
        "ReduceMax",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "Reshape",
        "ScatterND",
        "Sign",
        "Slice",
        "Split",
        "Squeeze",
        "Sub",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Where",
    )
)
#: Elements up to which numbers count as a shape.
SHAPE_ELEMENTS: Final = 64


def is_shape(value: Value) -> bool:
    """Whether a value is the result of arithmetic on shapes, small enough to go on with it."""
    return isinstance(value, Tensor) and value.shapely and value.size <= SHAPE_ELEMENTS


def constant_is_shape(array: AnyArray) -> bool:
    """Whether a constant may take part in arithmetic on shapes."""
    return array.dtype.kind in "iub" and array.size <= SHAPE_ELEMENTS


def make_evaluator(node: Node) -> Any:
    """The reference implementation of one node.

    Raises:
        ModelError: there is none.
    """
    names = [name for name in dict.fromkeys(node.inputs) if name]
    graph = onnx.GraphProto()
    graph.name = node.name
    graph.node.append(node.proto)
    for name in names:
        graph.input.append(helper.make_value_info(name, onnx.TypeProto()))
    for name in node.outputs:
        if name:
            graph.output.append(helper.make_value_info(name, onnx.TypeProto()))
    domain = node.proto.domain
    opsets = {domain: node.version, "": node.version if not node.domain else onnx.defs.onnx_opset_version()}
    try:
        return ReferenceEvaluator(graph, opsets=opsets)
    except (NotImplementedError, RuntimeError, TypeError, ValueError, AttributeError, ImportError) as exc:
        where = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        raise ModelError(
            f"the operator {where} (operator set {node.version}) has neither a kernel nor a reference implementation",
            obj=str(node),
        ) from exc


def compute(node: Node, evaluator: Any, values: Sequence[Value]) -> list[Value]:
    """Run the reference implementation of a node on the host.

    Raises:
        ModelError: it fails; the message says how.
    """
    feeds = {name: to_host(value) for name, value in zip(node.inputs, values, strict=False) if name}
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = evaluator.run(None, feeds)
    except Exception as exc:  # the reference raises whatever its NumPy code does
        raise ModelError(f"the reference implementation fails: {exc}") from exc
    results = iter(found)
    return [from_host(next(results)) if name else None for name in node.outputs]
