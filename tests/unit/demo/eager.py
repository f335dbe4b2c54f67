"""A stand-in for the sidecars of a job: the client's calls, done in this process by the kernels of the real table.

Lets the model be tested without sockets; the wire tests do the same through real sidecars. Calls of a device are
queued as on a stream and carried out when a value is asked for: a collective waits, without threads, until each of
its members has come to it. `broken` names kernels whose results are replaced, to plant bugs.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from supernode.emulator.dtypes import DTYPES, dtype_name
from supernode.emulator.kernels import TABLE, Spec

Breaker = Callable[[tuple[np.ndarray[Any, Any], ...]], tuple[np.ndarray[Any, Any], ...]]
#: Does its work and says so, or says that it has to wait.
Thunk = Callable[[], bool]


class EagerArray:
    def __init__(self, device: EagerDevice, spec: Spec, data: np.ndarray[Any, Any] | None = None) -> None:
        self.device, self.spec, self.data = device, spec, data

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spec.shape

    @property
    def dtype(self) -> str:
        return self.spec.dtype

    @property
    def size(self) -> int:
        return self.spec.size

    def numpy(self) -> np.ndarray[Any, Any]:
        self.device.run()
        assert self.data is not None
        assert (dtype_name(self.data.dtype), self.data.shape) == (self.dtype, self.shape)
        return self.data.copy()

    def item(self) -> float:
        return self.numpy().item()

    def reshape(self, shape: Sequence[int]) -> EagerArray:
        sizes = list(shape)
        if -1 in sizes:
            sizes[sizes.index(-1)] = self.size // -math.prod(sizes)
        return self.part(0, sizes)

    def part(self, start: int, shape: Sequence[int]) -> EagerArray:
        view = EagerArray(self.device, Spec(self.dtype, tuple(shape)))

        def look() -> bool:
            view.data = self.data.reshape(-1)[start : start + view.size].reshape(view.shape)  # type: ignore[union-attr]
            return True

        self.device.put(look)
        return view


class EagerStream:
    def __init__(self) -> None:
        self.queue: deque[Thunk] = deque()

    def run(self) -> bool:
        """Whether anything was done."""
        done = 0
        while self.queue and self.queue[0]():
            self.queue.popleft()
            done += 1
        return done > 0


class EagerDevice:
    """Has the calls of a client's device that the demo makes."""

    def __init__(
        self, rank: int = 0, broken: dict[str, Breaker] | None = None, emulator: EagerEmulator | None = None
    ) -> None:
        self.rank = rank
        self.chip = "eager"
        self.broken = broken or {}
        self.launches: dict[str, int] = {}
        self.streams = [EagerStream()]
        self.emulator = emulator

    def stream(self) -> EagerStream:
        self.streams.append(EagerStream())
        return self.streams[-1]

    def put(self, thunk: Thunk, stream: EagerStream | None = None) -> None:
        (stream or self.streams[0]).queue.append(thunk)

    def run(self) -> None:
        """Carry out everything that waits, of all devices."""
        streams = [s for device in (self.emulator.devices if self.emulator else [self]) for s in device.streams]
        while any(stream.run() for stream in streams):
            pass
        assert not any(stream.queue for stream in streams), "a collective waits for a call that nobody makes"

    def launch(self, name: str, *inputs: Any, out: Any = None, **attributes: Any) -> Any:
        if inputs and not isinstance(inputs[-1], EagerArray):
            *inputs, attributes["value"] = inputs
        plan = TABLE.plan(name, tuple(array.spec for array in inputs), attributes)
        full = {**plan.kernel.attributes, **attributes}
        self.launches[name] = self.launches.get(name, 0) + 1
        if out is None:
            arrays = tuple(EagerArray(self, spec) for spec in plan.outputs)
        else:
            arrays = (out,) if isinstance(out, EagerArray) else tuple(out)
        assert tuple(array.spec for array in arrays) == plan.outputs

        def compute() -> bool:
            results = plan.kernel.run([array.data for array in inputs], full, plan.outputs)
            if name in self.broken:
                results = self.broken[name](results)
            for array, result, spec in zip(arrays, results, plan.outputs, strict=True):
                result = np.asarray(result)
                assert (dtype_name(result.dtype), result.shape) == (spec.dtype, spec.shape)
                if out is None:
                    array.data = result
                else:
                    array.data[...] = result  # type: ignore[index]
            return True

        self.put(compute)
        return arrays[0] if len(arrays) == 1 else arrays

    def array(self, data: np.ndarray[Any, Any], dtype: str | None = None, stream: Any = None) -> EagerArray:
        held = np.array(data, dtype=DTYPES[dtype] if dtype else None)
        return EagerArray(self, Spec(dtype_name(held.dtype), held.shape), held)

    def full(self, shape: Sequence[int], value: float, dtype: str = "f32") -> EagerArray:
        return self.array(np.full(shape, value, DTYPES[dtype]))

    def empty(self, shape: Sequence[int], dtype: str = "f32") -> EagerArray:
        return self.full(shape, math.nan, dtype)

    def zeros(self, shape: Sequence[int], dtype: str = "f32") -> EagerArray:
        return self.full(shape, 0, dtype)


