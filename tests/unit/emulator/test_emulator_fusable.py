"""Every kernel that may be computed block by block gives the same bits that way, on every dtype that it has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from supernode.emulator.dtypes import DTYPES
from supernode.emulator.kernels import TABLE, Spec
from supernode.emulator.kernels.table import REQUIRED, Kernel
from supernode.emulator.runtime.call import Failures
from supernode.emulator.runtime.launch import FUSED, Signature
from supernode.emulator.runtime.memory import Memory
from supernode.errors import KernelError

ELEMENTWISE = sorted((k for k in TABLE.kernels.values() if k.elementwise), key=lambda kernel: kernel.name)
#: What an attribute that must be given is given here.
GIVEN: dict[str, Any] = {"dtype": "f16"}
COUNT = 1000


def inputs_of(kernel: Kernel, dtype: str) -> list[Any]:
    """Arrays of a dtype, nasty numbers among them; a condition comes first where the kernel wants one."""
    rng = np.random.default_rng(5)
    made = []
    for name in kernel.inputs:
        kind = DTYPES["bool"] if name == "condition" else DTYPES[dtype]
        values = rng.standard_normal(COUNT) * 10.0 ** rng.integers(-3, 4, COUNT)
        if kind.kind not in "biu":
            values[:6] = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-42]
        if kind.kind == "u":
            values = np.abs(values)
        with np.errstate(all="ignore"):
            made.append(np.clip(values, -120, 120).astype(kind) if kind.kind in "iu" else values.astype(kind))
    return made


@pytest.mark.parametrize("kernel", ELEMENTWISE, ids=lambda kernel: kernel.name)
def test_blocks_give_the_bits_of_the_whole(kernel: Kernel) -> None:
    attributes = {name: GIVEN[name] for name, value in kernel.attributes.items() if value is REQUIRED}
    ran = 0
    dtypes = DTYPES if kernel.inputs[0] == "condition" else kernel.dtypes
    for dtype in dtypes:
        arrays = inputs_of(kernel, dtype)
        specs = tuple(Spec(next(k for k, v in DTYPES.items() if v == a.dtype), a.shape) for a in arrays)
        try:
            plan = TABLE.plan(kernel.name, specs, attributes)
        except KernelError:
            continue
        full = {**kernel.attributes, **attributes}
        with np.errstate(all="ignore"):
            (whole,) = kernel.run(arrays, full, plan.outputs)
            for length in (64, 256):
                parts = []
                for start in range(0, COUNT, length):
                    blocks = [array[start : start + length] for array in arrays]
                    (part,) = kernel.run(blocks, full, (Spec(plan.outputs[0].dtype, blocks[0].shape),))
                    parts.append(part)
                assert np.concatenate(parts).tobytes() == whole.tobytes(), (dtype, length)
        ran += 1
    assert ran


def test_what_is_drawn_at_random_goes_by_the_place_in_the_whole_and_is_left_alone() -> None:
    spec = Spec("f32", (FUSED,))

    def fusable(**attributes: Any) -> bool:
        signature = Signature("cast", (spec,), 1, attributes, None, Failures())  # type: ignore[arg-type]
        pool = Memory(1 << 20, "device").pool("client")
        return signature.accept(TABLE.plan("cast", (spec,), attributes), 0.0, pool).fusable

    assert fusable(dtype="bf16")
    assert not fusable(dtype="bf16", rounding="stochastic", seed=3)


def test_small_results_and_other_shapes_are_left_alone() -> None:
    def fusable(name: str, *specs: Spec, **attributes: Any) -> bool:
        signature = Signature(name, specs, 1, attributes, None, Failures())  # type: ignore[arg-type]
        pool = Memory(1 << 20, "device").pool("client")
        return signature.accept(TABLE.plan(name, specs, attributes), 0.0, pool).fusable

    large, row, one = Spec("f32", (1024, 1024)), Spec("f32", (1024,)), Spec("f32", ())
    assert fusable("add", large, large)
    assert fusable("add", large, one)
    assert not fusable("add", large, row)
    assert not fusable("add", row, row)
    assert not fusable("sum", large)
    assert not fusable("matmul", large, large)
