"""A stand-in for the sidecar: the client's calls, done at once in this process by the kernels of the real table.

Lets the model be tested without sockets; the wire tests do the same through real sidecars. `broken` names kernels
whose results are replaced, to plant bugs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from supernode.emulator.dtypes import DTYPES, dtype_name
from supernode.emulator.kernels import TABLE, Spec

Breaker = Callable[[tuple[np.ndarray[Any, Any], ...]], tuple[np.ndarray[Any, Any], ...]]


class EagerArray:
    def __init__(self, device: EagerDevice, data: np.ndarray[Any, Any]) -> None:
        self.device, self.data = device, data

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> str:
        return dtype_name(self.data.dtype)

    def numpy(self) -> np.ndarray[Any, Any]:
        return self.data.copy()

    def item(self) -> float:
        return self.data.item()

    def reshape(self, shape: Sequence[int]) -> EagerArray:
        return EagerArray(self.device, self.data.reshape(shape))


class EagerDevice:
    """Has `launch`, `array`, `full` and `zeros` as a client's device."""

    def __init__(self, rank: int = 0, broken: dict[str, Breaker] | None = None) -> None:
        self.rank = rank
        self.chip = "eager"
        self.broken = broken or {}
        self.launches: dict[str, int] = {}

    def launch(self, name: str, *inputs: EagerArray, **attributes: Any) -> Any:
        specs = tuple(Spec(array.dtype, array.shape) for array in inputs)
        plan = TABLE.plan(name, specs, attributes)
        full = {**plan.kernel.attributes, **attributes}
        results = plan.kernel.run([array.data for array in inputs], full, plan.outputs)
        if name in self.broken:
            results = self.broken[name](results)
        self.launches[name] = self.launches.get(name, 0) + 1
        arrays = tuple(EagerArray(self, np.asarray(result)) for result in results)
        for array, spec in zip(arrays, plan.outputs, strict=True):
            assert (array.dtype, array.shape) == (spec.dtype, spec.shape)
        return arrays[0] if len(arrays) == 1 else arrays

    def array(self, data: np.ndarray[Any, Any], dtype: str | None = None) -> EagerArray:
        return EagerArray(self, np.array(data, dtype=DTYPES[dtype] if dtype else None))

    def full(self, shape: Sequence[int], value: float, dtype: str = "f32") -> EagerArray:
        return EagerArray(self, np.full(shape, value, DTYPES[dtype]))

    def zeros(self, shape: Sequence[int], dtype: str = "f32") -> EagerArray:
        return self.full(shape, 0, dtype)


class EagerGroup:
    """All devices of an `EagerEmulator`; reduces in f64, in place."""

    def __init__(self, devices: list[EagerDevice]) -> None:
        self.local = devices

    def all_reduce(self, arrays: Sequence[EagerArray], op: str = "sum") -> None:
        stack = np.stack([array.data for array in arrays])
        wide = stack.astype(np.float64) if stack.dtype.kind == "f" else stack
        total = {"sum": np.sum, "average": np.mean, "min": np.min, "max": np.max}[op](wide, axis=0)
        for array in arrays:
            array.data[...] = total

    def broadcast(self, arrays: Sequence[EagerArray], root: int = 0) -> None:
        for array in arrays:
            array.data[...] = arrays[root].data


class EagerEmulator:
    """One worker with some devices."""

    def __init__(self, devices: int, broken: dict[str, Breaker] | None = None) -> None:
        self.devices = [EagerDevice(rank, broken) for rank in range(devices)]
        self.rank, self.workers, self.world_size = 0, 1, devices
        self.reports: list[dict[str, Any]] = []

    def group(self) -> EagerGroup:
        return EagerGroup(self.devices)

    def synchronize(self) -> None:
        pass

    def report(self, **words: Any) -> None:
        assert math.isfinite(words["loss"])
        self.reports.append(words)
