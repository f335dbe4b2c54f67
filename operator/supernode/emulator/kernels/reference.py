"""The kernel table as text for people: `supernode emulator kernels`, and the table of docs/emulator.md.

Flows in: the table. Flows out: lines. Not here: what the words mean (docs/emulator.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from supernode.emulator.dtypes import ALL, FIELDS, FLOATS, INEXACT, INTEGERS, NUMBERS, STORED, WIDE, dtype_name
from supernode.emulator.kernels.table import REQUIRED, Kernel, Spec, Table
from supernode.errors import KernelError

_GROUPS = {
    STORED: "all",
    ALL: "all but f8",
    FIELDS: "numbers, complex",
    INEXACT: "floats, complex",
    NUMBERS: "numbers",
    FLOATS: "floats",
    INTEGERS: "integers",
    ("bool", *INTEGERS): "integers, bool",
}


def signature(kernel: Kernel) -> str:
    """Inputs and attributes as a call: ``matmul(a, b, [bias], transpose_a=False)``."""
    count = len(kernel.inputs) - kernel.optional
    parts = [name if i < count else f"[{name}]" for i, name in enumerate(kernel.inputs)]
    for name, default in kernel.attributes.items():
        parts.append(f"{name}=" if default is REQUIRED else f"{name}={default!r}")
    return f"{kernel.name}({', '.join(parts)})"


def dtype_words(kernel: Kernel) -> str:
    """The dtypes in short."""
    return _GROUPS.get(kernel.dtypes, " ".join(kernel.dtypes))


def table_lines(table: Table) -> Iterator[str]:
    """One line per kernel, families with a heading."""
    for family, kernels in table.families.items():
        yield f"{family}:"
        for kernel in kernels:
            yield f"  {signature(kernel):<58}  {dtype_words(kernel):<15}  {kernel.summary}"


def bound_words(kernel: Kernel) -> str:
    """The error bound in short: steps, what they are relative to, and a star where special values are left out."""
    bound = kernel.bound
    if math.isinf(bound.steps):
        return f"not compared: {bound.special}"
    if bound.steps == 0:
        return "exact" + ("*" if bound.special else "")
    size = bound.size if isinstance(bound.size, str) else "its terms"
    return f"{bound.steps:g} x {size}" + ("*" if bound.special else "")


def cost_words(table: Table, kernel: Kernel) -> str:
    """What the clock's time of an example goes by: a matrix product's sizes, arithmetic, or memory traffic."""
    for example in kernel.examples:
        dtype = "f32" if "f32" in kernel.dtypes else kernel.dtypes[0]
        wide = dtype_name(WIDE[dtype])
        specs = tuple(
            Spec(wide if draw.dtype == "wide" else draw.dtype or dtype, draw.shape) for draw in example.inputs
        )
        try:
            cost = table.plan(kernel.name, specs, example.attributes).cost
        except KernelError:
            continue
        return "product" if cost.gemm is not None else "arithmetic" if cost.dtype is not None else "memory"
    return ""


def markdown(table: Table) -> str:
    """The reference page's table."""
    rows = ["| kernel | dtypes | result | backward | time | error |", "|---|---|---|---|---|---|"]
    for family, kernels in table.families.items():
        rows.append(f"| **{family}** | | | | | |")
        for kernel in kernels:
            place = f" (in place: {', '.join(kernel.inputs[i] for i in kernel.writes)})" if kernel.writes else ""
            summary = kernel.summary.replace("|", "\\|")
            backward = f"`{kernel.backward}`" if kernel.backward else ""
            error = bound_words(kernel).replace("|", "\\|")
            several = f" -> {', '.join(kernel.outputs)}" if len(kernel.outputs) > 1 else ""
            head = f"| `{signature(kernel)}{several}` | {dtype_words(kernel)} | {summary}{place} | {backward} |"
            rows.append(f"{head} {cost_words(table, kernel)} | {error} |")
    return "\n".join(rows) + "\n"
