"""An Array API standard namespace (2024.12) whose arrays live on the emulated devices of the pod.

    import supernode.emulator.array_api as xp

    x = xp.asarray([[1.0, 2.0], [3.0, 4.0]])     # connects to $SUPERNODE_EMULATOR_SOCKET when it is first needed
    y = xp.linalg.inv(x) @ x                     # launches kernels of the emulator's table; returns at once
    float(xp.sum(y))                             # waits

Flows in: host data, Python numbers. Flows out: arrays (`Array`) on a device; `array.numpy()` copies back. Where the
standard leaves something open: indexing, reshaping and axis functions give copies, never views that share memory;
sorts are stable, NaN last. docs/array-api.md says more. Not here: streams, collectives (`supernode.emulator.client`).
"""

import math as _math

from supernode.emulator.array_api import fft, linalg
from supernode.emulator.array_api.array import Array
from supernode.emulator.array_api.creation import (
    arange,
    asarray,
    astype,
    empty,
    empty_like,
    eye,
    from_dlpack,
    full,
    full_like,
    linspace,
    meshgrid,
    ones,
    ones_like,
    zeros,
    zeros_like,
)
from supernode.emulator.array_api.elementwise import FUNCTIONS as _FUNCTIONS
from supernode.emulator.array_api.indexing import take, take_along_axis
from supernode.emulator.array_api.info import __array_namespace_info__
from supernode.emulator.array_api.linear_algebra import matmul, tensordot, vecdot
from supernode.emulator.array_api.manipulation import (
    broadcast_arrays,
    broadcast_to,
    concat,
    diff,
    expand_dims,
    flip,
    matrix_transpose,
    moveaxis,
    permute_dims,
    repeat,
    reshape,
    roll,
    squeeze,
    stack,
    tile,
    tril,
    triu,
    unstack,
)
from supernode.emulator.array_api.reductions import (
    all,
    any,
    argmax,
    argmin,
    argsort,
    count_nonzero,
    cumulative_prod,
    cumulative_sum,
    max,
    mean,
    min,
    nonzero,
    prod,
    searchsorted,
    sort,
    std,
    sum,
    unique_all,
    unique_counts,
    unique_inverse,
    unique_values,
    var,
    where,
)
from supernode.emulator.array_api.types import (
    bfloat16,
    can_cast,
    complex64,
    complex128,
    finfo,
    float8_e4m3fn,
    float8_e5m2,
    float16,
    float32,
    float64,
    iinfo,
    int8,
    int16,
    int32,
    int64,
    isdtype,
    result_type,
    uint8,
    uint16,
    uint32,
    uint64,
)
from supernode.emulator.array_api.types import bool_ as bool

__version__ = "2024.12"
__array_api_version__ = "2024.12"

e, pi, inf, nan, newaxis = _math.e, _math.pi, _math.inf, _math.nan, None

