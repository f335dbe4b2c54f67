"""Launches of a client, from handles to work items; and the numbers that stand for most of a batch.

A kernel's name, the specs of its inputs and its attributes are said once (`prepare`) and checked once; after that a
launch is a few numbers. A batch is a row of 64-bit numbers, nothing of which is trusted:

    code input ... output ...     a launch by the signature that the client calls `code` (>= 0)
    -1 count array ...            free arrays
    -2                            the next of the batch's commands in words (`dispatch`)
    -3 count event ...            forget events
    -4 array new start axes size ...    see a run of an array's elements in another shape; shares memory

Flows in: a session and numbers. Flows out: work items. Not here: the other commands (`dispatch`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from supernode.emulator.kernels import TABLE, Spec
from supernode.emulator.kernels.rules import known_dtype, normal_shape
from supernode.emulator.kernels.table import MAX_AXES, MAX_BYTES
from supernode.emulator.runtime.buffer import Buffer, Storage
from supernode.emulator.runtime.call import Call
from supernode.emulator.runtime.launch import Launch, Signature
from supernode.emulator.runtime.work import View
from supernode.emulator.session import MAX_ARRAYS, Session
from supernode.emulator.wire import FORGET, FREE, VIEW, WORDS
from supernode.errors import (
    EmulatorError,
    InputError,
    InvalidHandleError,
    KernelValueError,
    ProtocolError,
    SupernodeError,
)

# Inputs of one launch, and characters of its attributes.
_MOST_INPUTS: Final = 4096
_MOST_WORDS: Final = 1 << 16
_SPECS: Final = 4096
_specs: dict[Spec, Spec] = {}


def a_spec(dtype: object, shape: object) -> Spec:
    """A spec that a client named; KernelError where the device cannot have it."""
    spec = Spec(known_dtype(dtype), normal_shape(shape))
    if len(spec.shape) > MAX_AXES or spec.nbytes > MAX_BYTES:
        raise KernelValueError(f"{spec} is not possible")
    return _one(spec)


def _one(spec: Spec) -> Spec:
    """The same object for equal specs: comparing those that come again and again is then one look."""
    if len(_specs) >= _SPECS:
        _specs.clear()
    return _specs.setdefault(spec, spec)


def prepare(
    session: Session,
    stream_handle: int,
    name: str,
    specs: Sequence[Spec],
    outputs: int,
    attributes: dict[str, Any],
    *,
    into: bool,
) -> Signature:
    """A signature with a number of outputs; what the table refuses is kept in it and told at each launch."""
    stream = session.streams.get(stream_handle)
    if not isinstance(name, str) or not isinstance(attributes, dict):
        raise ProtocolError(f"{str(name)[:40]!r} with {str(attributes)[:40]} is no kernel with attributes")
    # A client's signatures stay: what they say must be small, whatever a frame may hold.
    if len(name) > 100 or len(specs) > _MOST_INPUTS or len(repr(attributes)) > _MOST_WORDS:
        raise ProtocolError(f"{name[:40]!r} with {len(specs)} inputs and its attributes is too much for one launch")
    order = session.streams[0] if stream is None else stream
    signature = Signature(name, tuple(specs), outputs, attributes, order, session.failures, into=into)
    try:
        if stream is None:
            raise InvalidHandleError(f"stream {stream_handle} does not exist or is closed")
        plan = TABLE.plan(name, signature.specs, attributes)
        if len(plan.outputs) != outputs:
            raise ProtocolError(f"{name} has {len(plan.outputs)} results, but {outputs} handles came")
        signature.accept(plan, stream.device.costs.seconds(plan.cost), session.pools[stream.device.ordinal])
        if signature.simple:
            signature.output = _one(signature.output)
    except ProtocolError:
        raise
    except (EmulatorError, InputError) as exc:
        signature.error = exc
    return signature


def start(session: Session, signature: Signature, inputs: Sequence[int], handles: Sequence[int]) -> None:
    """Launch: find the arrays, make those of the results, and give the stream the work."""
    named = [*inputs, *handles]
    if signature.counts != (len(inputs), len(handles)) or not _start_plainly(session, signature, named, 0):
        _start_carefully(session, signature, inputs, handles)


def _start_plainly(session: Session, signature: Signature, codes: Sequence[int], place: int) -> bool:
    """Most launches: everything is on this stream, and one new array comes out. False: it is not so simple.

    Args:
        session: of the client.
        signature: of the launch.
        codes: numbers with the handles of the inputs and the output.
        place: of the first.
    """
    if not signature.simple:
        return False
    arrays = session.arrays
    stream = signature.stream
    buffers = []
    for spec in signature.specs:
        found = arrays.get(codes[place])
        if found is None or (found.spec is not spec and found.spec != spec):
            return False
        storage = found.storage
        if storage.stream is not stream or storage.allocation is None:
            return False
        buffers.append(found)
        place += 1
    handle = codes[place]
    if type(handle) is not int or handle < 0 or handle in arrays or len(arrays) >= MAX_ARRAYS:
        session.check_new(handle)
    try:
        block = signature.pool.take(signature.nbytes, signature.label)
    except EmulatorError as exc:
        session.failed(signature.call(session.number), exc, (handle,), stream)
        return True
    for found in buffers:
        found.uses += 1
    if stream.above:
        stream.make_room()
    arrays[handle] = output = Buffer(signature.output, Storage(stream, block))
    output.storage.position = stream.add(Launch(signature, session.number, session.host_seconds, buffers, (output,)))
    return True


def _start_carefully(session: Session, signature: Signature, inputs: Sequence[int], handles: Sequence[int]) -> None:
    stream, into = signature.stream, signature.into
    try:
        buffers = [session.array(handle) for handle in inputs]
        elsewhere = []
        for buffer in buffers:
            storage = buffer.storage
            if storage.allocation is None:
                # What follows from a refused call carries the same reason, not a new one.
                session.stand_for_nothing(() if into else handles, reason(buffers), stream)
                return
            if storage.stream is not stream:
                if storage.stream.device is not stream.device:
                    raise KernelValueError(f"an input is on {storage.stream.device.name}; copy it here first")
                elsewhere.append(storage)
        if signature.error is not None:
            raise signature.error
        plan = signature.plan
        if plan is None or tuple([buffer.spec for buffer in buffers]) != signature.specs:
            raise ProtocolError(f"{signature.name} was prepared for other inputs")
        outputs: Sequence[Buffer]
        if into:
            outputs = _targets(session, handles, signature)
        else:
            outputs = [
                session.new_array(handle, spec, stream, signature.name, nbytes)
                for handle, spec, nbytes in zip(handles, plan.outputs, plan.nbytes, strict=True)
            ]
    except ProtocolError:
        raise
    except (EmulatorError, InputError) as exc:
        session.failed(signature.call(session.number), exc, () if into else handles, stream)
        return
    written = [buffers[index].storage for index in plan.kernel.writes]
    if into:
        written += [buffer.storage for buffer in outputs]
    for storage in elsewhere:
        session.order_read(stream, storage)
    for storage in written:
        session.order_write(stream, storage)
    for buffer in buffers:
        buffer.uses += 1
    if stream.above:
        stream.make_room()
    position = stream.add(Launch(signature, session.number, session.host_seconds, buffers, outputs))
    for storage in elsewhere:
        storage.read(stream, position)
    for buffer in outputs:
        buffer.storage.position = position
    for storage in written:
        storage.written(stream, position)


def _targets(session: Session, handles: Sequence[int], signature: Signature) -> list[Buffer]:
    """Existing arrays that results go into, checked."""
    outputs = [session.array(handle) for handle in handles]
    planned = () if signature.plan is None else signature.plan.outputs
    if tuple([buffer.spec for buffer in outputs]) != planned:
        given = ", ".join(str(buffer.spec) for buffer in outputs)
        raise KernelValueError(f"the result is {', '.join(map(str, planned))}, but out is {given}")
    for buffer in outputs:
        if buffer.storage.stream.device is not signature.stream.device or buffer.never_made:
            raise KernelValueError("out is on another device, or was never made")
        buffer.uses += 1
    return outputs


def reason(buffers: Sequence[Buffer]) -> SupernodeError:
    """Why one of them was never made."""
    errors = [buffer.error for buffer in buffers if buffer.never_made and buffer.error is not None]
    return errors[0] if errors else EmulatorError("an input was never made")


def free(session: Session, handles: Sequence[int]) -> None:
    """Give arrays back; InvalidHandleError if one is not there."""
    arrays = session.arrays
    for handle in handles:
        buffer = arrays.pop(handle, None)
        if buffer is None:
            raise InvalidHandleError(f"array {handle} does not exist or was freed already")
        buffer.release()


def view(session: Session, source: int, handle: int, shape: Sequence[int], start: int) -> None:
    """See elements `start` to `start + n` of an array in another shape.

    Raises:
        KernelError: they are not inside.
    """
    base = session.array(source)
    spec = Spec(base.spec.dtype, normal_shape(shape))
    session.check_new(handle)
    storage = base.storage
    if storage.allocation is None:
        session.stand_for_nothing((handle,), reason([base]), storage.stream)
        return
    if type(start) is not int or not 0 <= start <= base.spec.size - spec.size or len(spec.shape) > MAX_AXES:
        raise KernelValueError(f"{base.spec} cannot be seen as {spec} from element {start!r}")
    storage.allocation.pool.share(storage.allocation)
    seen = session.arrays[handle] = Buffer(spec, storage)
    base.uses += 1
    # On the writer's stream, so that there is something to look at.
    storage.position = storage.stream.add(View(base, seen, start))


def run(session: Session, codes: Sequence[int], words: Callable[[], None]) -> None:
    """Do what a row of numbers says; `words` does the next command in words.

    Raises:
        ProtocolError: a number that means nothing, or a row that is cut off; what came before it has been done.
    """
    position, end = 0, len(codes)
    signatures, arrays = session.signatures, session.arrays
    while position < end:
        code = codes[position]
        if code >= 0:
            signature = signatures.get(code)
            if signature is None:
                raise ProtocolError(f"signature {code} was never prepared")
            session.number += 1
            stop = position + signature.length
            if stop > end:
                raise ProtocolError("a launch is cut off")
            if not _start_plainly(session, signature, codes, position + 1):
                split = position + 1 + signature.counts[0]
                _start_carefully(session, signature, codes[position + 1 : split], codes[split:stop])
            position = stop
        elif code == FREE and position + 2 < end and codes[position + 1] == 1 and codes[position + 2] in arrays:
            arrays.pop(codes[position + 2]).release()
            position += 3
        elif code == WORDS:
            words()
            position += 1
        else:
            count = codes[position + 1] if code in (FREE, FORGET) else codes[position + 4] + 3
            stop = position + 2 + count
            if code < VIEW or count < 0 or stop > end:
                raise ProtocolError(f"number {code} with {count} others means nothing here, or is cut off")
            rest = codes[position + (2 if code != VIEW else 1) : stop]
            try:
                if code == FREE:
                    free(session, rest)
                elif code == FORGET:
                    forget(session, rest)
                else:
                    session.number += 1
                    view(session, rest[0], rest[1], rest[4:], rest[2])
            except ProtocolError:
                raise
            except (EmulatorError, InputError) as exc:
                new = rest[1:2] if code == VIEW and rest[1] not in session.arrays else ()
                call = Call(session.number, _WORDS[code], (), {}, session.failures)
                session.failed(call, exc, new, session.streams[0])
            position = stop


_WORDS: Final = {FREE: "free", FORGET: "forget", VIEW: "view"}


def forget(session: Session, handles: Sequence[int]) -> None:
    """Events that the client no longer has."""
    for handle in handles:
        session.events.pop(handle, None)
