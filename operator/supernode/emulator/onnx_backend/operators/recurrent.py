"""Recurrent layers.

Flows in: sequences, weights, and states to begin with. Flows out: all states and the last ones. Not here: loops of a
model's own (`control`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from supernode.emulator.client import Array
from supernode.emulator.dtypes import FLOATS
from supernode.emulator.onnx_backend.call import Call, Lowering
from supernode.errors import ModelError

_REVERSE: Final = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
_GATES: Final = {"rnn": 1, "gru": 3, "lstm": 4}


def layer(kind: str) -> Lowering:
    """A recurrent layer; what the node leaves out is zero."""

    def lower(call: Call) -> Any:
        x = call.array(0)
        if x.dtype not in FLOATS:
            return NotImplemented
        batch_first = bool(call.get("layout", 0))
        if batch_first:
            x = call.launch("transpose", x, axes=[1, 0, 2])
        w, r = call.array(1), call.array(2)
        (steps, batch, _), (directions, _, hidden) = x.shape, r.shape
        reverse = _REVERSE.get(call.get("direction", "forward"))
        if reverse is None or len(reverse) != directions:
            raise ModelError(f"direction {call.get('direction')!r} does not go with weights for {directions}")

        def given(place: int, shape: list[int]) -> Array:
            made: Array = call.array(place) if call.has(place) else call.launch("zeros", shape=shape, dtype=x.dtype)
            return made

        def state(place: int) -> Array:
            if batch_first and call.has(place):
                turned: Array = call.launch("transpose", call.array(place), axes=[1, 0, 2])
                return turned
            return given(place, [directions, batch, hidden])

        lengths = call.array(4) if call.has(4) else call.launch("full", shape=[batch], value=steps, dtype="i32")
        arrays = [x, w, r, given(3, [directions, 2 * _GATES[kind] * hidden]), call.cast(lengths, "i32"), state(5)]
        if kind == "lstm":
            arrays += [state(6), given(7, [directions, 3 * hidden])]
        found = call.launch(
            kind,
            *arrays,
            reverse=reverse,
            activations=call.get("activations"),
            alphas=call.get("activation_alpha", []),
            betas=call.get("activation_beta", []),
            clip=float(call.get("clip", 0.0)),
            linear_before_reset=bool(call.get("linear_before_reset", 0)),
            input_forget=bool(call.get("input_forget", 0)),
        )
        every, *last = found
        if batch_first:
            every = call.launch("transpose", every, axes=[2, 0, 1, 3])
            last = [call.launch("transpose", array, axes=[1, 0, 2]) for array in last]
        return [call.out(array) for array in (every, *last)]

    return lower


OPERATORS: Final[Mapping[str, Lowering]] = {"RNN": layer("rnn"), "GRU": layer("gru"), "LSTM": layer("lstm")}
