"""What tests of kernels share: arrays at random, how far two may be apart, and a launch without a fixture."""

from __future__ import annotations

from typing import Any

import numpy as np

from supernode.emulator.dtypes import DTYPES
from supernode.emulator.kernels import TABLE, Spec

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(23)


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape)


def close(found: Array, expected: Array, limit: float = 1e-10) -> None:
    assert found.shape == np.shape(expected)
    assert np.abs(found - expected).max(initial=0) <= limit * max(1.0, np.abs(expected).max(initial=0))


def launch(name: str, *inputs: Array, **attributes: Any) -> tuple[Array, ...]:
    specs = tuple(Spec({v: k for k, v in DTYPES.items()}[x.dtype], x.shape) for x in inputs)
    plan = TABLE.plan(name, specs, attributes)
    with np.errstate(all="ignore"):
        return plan.kernel.run(inputs, {**plan.kernel.attributes, **attributes}, plan.outputs)
