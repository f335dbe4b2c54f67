"""What a stream can do: launch a kernel, make a view, copy, mark, wait, take part in a collective.

Flows in: buffers and a call's description, made by a session from checked commands. Flows out: data in buffers, or
their error; the first failure of a call also goes to the session's `Failures`. Not here: queues and threads
(`stream`).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np

from supernode.emulator.dtypes import DTYPES
from supernode.emulator.fabric.call import CollectiveCall
from supernode.emulator.kernels import Plan, Spec, describe
from supernode.emulator.kernels.table import AnyArray
from supernode.emulator.runtime.buffer import Buffer
from supernode.emulator.runtime.host import LARGE, check_room
from supernode.emulator.runtime.stream import Stream
from supernode.errors import EmulatorError, KernelError, OutOfDeviceMemoryError, SupernodeError

#: Failures that are kept for the client; later ones are only counted.
_KEPT: Final = 16


class Fabric(Protocol):
    """What carries collectives between devices (`supernode.emulator.fabric`, or a stand-in of a test)."""

    def run(
        self,
        call: CollectiveCall,
        local_device: int,
        send: AnyArray | None,
        recv: AnyArray | None,
        ready_seconds: float,
    ) -> float:
        """Take part; blocks until done or the deadline; gives the device time of the end; raises FabricError."""

    def withdraw(self, call: CollectiveCall, local_device: int, reason: str) -> None:
        """Tell the other ranks that this device will not take part, so that they need not wait for the deadline."""


class Failures:
    """What went wrong in a session's asynchronous calls, in the order of the calls' numbers when it is taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._errors: list[tuple[int, SupernodeError]] = []
        self._more = 0

    def add(self, number: int, error: SupernodeError) -> None:
        """Keep a failure."""
        with self._lock:
            if len(self._errors) < _KEPT:
                self._errors.append((number, error))
            else:
                self._more += 1

    def take(self) -> SupernodeError | None:
        """The failure of the earliest call, once; None when all went well."""
        with self._lock:
            if not self._errors:
                return None
            errors = sorted(self._errors, key=lambda pair: pair[0])
            more = len(errors) - 1 + self._more
            self._errors.clear()
            self._more = 0
        first = errors[0][1]
        if not more:
            return first
        return type(first)(f"{first} (and {more} later calls failed)")


class Call:
    """A call of the client, for messages: made for every command, put into words only when it fails."""

    __slots__ = ("attributes", "failures", "name", "number", "specs")

    def __init__(
        self, number: int, name: str, specs: Sequence[Spec], attributes: Mapping[str, Any], failures: Failures
    ) -> None:
        self.number = number
        self.name = name
        self.specs = specs
        self.attributes = attributes
        self.failures = failures

    def failed(self, exc: BaseException, where: str) -> SupernodeError:
        """Translate an exception into ours, with the call in its message, and keep it for the client."""
        kind: type[SupernodeError] = KernelError
        text = str(exc) or type(exc).__name__
        if isinstance(exc, SupernodeError):
            kind = type(exc)
        elif isinstance(exc, MemoryError):
            kind, text = OutOfDeviceMemoryError, f"the sidecar's host memory is exhausted ({text})"
        words = describe(self.name, self.specs, self.attributes)
        # A kernel's own refusal already begins with the call.
        text = text.removeprefix(f"{words}: ")
        error = kind(f"call {self.number}, {words} on {where}: {text}")
        error.__cause__ = exc
        self.failures.add(self.number, error)
        return error


def poison(buffers: Sequence[Buffer], error: SupernodeError) -> None:
    """Mark buffers as unusable."""
    for buffer in buffers:
        buffer.error = error
        buffer.data = None


def first_error(buffers: Sequence[Buffer]) -> SupernodeError | None:
    """Why one of the buffers cannot be used, if so."""
    for buffer in buffers:
        if buffer.error is not None:
            return buffer.error
    return None


