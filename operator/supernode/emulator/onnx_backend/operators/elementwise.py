"""Arithmetic, comparison and functions, element by element.

Flows in: tensors that broadcast, as NumPy's do (operator sets before 7: along the axis that the node names). Flows
out: tensors of the broadcast shape. Not here: activations (`activation`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from supernode.emulator.client import Array
from supernode.emulator.dtypes import ALL, FLOATS, INEXACT, INTEGERS, NUMBERS
from supernode.emulator.onnx_backend.call import Call, Lowering
from supernode.emulator.onnx_backend.values import native


def unary(kernel: str, *dtypes: str, identity: str = "") -> Lowering:
    """An operator that is a kernel of one input; where it changes nothing (a floor of integers), `identity` says of
    which kind."""

    def lower(call: Call) -> Any:
        if identity and call.dtype.kind in identity:
            return call.tensor(0)
        if not call.computes(*dtypes):
            return NotImplemented
        return call.out(call.launch(kernel, call.array(0)))

    return lower


def operands(call: Call) -> tuple[Array, Array]:
    """Two inputs that broadcast as NumPy's do."""
    a, b = call.array(0), call.array(1)
    if call.version < 7 and call.get("broadcast"):
        axis = int(call.get("axis", len(a.shape) - len(b.shape)))
        axis += len(a.shape) if axis < 0 else 0
        b = b.reshape([*b.shape, *[1] * (len(a.shape) - axis - len(b.shape))])
    return a, b


def binary(kernel: str, *dtypes: str) -> Lowering:
    """An operator that is a kernel of two inputs of one type."""

    def lower(call: Call) -> Any:
        if not call.computes(*dtypes):
            return NotImplemented
        return call.out(call.launch(kernel, *operands(call)))

    return lower


def _divide(call: Call) -> Any:
    if not call.computes(*NUMBERS):
        return NotImplemented
    kernel = "divide" if call.dtype.kind not in "iu" else "divide_whole"
    return call.out(call.launch(kernel, *operands(call)))


def _mod(call: Call) -> Any:
    if not call.computes(*NUMBERS):
        return NotImplemented
    return call.out(call.launch("fmod" if call.get("fmod", 0) else "remainder", *operands(call)))


def _pow(call: Call) -> Any:
    if not call.computes(*NUMBERS):
        return NotImplemented
    a, b = operands(call)
    own = a.dtype
    # The result has the type of the base; a whole base with a fraction as exponent is computed as a fraction.
    wide = b.dtype if own in INTEGERS and b.dtype in FLOATS else own
    return call.out(call.cast(call.launch("power", call.cast(a, wide), call.cast(b, wide)), own))


def several(kernel: str) -> Lowering:
    """An operator of any number of inputs: a kernel of two, again and again."""

    def lower(call: Call) -> Any:
        if not call.computes(*NUMBERS):
            return NotImplemented
        out = call.array(0)
        if len(call.inputs) == 1:
            return call.tensor(0)
        for place in range(1, len(call.inputs)):
            out = call.launch(kernel, out, call.array(place))
        return call.out(out)

    return lower


def _mean(call: Call) -> Any:
    if not call.computes(*FLOATS):
        return NotImplemented
    total = call.array(0)
    # 16-bit floats would round after each sum.
    wide = "f32" if total.dtype in ("f16", "bf16") and len(call.inputs) > 1 else total.dtype
    own, total = total.dtype, call.cast(total, wide)
    for place in range(1, len(call.inputs)):
        total = call.launch("add", total, call.cast(call.array(place), wide))
    return call.out(call.cast(call.launch("divide", total, value=float(len(call.inputs))), own))


def _shift(call: Call) -> Any:
    kernel = "bitwise_left_shift" if call.get("direction") == "LEFT" else "bitwise_right_shift"
    return call.out(call.launch(kernel, *operands(call)))


def _isinf(call: Call) -> Any:
    if not call.computes(*FLOATS):
        return NotImplemented
    positive, negative = bool(call.get("detect_positive", 1)), bool(call.get("detect_negative", 1))
    return call.out(call.launch("isinf_of", call.array(0), positive=positive, negative=negative))


def _where(call: Call) -> Any:
    if not native(call.tensor(1).dtype):
        return NotImplemented
    return call.out(call.launch("where", call.array(0), call.array(1), call.array(2)))


def _identity(call: Call) -> Any:
    return [call.inputs[0]]


#: Their kernels have their names in small letters.
_FUNCTIONS: Final = (
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Cos",
    "Cosh",
    "Exp",
    "Log",
    "Reciprocal",
    "Sigmoid",
    "Sin",
    "Sinh",
    "Sqrt",
    "Tan",
    "Tanh",
    "Erf",
)
_BITS: Final = ("bool", *INTEGERS)

OPERATORS: Final[Mapping[str, Lowering]] = {
    **{name: unary(name.lower(), *FLOATS) for name in _FUNCTIONS},
    "Abs": unary("absolute", *NUMBERS, identity="u"),
    "Neg": unary("negative", *NUMBERS),
    "Sign": unary("sign", *NUMBERS),
    "Floor": unary("floor", *FLOATS, identity="iu"),
    "Ceil": unary("ceil", *FLOATS, identity="iu"),
    "Round": unary("round", *FLOATS, identity="iu"),
    "Not": unary("logical_not", "bool"),
    "BitwiseNot": unary("bitwise_invert", *INTEGERS),
    "IsNaN": unary("isnan", *FLOATS),
    "IsInf": _isinf,
    "Add": binary("add", *NUMBERS, *INEXACT),
    "Sub": binary("subtract", *NUMBERS, *INEXACT),
    "Mul": binary("multiply", *NUMBERS, *INEXACT),
    "Div": _divide,
    "Mod": _mod,
    "Pow": _pow,
    "Max": several("maximum"),
    "Min": several("minimum"),
    "Sum": several("add"),
    "Mean": _mean,
    "And": binary("logical_and", "bool"),
    "Or": binary("logical_or", "bool"),
    "Xor": binary("logical_xor", "bool"),
    "BitwiseAnd": binary("bitwise_and", *_BITS),
    "BitwiseOr": binary("bitwise_or", *_BITS),
    "BitwiseXor": binary("bitwise_xor", *_BITS),
    "BitShift": _shift,
    "Equal": binary("equal", *ALL),
    "Greater": binary("greater", *NUMBERS),
    "GreaterOrEqual": binary("greater_equal", *NUMBERS),
    "Less": binary("less", *NUMBERS),
    "LessOrEqual": binary("less_equal", *NUMBERS),
    "Where": _where,
    "Identity": _identity,
}