class EagerGroup:
    """Devices of an `EagerEmulator`; reduces in f64, in place."""

    def __init__(self, devices: list[EagerDevice], emulator: EagerEmulator) -> None:
        self.local, self.emulator = devices, emulator
        self.calls: dict[tuple[int, int], int] = {}
        self.meetings: dict[int, dict[int, EagerArray]] = {}
        self.sent: dict[tuple[int, int], deque[EagerArray]] = {}

    def member(self, device: EagerDevice) -> EagerMember:
        return self.emulator.members.setdefault((id(self), device.rank), EagerMember(self, device))

    def all_reduce(self, arrays: Sequence[EagerArray], op: str = "sum") -> None:
        for array in arrays:
            self.member(array.device).all_reduce(array, op)


class EagerMember:
    def __init__(self, group: EagerGroup, device: EagerDevice) -> None:
        self.group, self.device = group, device
        self.place, self.size = group.local.index(device), len(group.local)
        self.number = 0

    def _meet(self, array: EagerArray, finish: Callable[[list[np.ndarray[Any, Any]]], None]) -> None:
        """Call `finish` with copies of all members' data once all have come."""
        number, meetings = self.number, self.group.meetings
        self.number += 1

        def come() -> bool:
            meeting = meetings.setdefault(number, {})
            if self.place not in meeting:
                meeting[self.place] = EagerArray(array.device, array.spec, array.data.copy())  # type: ignore[union-attr]
            if len(meeting) < self.size:
                return False
            finish([meeting[place].data for place in range(self.size)])  # type: ignore[misc]
            return True

        self.device.put(come)

    @staticmethod
    def _reduced(parts: list[np.ndarray[Any, Any]], op: str) -> np.ndarray[Any, Any]:
        stack = np.stack(parts)
        wide = stack.astype(np.float64) if stack.dtype.kind not in "iub" else stack
        reduce = {"sum": np.sum, "average": np.mean, "min": np.min, "max": np.max}[op]
        total: np.ndarray[Any, Any] = reduce(wide, axis=0)
        return total.astype(stack.dtype)

    def all_reduce(self, array: EagerArray, op: str = "sum", stream: Any = None) -> None:
        def finish(parts: list[np.ndarray[Any, Any]]) -> None:
            array.data[...] = self._reduced(parts, op)  # type: ignore[index]

        self._meet(array, finish)

    def all_gather(self, array: EagerArray, out: EagerArray | None = None) -> EagerArray:
        result = EagerArray(self.device, Spec(array.dtype, (self.size, *array.shape))) if out is None else out

        def finish(parts: list[np.ndarray[Any, Any]]) -> None:
            if out is None:
                result.data = np.stack(parts)
            else:
                out.data[...] = np.stack(parts).reshape(out.shape)  # type: ignore[index]

        self._meet(array, finish)
        return result

    def reduce_scatter(self, array: EagerArray, op: str = "sum") -> EagerArray:
        result = EagerArray(self.device, Spec(array.dtype, (array.shape[0] // self.size, *array.shape[1:])))

        def finish(parts: list[np.ndarray[Any, Any]]) -> None:
            result.data = np.split(self._reduced(parts, op), self.size)[self.place].copy()

        self._meet(array, finish)
        return result

    def send(self, array: EagerArray, *, to: int, stream: EagerStream | None = None) -> None:
        ways = self.group.sent.setdefault((self.device.rank, to), deque())

        def go() -> bool:
            if array.data is None:
                return False
            ways.append(array)
            return True

        self.device.put(go, stream)

    def recv(self, shape: Sequence[int], dtype: str = "f32", *, source: int) -> EagerArray:
        result = EagerArray(self.device, Spec(dtype, tuple(shape)))
        ways = self.group.sent.setdefault((source, self.device.rank), deque())

        def come() -> bool:
            if not ways:
                return False
            sent = ways.popleft()
            assert sent.spec == result.spec
            result.data = sent.data.copy()  # type: ignore[union-attr]
            return True

        self.device.put(come)
        return result


class EagerEmulator:
    """One worker with some devices."""

    def __init__(self, devices: int, broken: dict[str, Breaker] | None = None) -> None:
        self.devices = [EagerDevice(rank, broken, self) for rank in range(devices)]
        self.rank, self.workers, self.world_size = 0, 1, devices
        self.reports: list[dict[str, Any]] = []
        self.groups: dict[tuple[tuple[int, ...], int], EagerGroup] = {}
        self.members: dict[tuple[int, int], EagerMember] = {}

    def group(self, ranks: Sequence[int] | None = None, *, channel: int = 0) -> EagerGroup:
        members = tuple(range(self.world_size)) if ranks is None else tuple(ranks)
        return self.groups.setdefault((members, channel), EagerGroup([self.devices[rank] for rank in members], self))

    def synchronize(self) -> None:
        self.devices[0].run()

    def report(self, **words: Any) -> None:
        assert math.isfinite(words["loss"])
        self.reports.append(words)
