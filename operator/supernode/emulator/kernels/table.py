"""What a kernel is: one entry of the table, and the plan of one launch.

Flows in: a kernel's name, the specs (dtype, shape) of its inputs, and attributes. Flows out: a `Plan` with the specs
of the outputs and the cost. The client plans a launch to know the result's shape without waiting, the sidecar plans
it again because it trusts no client. Not here: the kernels (one module per family) and the time (`runtime.clock`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from supernode.emulator.dtypes import DTYPES, ITEM_BYTES
from supernode.errors import EmulatorError, KernelError, KernelTypeError, KernelValueError

AnyArray = np.ndarray[Any, Any]
Attributes = Mapping[str, Any]

#: Marks an attribute that a launch must give.
REQUIRED: Final = "(required)"
#: Largest number of elements of one array: what an index of 63 bits can address in bytes.
MAX_BYTES: Final = 1 << 48
MAX_AXES: Final = 32


class Spec(NamedTuple):
    """An array without its data."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return ITEM_BYTES[self.dtype] * math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


class Gemm(NamedTuple):
    """`batch` matrix products (m, k) x (k, n) in `dtype`, launched as one."""

    m: int
    n: int
    k: int
    batch: int
    dtype: str


@dataclass(frozen=True, slots=True)
class Cost:
    """Work of one launch.

    Attributes:
        flops: floating-point operations, matrix products included.
        bytes_moved: bytes read and written in device memory.
        gemm: the matrix product, if the kernel is one; its time follows from its sizes.
        dtype: in which the other arithmetic runs, if it is matrix arithmetic (`None`: limited by memory alone).
        keys: of a fused attention kernel: how many a query may see; 0 for every other kernel.
    """

    flops: float
    bytes_moved: float
    gemm: Gemm | None = None
    dtype: str | None = None
    keys: int = 0


class Draw(NamedTuple):
    """An input of an example.

    Attributes:
        shape: its sizes.
        values: `any` (every kind of number, nasty ones included), `normal`, `positive`, `unit` (0 to 1), `truth`,
            `below N` (whole numbers), `rises N` (whole numbers from 0 up to N), `permutation`, `regular` (matrices that
            are far from singular), `definite`, or `constant V`.
        dtype: empty: that of the launch; `wide`: the type its arithmetic runs in; or a dtype.
    """

    shape: tuple[int, ...]
    values: str = "any"
    dtype: str = ""


class Example(NamedTuple):
    """A launch that shows what a kernel is for, and on which every test of all kernels is run."""

    inputs: tuple[Draw, ...] = ()
    attributes: Mapping[str, Any] = {}


def example(*inputs: Draw | tuple[int, ...], **attributes: Any) -> Example:
    """An example; a bare shape stands for any numbers in the dtype of the launch."""
    return Example(tuple(item if isinstance(item, Draw) else Draw(item) for item in inputs), attributes)


Sizes = Callable[[Sequence[AnyArray], Attributes, Sequence[AnyArray]], Sequence[AnyArray]]
#: Against what an error is held: the result itself; the sum of the inputs' magnitudes at its place; what the kernel
#: makes of the inputs' magnitudes; the largest element of the result; the largest magnitude of all inputs.
RESULT: Final = "the result"
TERMS: Final = "the sum of |inputs|"
MAGNITUDES: Final = "the result of |inputs|"
LARGEST: Final = "the largest result"
INPUTS: Final = "the largest input"


class Bound(NamedTuple):
    """How far a result may be from that of f64 arithmetic (and that of f64 from 80 bits) on the same inputs.

    |error| <= steps * precision of the arithmetic's type (2^-23, f64: 2^-52) * size, and where the result's type is
    narrower than the arithmetic's, half a unit in its last place besides. 0 steps: the result is exact.

    Attributes:
        steps: see above.
        size: what the error is relative to: one of the words above, or a function of inputs, attributes and results in
            f64 that gives one array per result.
        degree: inputs beyond the largest number to the power 1/degree may overflow in between.
        special: why the bound is not held where inputs are infinite, NaN, denormal or very large; empty: it is.
    """

    steps: float
    size: str | Sizes = RESULT
    degree: int = 1
    special: str = ""


