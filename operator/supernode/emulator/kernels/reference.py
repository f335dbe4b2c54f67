"""The kernel table as text for people: `supernode emulator kernels`, and the table of docs/emulator.md.

Flows in: the table. Flows out: lines. Not here: what the words mean (docs/emulator.md).
"""

from __future__ import annotations

from collections.abc import Iterator

from supernode.emulator.dtypes import ALL, FIELDS, FLOATS, INEXACT, INTEGERS, NUMBERS, STORED
from supernode.emulator.kernels.table import REQUIRED, Kernel, Table

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


def markdown(table: Table) -> str:
    """The reference page's table."""
    rows = ["| kernel | dtypes | result | backward |", "|---|---|---|---|"]
    for family, kernels in table.families.items():
        rows.append(f"| **{family}** | | | |")
        for kernel in kernels:
            place = f" (in place: {', '.join(kernel.inputs[i] for i in kernel.writes)})" if kernel.writes else ""
            summary = kernel.summary.replace("|", "\\|")
            backward = f"`{kernel.backward}`" if kernel.backward else ""
            rows.append(f"| `{signature(kernel)}` | {dtype_words(kernel)} | {summary}{place} | {backward} |")
    return "\n".join(rows) + "\n"