abs = _FUNCTIONS["abs"]
acos = _FUNCTIONS["acos"]
acosh = _FUNCTIONS["acosh"]
add = _FUNCTIONS["add"]
asin = _FUNCTIONS["asin"]
asinh = _FUNCTIONS["asinh"]
atan = _FUNCTIONS["atan"]
atan2 = _FUNCTIONS["atan2"]
atanh = _FUNCTIONS["atanh"]
bitwise_and = _FUNCTIONS["bitwise_and"]
bitwise_invert = _FUNCTIONS["bitwise_invert"]
bitwise_left_shift = _FUNCTIONS["bitwise_left_shift"]
bitwise_or = _FUNCTIONS["bitwise_or"]
bitwise_right_shift = _FUNCTIONS["bitwise_right_shift"]
bitwise_xor = _FUNCTIONS["bitwise_xor"]
ceil = _FUNCTIONS["ceil"]
clip = _FUNCTIONS["clip"]
conj = _FUNCTIONS["conj"]
copysign = _FUNCTIONS["copysign"]
cos = _FUNCTIONS["cos"]
cosh = _FUNCTIONS["cosh"]
divide = _FUNCTIONS["divide"]
equal = _FUNCTIONS["equal"]
exp = _FUNCTIONS["exp"]
expm1 = _FUNCTIONS["expm1"]
floor = _FUNCTIONS["floor"]
floor_divide = _FUNCTIONS["floor_divide"]
greater = _FUNCTIONS["greater"]
greater_equal = _FUNCTIONS["greater_equal"]
hypot = _FUNCTIONS["hypot"]
imag = _FUNCTIONS["imag"]
isfinite = _FUNCTIONS["isfinite"]
isinf = _FUNCTIONS["isinf"]
isnan = _FUNCTIONS["isnan"]
less = _FUNCTIONS["less"]
less_equal = _FUNCTIONS["less_equal"]
log = _FUNCTIONS["log"]
log10 = _FUNCTIONS["log10"]
log1p = _FUNCTIONS["log1p"]
log2 = _FUNCTIONS["log2"]
logaddexp = _FUNCTIONS["logaddexp"]
logical_and = _FUNCTIONS["logical_and"]
logical_not = _FUNCTIONS["logical_not"]
logical_or = _FUNCTIONS["logical_or"]
logical_xor = _FUNCTIONS["logical_xor"]
maximum = _FUNCTIONS["maximum"]
minimum = _FUNCTIONS["minimum"]
multiply = _FUNCTIONS["multiply"]
negative = _FUNCTIONS["negative"]
nextafter = _FUNCTIONS["nextafter"]
not_equal = _FUNCTIONS["not_equal"]
positive = _FUNCTIONS["positive"]
pow = _FUNCTIONS["pow"]
real = _FUNCTIONS["real"]
reciprocal = _FUNCTIONS["reciprocal"]
remainder = _FUNCTIONS["remainder"]
round = _FUNCTIONS["round"]
sign = _FUNCTIONS["sign"]
signbit = _FUNCTIONS["signbit"]
sin = _FUNCTIONS["sin"]
sinh = _FUNCTIONS["sinh"]
sqrt = _FUNCTIONS["sqrt"]
square = _FUNCTIONS["square"]
subtract = _FUNCTIONS["subtract"]
tan = _FUNCTIONS["tan"]
tanh = _FUNCTIONS["tanh"]
trunc = _FUNCTIONS["trunc"]

__all__ = [
    "Array",
    "__array_api_version__",
    "__array_namespace_info__",
    "__version__",
    "abs",
    "acos",
    "acosh",
    "add",
    "all",
    "any",
    "arange",
    "argmax",
    "argmin",
    "argsort",
    "asarray",
    "asin",
    "asinh",
    "astype",
    "atan",
    "atan2",
    "atanh",
    "bfloat16",
    "bitwise_and",
    "bitwise_invert",
    "bitwise_left_shift",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "bool",
    "broadcast_arrays",
    "broadcast_to",
    "can_cast",
    "ceil",
    "clip",
    "complex64",
    "complex128",
    "concat",
    "conj",
    "copysign",
    "cos",
    "cosh",
    "count_nonzero",
    "cumulative_prod",
    "cumulative_sum",
    "diff",
    "divide",
    "e",
    "empty",
    "empty_like",
    "equal",
    "exp",
    "expand_dims",
    "expm1",
    "eye",
    "fft",
    "finfo",
    "flip",
    "float8_e4m3fn",
    "float8_e5m2",
    "float16",
    "float32",
    "float64",
    "floor",
    "floor_divide",
    "from_dlpack",
    "full",
    "full_like",
    "greater",
    "greater_equal",
    "hypot",
    "iinfo",
    "imag",
    "inf",
    "int8",
    "int16",
    "int32",
    "int64",
    "isdtype",
    "isfinite",
    "isinf",
    "isnan",
    "less",
    "less_equal",
    "linalg",
    "linspace",
    "log",
    "log1p",
    "log2",
    "log10",
    "logaddexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "matmul",
    "matrix_transpose",
    "max",
    "maximum",
    "mean",
    "meshgrid",
    "min",
    "minimum",
    "moveaxis",
    "multiply",
    "nan",
    "negative",
    "newaxis",
    "nextafter",
    "nonzero",
    "not_equal",
    "ones",
    "ones_like",
    "permute_dims",
    "pi",
    "positive",
    "pow",
    "prod",
    "real",
    "reciprocal",
    "remainder",
    "repeat",
    "reshape",
    "result_type",
    "roll",
    "round",
    "searchsorted",
    "sign",
    "signbit",
    "sin",
    "sinh",
    "sort",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "std",
    "subtract",
    "sum",
    "take",
    "take_along_axis",
    "tan",
    "tanh",
    "tensordot",
    "tile",
    "tril",
    "triu",
    "trunc",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "unique_all",
    "unique_counts",
    "unique_inverse",
    "unique_values",
    "unstack",
    "var",
    "vecdot",
    "where",
    "zeros",
    "zeros_like",
]
