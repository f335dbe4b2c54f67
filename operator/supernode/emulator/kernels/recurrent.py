"""Recurrent layers: simple, gated (GRU) and long short-term memory (LSTM), over whole sequences, in both directions.

Flows in: `x` (steps, batch, inputs); per direction weights of the input (gates * hidden, inputs) and of the state
(gates * hidden, hidden), biases (2 * gates * hidden), lengths of the sequences, first states, and for LSTM first cells
and peepholes (3 * hidden). Flows out: the state at every step (steps, directions, batch, hidden), the last state, and
for LSTM the last cell. Arithmetic is in f32 (f64 of f64), rounded once at the outputs. Gates are in the order of ONNX:
i o f c for LSTM, z r h for GRU. Not here: convolutions over time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from supernode.emulator.dtypes import FLOATS
from supernode.emulator.kernels.elementwise import sigmoid
from supernode.emulator.kernels.rules import moved, narrow, need, widen
from supernode.emulator.kernels.table import (
    LARGEST,
    AnyArray,
    Attributes,
    Bound,
    Cost,
    Draw,
    Example,
    Gemm,
    Kernel,
    Spec,
    example,
)
from supernode.errors import KernelValueError

Function = Callable[[AnyArray], AnyArray]
#: name -> function of x, alpha and beta; the defaults of the last two.
_ACTIVATIONS: Final[Mapping[str, tuple[Callable[[AnyArray, float, float], Any], float, float]]] = {
    "Relu": (lambda x, a, b: np.maximum(x, 0), 0.0, 0.0),
    "Tanh": (lambda x, a, b: np.tanh(x), 0.0, 0.0),
    "Sigmoid": (lambda x, a, b: sigmoid(x), 0.0, 0.0),
    "Affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "LeakyRelu": (lambda x, a, b: np.where(x < 0, a * x, x), 0.01, 0.0),
    "ThresholdedRelu": (lambda x, a, b: np.where(x > a, x, 0), 1.0, 0.0),
    "ScaledTanh": (lambda x, a, b: a * np.tanh(b * x), 1.0, 1.0),
    "HardSigmoid": (lambda x, a, b: np.clip(a * x + b, 0, 1), 0.2, 0.5),
    "Elu": (lambda x, a, b: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x), 1.0, 0.0),
    "Softsign": (lambda x, a, b: x / (1 + np.abs(x)), 0.0, 0.0),
    "Softplus": (lambda x, a, b: np.logaddexp(x, 0), 0.0, 0.0),
}
_TWO_NUMBERS: Final = ("Affine", "ScaledTanh", "HardSigmoid")
_GATES: Final = {"rnn": 1, "gru": 3, "lstm": 4}
_FUNCTIONS: Final = {"rnn": ["Tanh"], "gru": ["Sigmoid", "Tanh"], "lstm": ["Sigmoid", "Tanh", "Tanh"]}


def activations_of(kind: str, attributes: Attributes, directions: int) -> list[list[Function]]:
    """The functions of each direction.

    Raises:
        KernelError: a name that is none, or not as many as the layer needs.
    """
    each = len(_FUNCTIONS[kind])
    names = list(attributes["activations"] or _FUNCTIONS[kind] * directions)
    if len(names) != each * directions:
        raise KernelValueError(f"{len(names)} activations for {directions} directions of {each}")
    alphas, betas = list(attributes["alphas"]), list(attributes["betas"])
    made: list[Function] = []
    canonical = {name.lower(): name for name in _ACTIVATIONS}
    for name in names:
        entry = _ACTIVATIONS.get(canonical.get(str(name).lower(), ""))
        if entry is None:
            raise KernelValueError(f"activation {name!r} is none of {', '.join(_ACTIVATIONS)}")
        function, alpha, beta = entry
        alpha = float(alphas.pop(0)) if alphas and alpha else alpha
        beta = float(betas.pop(0)) if betas and canonical[str(name).lower()] in _TWO_NUMBERS else beta
        made.append(_bound(function, alpha, beta))
    return [made[i * each : (i + 1) * each] for i in range(directions)]


def _bound(function: Callable[[AnyArray, float, float], Any], alpha: float, beta: float) -> Function:
    def apply(x: AnyArray) -> AnyArray:
        out: AnyArray = np.asarray(function(x, x.dtype.type(alpha), x.dtype.type(beta)), x.dtype)
        return out

    return apply


def _check(kind: str, specs: Sequence[Spec], attributes: Attributes) -> tuple[int, int, int, int]:
    """(steps, batch, directions, hidden)."""
    x, w, r = specs[:3]
    if len(x.shape) != 3 or len(w.shape) != 3 or len(r.shape) != 3:
        raise KernelValueError(f"x, w and r need three axes each, not {x}, {w}, {r}")
    (steps, batch, size), (directions, _, hidden), gates = x.shape, r.shape, _GATES[kind]
    dtype = x.dtype
    need(w, "w", dtype=dtype, shape=(directions, gates * hidden, size))
    need(r, "r", dtype=dtype, shape=(directions, gates * hidden, hidden))
    need(specs[3], "bias", dtype=dtype, shape=(directions, 2 * gates * hidden))
    need(specs[4], "lengths", dtype="i32", shape=(batch,))
    need(specs[5], "state", dtype=dtype, shape=(directions, batch, hidden))
    if kind == "lstm":
        need(specs[6], "cell", dtype=dtype, shape=(directions, batch, hidden))
        need(specs[7], "peepholes", dtype=dtype, shape=(directions, 3 * hidden))
    if len(attributes["reverse"]) != directions or directions not in (1, 2):
        raise KernelValueError(f"reverse says {attributes['reverse']} for {directions} directions")
    float(attributes["clip"])
    activations_of(kind, attributes, directions)
    return steps, batch, directions, hidden


def _shape_rule(kind: str) -> Callable[[Sequence[Spec], Attributes], tuple[Spec, ...]]:
    def shape(specs: Sequence[Spec], attributes: Attributes) -> tuple[Spec, ...]:
        steps, batch, directions, hidden = _check(kind, specs, attributes)
        last = Spec(specs[0].dtype, (directions, batch, hidden))
        every = Spec(specs[0].dtype, (steps, directions, batch, hidden))
        return (every, last, last) if kind == "lstm" else (every, last)

    return shape


def _cost(specs: Sequence[Spec], attributes: Attributes, outputs: Sequence[Spec]) -> Cost:
    """A small product per step and direction, one after the other."""
    steps, directions, batch, hidden = outputs[0].shape
    columns, inner = specs[1].shape[1], specs[1].shape[2] + hidden
    gemm = Gemm(max(batch, 1), columns, inner, max(steps * directions, 1), specs[0].dtype)
    return Cost(2.0 * batch * columns * inner * steps * directions, moved(specs, outputs), gemm)


class _Direction:
    """One direction of a layer while it runs."""

    def __init__(self, arrays: Sequence[AnyArray], gates: int, attributes: Attributes, functions: list[Function]):
        self.x, self.w, self.r, bias = arrays[:4]
        half = bias.shape[0] // 2
        self.input_bias, self.state_bias = bias[:half], bias[half:]
        self.gates = gates
        self.functions = functions
        self.limit = float(attributes["clip"])
        self.linear_before_reset = bool(attributes["linear_before_reset"])
        self.input_forget = bool(attributes["input_forget"])
        # All steps' products with the input at once.
        steps, batch, size = self.x.shape
        flat = self.x.reshape(steps * batch, size) @ self.w.T + self.input_bias
        self.given = flat.reshape(steps, batch, self.w.shape[0])

    def clipped(self, x: AnyArray) -> AnyArray:
        return np.clip(x, -self.limit, self.limit) if self.limit else x

    def rnn(self, step: int, h: AnyArray) -> AnyArray:
        (f,) = self.functions
        return f(self.clipped(self.given[step] + h @ self.r.T + self.state_bias))

    def gru(self, step: int, h: AnyArray) -> AnyArray:
        f, g = self.functions
        n = h.shape[-1]
        given, state = self.given[step], h @ self.r[: 2 * n].T + self.state_bias[: 2 * n]
        z = f(self.clipped(given[:, :n] + state[:, :n]))
        r = f(self.clipped(given[:, n : 2 * n] + state[:, n:]))
        w, b = self.r[2 * n :].T, self.state_bias[2 * n :]
        inner = r * (h @ w + b) if self.linear_before_reset else (r * h) @ w + b
        new = g(self.clipped(given[:, 2 * n :] + inner))
        out: AnyArray = (1 - z) * new + z * h
        return out

    def lstm(self, step: int, h: AnyArray, c: AnyArray, peepholes: AnyArray) -> tuple[AnyArray, AnyArray]:
        f, g, out = self.functions
        n = h.shape[-1]
        gates = self.given[step] + h @ self.r.T + self.state_bias
        i, o, forget, cell = (gates[:, k * n : (k + 1) * n] for k in range(4))
        look_i, look_o, look_f = (peepholes[k * n : (k + 1) * n] for k in range(3))
        i = f(self.clipped(i + look_i * c))
        forget = 1 - i if self.input_forget else f(self.clipped(forget + look_f * c))
        c = forget * c + i * g(self.clipped(cell))
        o = f(self.clipped(o + look_o * c))
        return o * out(c), c


def _run_rule(kind: str) -> Callable[..., tuple[AnyArray, ...]]:
    def run(inputs: Sequence[AnyArray], attributes: Attributes, outputs: Sequence[Spec]) -> tuple[AnyArray, ...]:
        wide = [widen(array) for array in inputs]
        x, lengths = wide[0], inputs[4]
        steps = x.shape[0]
        if lengths.size and not (lengths.min() >= 0 and lengths.max() <= steps):
            raise KernelValueError(f"lengths from {lengths.min()} to {lengths.max()} are not all in {steps} steps")
        directions = outputs[0].shape[1]
        functions = activations_of(kind, attributes, directions)
        every = np.zeros(outputs[0].shape, x.dtype)
        states, cells = np.array(wide[5]), np.array(wide[6]) if kind == "lstm" else None
        for d in range(directions):
            layer = _Direction([x, wide[1][d], wide[2][d], wide[3][d]], _GATES[kind], attributes, functions[d])
            h = states[d]
            c = None if cells is None else cells[d]
            for turn in range(steps):
                step = steps - 1 - turn if attributes["reverse"][d] else turn
                # A sequence that is over, or in reverse has not begun, keeps its state.
                alive = (step < lengths)[:, None]
                if c is None:
                    new = layer.rnn(step, h) if kind == "rnn" else layer.gru(step, h)
                else:
                    new, cell = layer.lstm(step, h, c, wide[7][d])
                    c = np.where(alive, cell, c)
                h = np.where(alive, new, h)
                every[step, d] = np.where(alive, new, 0)
            states[d] = h
            if cells is not None:
                cells[d] = c
        found = (every, states) if cells is None else (every, states, cells)
        return tuple(narrow(array, spec) for array, spec in zip(found, outputs, strict=True))

    return run


_ATTRIBUTES: Final[dict[str, Any]] = {
    "reverse": [False],
    "activations": None,
    "alphas": [],
    "betas": [],
    "clip": 0.0,
    "linear_before_reset": False,
    "input_forget": False,
}
_INPUTS: Final = ("x", "w", "r", "bias", "lengths", "state")

_FED_BACK: Final = "states feed back: errors grow with the steps, and one infinity spoils all that follows"


def _example(gates: int, *more: Draw) -> Example:
    steps, batch, size, hidden = 4, 3, 2, 5
    return example(
        Draw((steps, batch, size), "normal"),
        Draw((2, gates * hidden, size), "normal"),
        Draw((2, gates * hidden, hidden), "normal"),
        Draw((2, 2 * gates * hidden), "normal"),
        Draw((batch,), "below 5", "i32"),
        Draw((2, batch, hidden), "normal"),
        *more,
        reverse=[False, True],
    )


_CELL: Final = (Draw((2, 3, 5), "normal"), Draw((2, 15), "normal"))

KERNELS: Final = tuple(
    Kernel(
        kind,
        inputs,
        FLOATS,
        _shape_rule(kind),
        _cost,
        _run_rule(kind),
        summary,
        _ATTRIBUTES,
        outputs=outputs,
        bound=Bound(256, LARGEST, special=_FED_BACK),
        examples=(made,),
    )
    for kind, inputs, outputs, summary, made in (
        (
            "rnn",
            _INPUTS,
            ("states", "state"),
            "f(x w' + h r' + bias) at every step; all states and the last",
            _example(1),
        ),
        (
            "gru",
            _INPUTS,
            ("states", "state"),
            "gated recurrent unit (gates z r h); all states and the last",
            _example(3),
        ),
        (
            "lstm",
            (*_INPUTS, "cell", "peepholes"),
            ("states", "state", "cell"),
            "long short-term memory (gates i o f c); all states, the last state and cell",
            _example(4, *_CELL),
        ),
    )
)
