"""Nodes that run graphs: branches, loops, scans, a graph for each item of a sequence.

Flows in: conditions, counts, values that a loop carries. Flows out: values. The host decides which graph runs, and
asks the device where only it knows the condition. Not here: the graphs' own nodes (`execute`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from supernode.emulator.client import Array
from supernode.emulator.onnx_backend.call import Call, Lowering, known
from supernode.emulator.onnx_backend.graph import Graph
from supernode.emulator.onnx_backend.operators.sequence import items
from supernode.emulator.onnx_backend.values import STRING, Tensor, Value
from supernode.errors import ModelError

#: Turns of a loop without a bound; a model that needs more has a fault.
_ENDLESS: Final = 1 << 24


def _if(call: Call) -> Any:
    chosen: Graph = call.get("then_branch" if bool(call.scalar(0)) else "else_branch")
    return call.run_graph(chosen, ())


def stack(call: Call, values: list[Value], axis: int = 0) -> Tensor:
    """Values of one shape along a new axis."""
    first = values[0]
    if not isinstance(first, Tensor):
        raise ModelError("a loop can only collect tensors")
    if first.dtype == STRING or all(value.host is not None and value.size <= 1 for value in values):
        return known(np.stack([value.value() for value in values], axis))
    arrays: list[Array] = []
    for value in values:
        array = value.on(call.device)
        place = axis + len(array.shape) + 1 if axis < 0 else axis
        arrays.append(array.reshape([*array.shape[:place], 1, *array.shape[place:]]))
    place = axis + len(arrays[0].shape) if axis < 0 else axis
    return call.out(call.launch("concatenate", *arrays, axis=place), first.dtype)


def _nothing_collected(body: Graph, name: str) -> Tensor:
    """What a loop without a turn has collected: no rows of the shape that the graph says."""
    kind = body.types[name].tensor_type if name in body.types else None
    from supernode.emulator.onnx_backend.operators.creation import element_type

    dtype = element_type(kind.elem_type) if kind is not None and kind.elem_type else np.dtype(np.float32)
    sizes = [] if kind is None else [dim.dim_value for dim in kind.shape.dim]
    return known(np.zeros((0, *sizes), dtype))


def _loop(call: Call) -> Any:
    body: Graph = call.get("body")
    limit = int(call.scalar(0)) if call.has(0) else _ENDLESS
    go_on = bool(call.scalar(1)) if call.has(1) else True
    carried = list(call.inputs[2:])
    collected: list[list[Value]] = [[] for _ in body.outputs[1 + len(carried) :]]
    turn = 0
    while go_on and turn < limit:
        given = [known(np.asarray(turn, np.int64), shapely=True), known(np.asarray(True)), *carried]
        condition, *results = call.run_graph(body, given)
        carried = results[: len(carried)]
        for column, value in zip(collected, results[len(carried) :], strict=True):
            column.append(value)
        turn += 1
        go_on = bool(condition.value().reshape(-1)[0])
    names = body.outputs[1 + len(carried) :]
    return [
        *carried,
        *(stack(call, c) if c else _nothing_collected(body, n) for c, n in zip(collected, names, strict=True)),
    ]


def _scan(call: Call) -> Any:
    if call.version < 9:
        return _scan_of_batches(call)
    body: Graph = call.get("body")
    count = int(call.get("num_scan_inputs"))
    state = list(call.inputs[: len(call.inputs) - count])
    columns = call.inputs[len(state) :]
    axes = call.get("scan_input_axes", [0] * count)
    directions = call.get("scan_input_directions", [0] * count)
    many = len(body.outputs) - len(state)
    out_axes = call.get("scan_output_axes", [0] * many)
    out_directions = call.get("scan_output_directions", [0] * many)
    state, collected = _scan_rows(call, body, state, list(columns), list(axes), list(directions))
    results = [
        stack(call, values[::-1] if backwards else values, axis)
        for values, axis, backwards in zip(collected, out_axes, out_directions, strict=True)
    ]
    return [*state, *results]


def _scan_rows(
    call: Call, body: Graph, state: list[Value], columns: list[Value], axes: list[int], directions: list[int]
) -> tuple[list[Value], list[list[Value]]]:
    arrays = [column.on(call.device) for column in columns]
    axes = [axis % len(array.shape) for axis, array in zip(axes, arrays, strict=True)]
    length = arrays[0].shape[axes[0]]
    collected: list[list[Value]] = [[] for _ in body.outputs[len(state) :]]
    for turn in range(length):
        rows = []
        for column, array, axis, backwards in zip(columns, arrays, axes, directions, strict=True):
            place = length - 1 - turn if backwards else turn
            cut = call.launch("slice", array, start=place, stop=place + 1, axis=axis)
            rows.append(call.out(cut.reshape([*array.shape[:axis], *array.shape[axis + 1 :]]), column.dtype))
        results = call.run_graph(body, [*state, *rows])
        state = results[: len(state)]
        for values, value in zip(collected, results[len(state) :], strict=True):
            values.append(value)
    return state, collected


def _scan_of_batches(call: Call) -> Any:
    """Operator set 8: a scan for each element of the batch, which is the first axis of everything."""
    body: Graph = call.get("body")
    count = int(call.get("num_scan_inputs"))
    given = [value for value in call.inputs[1:] if isinstance(value, Tensor)]
    if call.has(0) or any(call.get("directions", [0] * count)):
        return NotImplemented
    arrays = [value.on(call.device) for value in given]
    rows: list[list[Value]] = []
    for turn in range(arrays[0].shape[0]):
        one = []
        for value, array in zip(given, arrays, strict=True):
            cut = call.launch("slice", array, start=turn, stop=turn + 1, axis=0)
            one.append(call.out(cut.reshape(list(array.shape[1:])), value.dtype))
        states = len(one) - count
        state, collected = _scan_rows(call, body, one[:states], one[states:], [0] * count, [0] * count)
        rows.append([*state, *(stack(call, values) for values in collected)])
    return [stack(call, list(column)) for column in zip(*rows, strict=True)]


def _sequence_map(call: Call) -> Any:
    body: Graph = call.get("body")
    first = items(call)
    columns: list[list[Value]] = [[] for _ in body.outputs]
    for place in range(len(first)):
        given = [value[place] if isinstance(value, list) else value for value in call.inputs]
        for column, value in zip(columns, call.run_graph(body, given), strict=True):
            column.append(value)
    return columns


OPERATORS: Final[Mapping[str, Lowering]] = {
    "If": _if,
    "Loop": _loop,
    "Scan": _scan,
    "SequenceMap": _sequence_map,
}