EXACT: Final = Bound(0)
#: One operation that IEEE 754 says how to round.
ROUNDED: Final = Bound(0.5)


def not_compared(reason: str) -> Bound:
    """The entry of a kernel whose result in one type says nothing about that in another."""
    return Bound(math.inf, special=reason)


#: Nobody has said.
UNKNOWN: Final = Bound(-1)

ShapeRule = Callable[[Sequence[Spec], Attributes], tuple[Spec, ...]]
CostRule = Callable[[Sequence[Spec], Attributes, Sequence[Spec]], Cost]
Implementation = Callable[[Sequence[AnyArray], Attributes, Sequence[Spec]], tuple[AnyArray, ...]]


@dataclass(frozen=True, slots=True)
class Kernel:
    """One operator of the device.

    Attributes:
        name: what `launch` is given.
        inputs: names of the inputs; the last `optional` ones may be left out; `...` at the end: any number more.
        dtypes: what the first input (for a creation kernel: the attribute `dtype`) may be.
        shape: specs of the outputs, from the inputs' specs and the attributes; raises KernelError.
        cost: work of a launch.
        run: NumPy implementation; returns one array per output, owned by the caller from then on.
        summary: one line for the reference page, with the formula and the rounding.
        attributes: name -> default, or `REQUIRED`.
        optional: how many of the last inputs may be left out.
        writes: indices of inputs that are updated in place.
        backward: name of the kernel that gives the gradients, or empty.
        lazy: the result takes host memory only when it is written to.
        elementwise: each output element depends on the input elements at the same place only (may be fused).
        ufunc: the NumPy function that `run` applies to the inputs as they are, if it is one: for dtypes that compute in
            themselves, `run` is this function and nothing else.
        outputs: names of the outputs; `...`: as many as the attributes say. A backward kernel's say of which inputs
            they are the gradients (`grad_x`); its own inputs are `grad` (or `grad_NAME` of one of several outputs), and
            inputs and outputs of the forward one.
        bound: error against f64; a test refuses a kernel without one.
        examples: launches on which all kernels are tested.
    """

    name: str
    inputs: tuple[str, ...]
    dtypes: tuple[str, ...]
    shape: ShapeRule
    cost: CostRule
    run: Implementation
    summary: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    optional: int = 0
    writes: tuple[int, ...] = ()
    backward: str = ""
    lazy: bool = False
    elementwise: bool = False
    ufunc: np.ufunc | None = None
    outputs: tuple[str, ...] = ("out",)
    bound: Bound = UNKNOWN
    examples: tuple[Example, ...] = ()

    @property
    def variadic(self) -> bool:
        """Takes any number of inputs."""
        return bool(self.inputs) and self.inputs[-1] == "..."


class Plan(NamedTuple):
    """A launch that the table accepts; `nbytes` are those of the outputs."""

    kernel: Kernel
    outputs: tuple[Spec, ...]
    cost: Cost
    nbytes: tuple[int, ...]


def describe(name: str, specs: Sequence[Spec], attributes: Attributes) -> str:
    """A call as a person would write it: ``matmul(f32[2,3], f32[3,4], transpose_b=True)``."""
    parts = [str(spec) for spec in specs]
    parts += [f"{key}={value!r}" for key, value in attributes.items()]
    text = f"{name}({', '.join(parts)})"
    return text if len(text) <= 300 else text[:297] + "..."


