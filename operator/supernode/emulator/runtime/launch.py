"""Launches: what those of one kernel on inputs of the same specs have in common (checked once), and one of them.

Flows in: a plan of the kernel table, and buffers that a session has found. Flows out: data in the outputs' buffers and
device seconds, or the outputs' error. Not here: queues (`stream`), several launches in one pass (`fuse`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from supernode.emulator.dtypes import DTYPES, NARROW
from supernode.emulator.kernels import Plan, Spec
from supernode.emulator.runtime.buffer import Buffer
from supernode.emulator.runtime.call import Call, Failures, poison
from supernode.emulator.runtime.host import LARGE, check_room
from supernode.emulator.runtime.memory import Pool
from supernode.emulator.trace import KERNEL
from supernode.errors import SupernodeError

if TYPE_CHECKING:
    from supernode.emulator.runtime.stream import Stream

#: Elementwise results of at least this many bytes may be computed together with their neighbours (`fuse`).
FUSED: Final = 512 << 10


class Signature:
    """Launches of a kernel on one stream with inputs of the same specs and the same attributes.

    Attributes:
        name, specs, attributes: of the call, as the client gave them.
        counts: inputs and outputs, which a launch names by handles; `length`: its numbers, with the code.
        stream: whose order the launches keep.
        plan: what the kernel table says; None where it refused.
        error: why it refused.
        seconds, flops: device time and arithmetic of one launch.
        into: results go into arrays that exist.
        writes: inputs that are updated in place.
        direct: NumPy function that gives the only result from the inputs (and `constants`), with nothing to convert.
        fusable: may be computed with its neighbours, block by block.
        simple: makes one new array and writes nothing else: `output`, of `nbytes`, with memory from `pool`.
        failures: where a failed launch is told.
    """

    __slots__ = (
        "attributes",
        "constants",
        "counts",
        "direct",
        "error",
        "failures",
        "flops",
        "full",
        "fusable",
        "into",
        "label",
        "large",
        "length",
        "name",
        "nbytes",
        "output",
        "plan",
        "pool",
        "seconds",
        "simple",
        "specs",
        "stream",
        "writes",
    )

    def __init__(
        self,
        name: str,
        specs: tuple[Spec, ...],
        outputs: int,
        attributes: Mapping[str, Any],
        stream: Stream,
        failures: Failures,
        *,
        into: bool = False,
    ) -> None:
        self.name = name
        self.specs = specs
        self.attributes = attributes
        self.stream = stream
        self.failures = failures
        self.into = into
        self.plan: Plan | None = None
        self.error: SupernodeError | None = None
        self.seconds = 0.0
        self.flops = 0.0
        self.direct: Any = None
        self.constants: tuple[Any, ...] = ()
        self.full: Mapping[str, Any] = attributes
        self.fusable = self.large = self.simple = False
        self.counts = (len(specs), outputs)
        self.length = 1 + len(specs) + outputs
        self.writes: tuple[int, ...] = ()

    def accept(self, plan: Plan, seconds: float, pool: Pool) -> Signature:
        """Take in what the table says."""
        kernel = plan.kernel
        self.plan = plan
        self.seconds = seconds
        self.flops = plan.cost.flops
        self.writes = kernel.writes
        self.full = {**kernel.attributes, **self.attributes} if self.attributes else kernel.attributes
        self.large = not kernel.lazy and max(plan.nbytes, default=0) >= LARGE
        self.simple = len(plan.outputs) == 1 and not kernel.writes and not self.into
        if self.simple:
            self.pool = pool
            self.output = plan.outputs[0]
            self.nbytes = plan.nbytes[0]
            self.label = (self.name, self.output)
        self._find_direct(plan)
        shape = plan.outputs[0].shape if plan.outputs else ()
        size = plan.outputs[0].size if plan.outputs else 0
        self.fusable = (
            kernel.elementwise
            # Numbers drawn at random go by the place in the whole array.
            and ("seed" not in self.full or self.full.get("rounding") == "nearest")
            and len(plan.outputs) == 1
            and not kernel.writes
            and plan.nbytes[0] >= FUSED
            and any(spec.shape == shape for spec in self.specs)
            and all(spec.shape == shape or spec.size == 1 < size for spec in self.specs)
        )
        return self

    def withdraw(self, error: SupernodeError) -> None:
        """Let every launch from now on fail with this error."""
        self.error = error
        self.simple = False

    def call(self, number: int) -> Call:
        """The words of one launch."""
        return Call(number, self.name, self.specs, self.attributes, self.failures)

    def _find_direct(self, plan: Plan) -> None:
        kernel = plan.kernel
        if kernel.ufunc is None or len(plan.outputs) != 1 or not self.specs:
            return
        first, out = self.specs[0], plan.outputs[0]
        if not out.shape or out.dtype in NARROW or any(spec.dtype in NARROW for spec in self.specs):
            return
        if any(spec.shape != out.shape for spec in self.specs):
            return
        value = self.full.get("value")
        if len(self.specs) < kernel.ufunc.nin:
            if value is None or len(self.specs) + 1 != kernel.ufunc.nin:
                return
            self.constants = (DTYPES[first.dtype].type(value),)
        types = [DTYPES[spec.dtype] for spec in self.specs] + [constant.dtype for constant in self.constants]
        if kernel.ufunc.resolve_dtypes((*types, None))[-1] == DTYPES[out.dtype]:
            self.direct = kernel.ufunc


class Launch:
    """One launch. Its outputs are new buffers, or (`Signature.into`) existing ones."""

    __slots__ = ("inputs", "issued", "number", "outputs", "signature")

    def __init__(
        self, signature: Signature, number: int, issued: float, inputs: Sequence[Buffer], outputs: Sequence[Buffer]
    ) -> None:
        self.signature = signature
        self.number = number
        self.issued = issued
        self.inputs = inputs
        self.outputs = outputs

    def run(self, stream: Stream) -> None:
        """Run the kernel on NumPy arrays and spend its device time."""
        if stream.aborted:
            return
        signature = self.signature
        start = self.issued
        arrays = []
        for buffer in self.inputs:
            if buffer.error is not None:
                self.spoil(buffer.error)
                return
            ready = buffer.storage.ready_seconds
            if ready > start:
                start = ready
            arrays.append(buffer.data)
        try:
            if signature.large:
                self.check_room()
            if signature.direct is not None and not signature.into:
                self.outputs[0].data = signature.direct(*arrays, *signature.constants)
            else:
                plan = signature.plan
                results = plan.kernel.run(arrays, signature.full, plan.outputs)  # type: ignore
                if signature.into:
                    for buffer, result in zip(self.outputs, results, strict=True):
                        np.copyto(buffer.data, result)  # type: ignore[arg-type]
                else:
                    for buffer, result in zip(self.outputs, results, strict=True):
                        buffer.data = result
        except Exception as exc:
            self.fail(stream, exc)
            return
        self.spend(stream, start)

    def spend(self, stream: Stream, start: float) -> None:
        """Count the launch, and its device time from when its inputs were ready and what it changes is free."""
        signature = self.signature
        end = stream.seconds
        if signature.into or signature.writes:
            changed = self.outputs if signature.into else [self.inputs[index] for index in signature.writes]
            end = max([end, *(buffer.storage.free_seconds for buffer in changed)])
        if end > start:
            start = end
        end = stream.contend(start, signature.seconds) if stream.contends else start + signature.seconds
        stream.seconds = end
        for buffer in self.outputs:
            buffer.storage.ready_seconds = end
        for index in signature.writes:
            self.inputs[index].storage.ready_seconds = end
        if stream.trace is not None:
            stream.trace.add(stream.lane, KERNEL, signature.name, start, end, signature)
        launched = stream.launched
        launched[signature] = launched.get(signature, 0) + 1

    def check_room(self) -> None:
        """Refuse results that the host cannot hold (OutOfDeviceMemoryError)."""
        for nbytes in self.signature.plan.nbytes:  # type: ignore[union-attr]
            check_room(nbytes)

    def fail(self, stream: Stream, exc: BaseException) -> None:
        """The launch went wrong: tell the client, and mark what it should have written."""
        self.spoil(self.signature.call(self.number).failed(exc, stream.device.name))

    def spoil(self, error: SupernodeError) -> None:
        """What it should have written cannot be used, for this reason."""
        poison(self.outputs, error)
        for index in self.signature.writes:
            poison([self.inputs[index]], error)