class Launch:
    """Run a kernel; its outputs are new buffers, or `into` existing ones."""

    __slots__ = ("attributes", "call", "inputs", "into", "issued", "outputs", "plan", "seconds")

    def __init__(
        self,
        call: Call,
        plan: Plan,
        inputs: Sequence[Buffer],
        outputs: Sequence[Buffer],
        *,
        into: bool,
        seconds: float,
        issued: float,
    ) -> None:
        self.call = call
        self.plan = plan
        self.inputs = inputs
        self.outputs = outputs
        self.into = into
        self.seconds = seconds
        self.issued = issued

    def run(self, stream: Stream) -> None:
        """Run the kernel on NumPy arrays and spend its device time."""
        if stream.aborted:
            return
        kernel = self.plan.kernel
        inputs, outputs = self.inputs, self.outputs
        start = self.issued
        for buffer in inputs:
            if buffer.error is not None:
                poison([*outputs, *(inputs[i] for i in kernel.writes)], buffer.error)
                return
            if buffer.storage.ready_seconds > start:
                start = buffer.storage.ready_seconds
        try:
            if not kernel.lazy:
                for nbytes in self.plan.nbytes:
                    if nbytes >= LARGE:
                        check_room(nbytes)
            given = self.call.attributes
            attributes = {**kernel.attributes, **given} if given else kernel.attributes
            results = kernel.run([buffer.data for buffer in inputs], attributes, self.plan.outputs)  # type: ignore[misc]
            if self.into:
                for buffer, result in zip(outputs, results, strict=True):
                    np.copyto(buffer.data, result)  # type: ignore[arg-type]
            else:
                for buffer, result in zip(outputs, results, strict=True):
                    buffer.data = result
        except Exception as exc:
            error = self.call.failed(exc, stream.device.name)
            poison([*outputs, *(inputs[i] for i in kernel.writes)], error)
            return
        end = stream.advance(start, self.seconds)
        for buffer in outputs:
            buffer.storage.ready_seconds = end
        for index in kernel.writes:
            inputs[index].storage.ready_seconds = end
        stream.flops += self.plan.cost.flops
        stream.launches[kernel.name] += 1


class View:
    """See a buffer's data, or a run of its elements, in another shape; the memory is shared."""

    __slots__ = ("base", "start", "view")

    def __init__(self, base: Buffer, view: Buffer, start: int) -> None:
        self.base = base
        self.start = start
        self.view = view

    def run(self, stream: Stream) -> None:
        """Share the data; takes no device time."""
        if stream.aborted:
            return
        if self.base.error is not None or self.base.data is None:
            poison([self.view], self.base.error or EmulatorError("the array of this view was never written"))
            return
        spec = self.view.spec
        self.view.data = self.base.data.reshape(-1)[self.start : self.start + spec.size].reshape(spec.shape)


class CopyIn:
    """Data from the host becomes an array."""

    __slots__ = ("buffer", "data", "issued")

    def __init__(self, buffer: Buffer, data: AnyArray, issued: float) -> None:
        self.buffer = buffer
        self.data: AnyArray = data
        self.issued = issued

    def run(self, stream: Stream) -> None:
        """Hand the data over and spend the time of a copy."""
        if stream.aborted:
            return
        self.buffer.data = self.data
        nbytes = self.data.nbytes
        self.buffer.storage.ready_seconds = stream.advance(self.issued, stream.device.costs.copy_seconds(nbytes))
        stream.copied += nbytes


