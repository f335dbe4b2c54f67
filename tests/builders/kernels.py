"""Running one kernel, as the sidecar does it: a fixture for the tests of kernels and of what uses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from supernode.emulator.dtypes import DTYPES, dtype_name
from supernode.emulator.kernels import TABLE, Spec


def run_kernel(name: str, *arrays: Any, **attributes: Any) -> tuple[np.ndarray[Any, Any], ...]:
    """Plan and run a kernel; check that what comes out is what the plan promised."""
    specs = tuple(Spec(dtype_name(array.dtype), array.shape) for array in arrays)
    plan = TABLE.plan(name, specs, attributes)
    with np.errstate(all="ignore"):
        results = plan.kernel.run(arrays, {**plan.kernel.attributes, **attributes}, plan.outputs)
    assert len(results) == len(plan.outputs)
    for result, spec in zip(results, plan.outputs, strict=True):
        assert result.shape == spec.shape
        assert result.dtype == DTYPES[spec.dtype]
        assert result.flags.c_contiguous
        assert result.flags.writeable
        assert not any(np.may_share_memory(result, array) for array in arrays)
    return results


@pytest.fixture
def kernel() -> Callable[..., tuple[np.ndarray[Any, Any], ...]]:
    """`run_kernel`."""
    return run_kernel