class Table:
    """The kernels by name, and the plans of recent launches (the same few shapes come again and again)."""

    def __init__(self, families: Mapping[str, Sequence[Kernel]], *, remembered: int = 1024) -> None:
        self.families: dict[str, tuple[Kernel, ...]] = {name: tuple(kernels) for name, kernels in families.items()}
        self.kernels: dict[str, Kernel] = {}
        for kernels in self.families.values():
            for kernel in kernels:
                if kernel.name in self.kernels:
                    raise KernelError(f"two kernels are called {kernel.name}")
                self.kernels[kernel.name] = kernel
        self._remembered = remembered
        self._plans: dict[Any, Plan] = {}

    def plan(self, name: str, specs: tuple[Spec, ...], attributes: Attributes) -> Plan:
        """Check a launch and say what comes out of it.

        Raises:
            KernelError: the table refuses the name, the number of inputs, a dtype, a shape or an attribute.
        """
        key = (name, specs, tuple(attributes.items()) if attributes else ())
        try:
            known = self._plans.get(key)
        except TypeError:  # a list among the attributes
            key = (name, specs, tuple((k, _frozen(v)) for k, v in attributes.items()))
            known = self._plans.get(key)
        if known is None:
            known = self._plan(name, specs, attributes)
            if len(self._plans) >= self._remembered:
                self._plans.clear()
            self._plans[key] = known
        return known

    def _plan(self, name: str, specs: tuple[Spec, ...], attributes: Attributes) -> Plan:
        kernel = self.kernels.get(name)
        if kernel is None:
            raise KernelError(f"no kernel is called {name!r}; `supernode emulator kernels` lists {len(self.kernels)}")
        try:
            full = check_attributes(kernel, attributes)
            check_inputs(kernel, specs, full)
            outputs = kernel.shape(specs, full)
            if any(spec.nbytes > MAX_BYTES or min(spec.shape, default=0) < 0 for spec in outputs):
                raise KernelValueError(f"a result of {', '.join(map(str, outputs))} is not possible")
            return Plan(kernel, outputs, kernel.cost(specs, full, outputs), tuple(s.nbytes for s in outputs))
        except KernelError as exc:
            raise type(exc)(f"{describe(name, specs, attributes)}: {exc}") from None
        except EmulatorError:
            raise
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as exc:
            # A rule met an attribute of a type it cannot use.
            kind = KernelTypeError if isinstance(exc, TypeError | AttributeError) else KernelValueError
            raise kind(f"{describe(name, specs, attributes)}: {exc}") from exc


def check_attributes(kernel: Kernel, attributes: Attributes) -> dict[str, Any]:
    """The attributes with defaults filled in.

    Raises:
        KernelError: one is missing or unknown.
    """
    full = {**kernel.attributes, **attributes}
    if len(full) != len(kernel.attributes):
        unknown = ", ".join(sorted(set(attributes) - set(kernel.attributes)))
        known = ", ".join(kernel.attributes) or "none"
        raise KernelTypeError(f"unknown attribute {unknown}; the kernel has {known}")
    missing = [key for key, value in full.items() if value is REQUIRED or value == REQUIRED]
    if missing:
        raise KernelTypeError(f"needs {', '.join(missing)}")
    return full


def check_inputs(kernel: Kernel, specs: Sequence[Spec], attributes: Attributes) -> None:
    """Refuse a wrong number of inputs or a dtype that the kernel does not have.

    Raises:
        KernelError: says which.
    """
    names = kernel.inputs[:-1] if kernel.variadic else kernel.inputs
    least = len(names) - kernel.optional
    if len(specs) < least or (len(specs) > len(names) and not kernel.variadic):
        expected = ", ".join(kernel.inputs) or "none"
        raise KernelTypeError(
            f"got {len(specs)} inputs, expected {expected}" + (" (last optional)" if kernel.optional else "")
        )
    for spec in specs:
        if spec.dtype not in DTYPES or len(spec.shape) > MAX_AXES:
            raise KernelTypeError(f"{spec} is not an array of this device")
    dtype = specs[0].dtype if specs else attributes.get("dtype")
    if dtype not in kernel.dtypes:
        raise KernelTypeError(f"no {dtype} version; there are {', '.join(kernel.dtypes)} (use cast)")


def _frozen(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict):
        return tuple((k, _frozen(v)) for k, v in value.items())
    return value