class CopyAcross:
    """Copy an array from another device of the sidecar; waits (on the virtual clock too) for its data."""

    __slots__ = ("call", "issued", "source", "target")

    def __init__(self, call: Call, source: Buffer, target: Buffer, issued: float) -> None:
        self.call = call
        self.source = source
        self.target = target
        self.issued = issued

    def run(self, stream: Stream) -> None:
        """Copy and spend the time of a read and a write."""
        if stream.aborted:
            return
        if self.source.error is not None or self.source.data is None:
            poison([self.target], self.source.error or EmulatorError("the copied array was never written"))
            return
        try:
            check_room(self.target.spec.nbytes)
            self.target.data = self.source.data.copy()
        except (MemoryError, OutOfDeviceMemoryError) as exc:
            poison([self.target], self.call.failed(exc, stream.device.name))
            return
        start = max(self.issued, self.source.storage.ready_seconds)
        nbytes = self.target.spec.nbytes
        self.target.storage.ready_seconds = stream.advance(start, stream.device.costs.copy_seconds(2 * nbytes))
        stream.copied += nbytes


class Marker:
    """A point in a stream: set when everything before it is done. Runs even in an aborted stream: others wait for it.

    Args:
        spend: device seconds that reaching the point takes (a copy back to the host).
        issued: earliest device time.
    """

    __slots__ = ("done", "issued", "seconds", "spend")

    def __init__(self, *, spend: float = 0.0, issued: float = 0.0) -> None:
        self.done = threading.Event()
        self.seconds = 0.0
        self.spend = spend
        self.issued = issued

    def run(self, stream: Stream) -> None:
        """Take the time and wake whoever waits."""
        if self.spend:
            stream.advance(self.issued, self.spend)
        self.seconds = max(stream.seconds, self.issued)
        stream.publish()
        self.done.set()


class Wait:
    """Hold a stream until a marker in another one is reached, on the host and on the virtual clock."""

    __slots__ = ("marker",)

    def __init__(self, marker: Marker) -> None:
        self.marker = marker

    def run(self, stream: Stream) -> None:
        """Wait."""
        if stream.aborted:
            return
        self.marker.done.wait()
        stream.reach(self.marker.seconds, busy=0.0)


class After:
    """Hold a stream until another one is done with what the next item reads or writes.

    On the host only: on the virtual clock the item starts when its inputs are ready, and they say when.
    """

    __slots__ = ("other", "position")

    def __init__(self, other: Stream, position: int) -> None:
        self.other = other
        self.position = position

    def run(self, stream: Stream) -> None:
        """Wait."""
        if not stream.aborted:
            self.other.wait_for(self.position)


class Collective:
    """Take part in a collective of the job; blocks the stream until the fabric is done or its deadline has passed."""

    __slots__ = ("call", "fabric", "issued", "receive", "send", "words")

    def __init__(
        self,
        call: Call,
        words: CollectiveCall,
        fabric: Fabric,
        send: Buffer | None,
        receive: Buffer | None,
        issued: float,
    ) -> None:
        self.call = call
        self.words = words
        self.fabric = fabric
        self.send = send
        self.receive = receive
        self.issued = issued

    def run(self, stream: Stream) -> None:
        """Run it; the device time of the end comes from the fabric."""
        if stream.aborted:
            return
        buffers = [buffer for buffer in (self.send, self.receive) if buffer is not None]
        error = first_error(buffers)
        if error is not None:
            poison(buffers, error)
            self.fabric.withdraw(self.words, stream.device.ordinal, f"{type(error).__name__}: {error}")
            return
        start = max([stream.seconds, self.issued, *(buffer.storage.ready_seconds for buffer in buffers)])
        try:
            if self.receive is not None and self.receive.data is None:
                spec = self.receive.spec
                check_room(spec.nbytes)
                self.receive.data = np.empty(spec.shape, DTYPES[spec.dtype])
            send = None if self.send is None else self.send.data
            receive = None if self.receive is None else self.receive.data
            end = self.fabric.run(self.words, stream.device.ordinal, send, receive, start)
        except Exception as exc:
            poison(buffers, self.call.failed(exc, stream.device.name))
            return
        stream.reach(end, busy=max(end - start, 0.0))
        for buffer in buffers:
            buffer.storage.ready_seconds = stream.seconds
        stream.collectives[self.words.kind] += 1
