"""What each command of a client does: one table, one function each.

A command has no answer: `[name, argument ...]`, numbered from 1. What a command refuses is kept as the failure of that
number and reported at the next request. Flows in: lists from a frame's header, nothing of which is trusted. Flows
out: work items. Not here: requests (`answer`), the session's tables (`session`), frames (`wire`).

    launch  stream kernel [inputs] [new handles] {attributes}     into    the same, results go into existing arrays
    upload  stream handle dtype shape segment offset               (segment -1: the frame's body)
    view    array new shape          move  stream array new        free   [arrays]
    stream  new device               close stream
    record  stream new               wait  stream event            forget [events]
    collective  stream kind ranks sequence dtype count reduce peer channel send receive shape
    report  {fields}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from supernode.emulator.dtypes import DTYPES
from supernode.emulator.fabric.call import CollectiveCall
from supernode.emulator.kernels import TABLE, Plan, Spec
from supernode.emulator.kernels.rules import known_dtype, normal_shape
from supernode.emulator.kernels.table import MAX_AXES, MAX_BYTES
from supernode.emulator.progress import checked
from supernode.emulator.runtime.buffer import Buffer
from supernode.emulator.runtime.stream import Stream
from supernode.emulator.runtime.work import Call, Collective, CopyAcross, CopyIn, Launch, Marker, View, Wait
from supernode.emulator.segments import raw
from supernode.emulator.session import MAX_EVENTS, Session
from supernode.errors import (
    EmulatorError,
    InputError,
    InvalidHandleError,
    KernelError,
    ProtocolError,
    SupernodeError,
)


def execute(session: Session, commands: object, body: bytearray) -> None:
    """Run a batch of commands.

    Raises:
        ProtocolError: a command that is not one; what came before it in the batch has been done.
    """
    if not isinstance(commands, list):
        raise ProtocolError(f"commands must be a list, not {type(commands).__name__}")
    try:
        for command in commands:
            session.number += 1
            try:
                COMMANDS[command[0]](session, body, *command[1:])
            except (EmulatorError, InputError) as exc:
                if isinstance(exc, ProtocolError):
                    raise
                _refused(session, command, exc)
    except SupernodeError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as exc:
        raise ProtocolError(f"command {session.number} is not understood: {exc!r}") from exc
    finally:
        session.flush()


# What a command would have made: handles that stand for nothing when it is refused.
_NEW: Final[Mapping[str, Callable[[list[Any]], list[int]]]] = {
    "launch": lambda command: command[4],
    "upload": lambda command: [command[2]],
    "view": lambda command: [command[2]],
    "move": lambda command: [command[3]],
    "collective": lambda command: [] if command[13] is None or command[12] is None else [command[12]],
}


def _refused(session: Session, command: list[Any], exc: Exception) -> None:
    name = str(command[0])
    new = _NEW[name](command) if name in _NEW else []
    handles = [handle for handle in new if handle not in session.arrays]
    session.failed(_call(session, name, (), {}), exc, handles, session.streams[0])


def _call(session: Session, name: str, specs: Sequence[Spec], attributes: Mapping[str, Any]) -> Call:
    return Call(session.number, name, specs, attributes, session.failures)


def _spec(dtype: object, shape: object) -> Spec:
    spec = Spec(known_dtype(dtype), normal_shape(shape))
    if len(spec.shape) > MAX_AXES or spec.nbytes > MAX_BYTES:
        raise KernelError(f"{spec} is not possible")
    return spec


# --- commands -----------------------------------------------------------------------------------------------------


def _launch(
    session: Session,
    body: bytearray,
    stream_handle: int,
    name: str,
    inputs: list[int],
    handles: list[int],
    attributes: dict[str, Any],
) -> None:
    _start(session, stream_handle, name, inputs, handles, attributes, into=False)


def _launch_into(
    session: Session,
    body: bytearray,
    stream_handle: int,
    name: str,
    inputs: list[int],
    handles: list[int],
    attributes: dict[str, Any],
) -> None:
    _start(session, stream_handle, name, inputs, handles, attributes, into=True)


def _start(
    session: Session,
    stream_handle: int,
    name: str,
    inputs: list[int],
    handles: list[int],
    attributes: dict[str, Any],
    *,
    into: bool,
) -> None:
    stream = session.stream(stream_handle)
    specs: tuple[Spec, ...] = ()
    device = stream.device
    try:
        buffers = [session.array(handle) for handle in inputs]
        specs = tuple([buffer.spec for buffer in buffers])
        call = Call(session.number, name, specs, attributes, session.failures)
        elsewhere = []
        for buffer in buffers:
            storage = buffer.storage
            if storage.allocation is None:
                # What follows from a refused call carries the same reason, not a new one.
                session.stand_for_nothing(() if into else handles, _reason(buffers), stream)
                return
            if storage.stream is not stream:
                if storage.stream.device is not device:
                    raise KernelError(f"an input is on {storage.stream.device.name}; copy it here first")
                elsewhere.append(storage)
        plan = TABLE.plan(name, specs, attributes)
        seconds = device.costs.seconds(plan.cost)
        outputs: list[Buffer] = []
        if into:
            outputs = _targets(session, handles, plan, stream)
        elif len(handles) != len(plan.outputs):
            raise ProtocolError(f"{name} has {len(plan.outputs)} results, but {len(handles)} handles came")
        else:
            for handle, spec, nbytes in zip(handles, plan.outputs, plan.nbytes, strict=True):
                outputs.append(session.new_array(handle, spec, stream, name, nbytes))
    except ProtocolError:
        raise
    except (EmulatorError, InputError) as exc:
        session.failed(_call(session, name, specs, attributes), exc, () if into else handles, stream)
        return
    written = [buffers[index].storage for index in plan.kernel.writes]
    if into:
        written += [buffer.storage for buffer in outputs]
    for storage in elsewhere:
        session.order_read(stream, storage)
    for storage in written:
        session.order_write(stream, storage)
    position = stream.add(Launch(call, plan, buffers, outputs, into=into, seconds=seconds, issued=session.host_seconds))
    for storage in elsewhere:
        storage.read(stream, position)
    for buffer in outputs:
        buffer.storage.position = position
    for storage in written:
        storage.written(stream, position)


def _reason(buffers: Sequence[Buffer]) -> SupernodeError:
    errors = [buffer.error for buffer in buffers if buffer.never_made and buffer.error is not None]
    return errors[0] if errors else EmulatorError("an input was never made")


def _targets(session: Session, handles: list[int], plan: Plan, stream: Stream) -> list[Buffer]:
    """Existing arrays that results go into, checked."""
    outputs = [session.array(handle) for handle in handles]
    if tuple([buffer.spec for buffer in outputs]) != plan.outputs:
        given = ", ".join(str(buffer.spec) for buffer in outputs)
        raise KernelError(f"the result is {', '.join(map(str, plan.outputs))}, but out is {given}")
    for buffer in outputs:
        if buffer.storage.stream.device is not stream.device or buffer.never_made:
            raise KernelError("out is on another device, or was never made")
    return outputs


def _upload(
    session: Session,
    body: bytearray,
    stream_handle: int,
    handle: int,
    dtype: str,
    shape: list[int],
    segment: int,
    offset: int,
) -> None:
    stream = session.stream(stream_handle)
    spec = _spec(dtype, shape)
    call = _call(session, "upload", (spec,), {})
    try:
        buffer = session.new_array(handle, spec, stream, "upload")
    except ProtocolError:
        raise
    except EmulatorError as exc:
        session.failed(call, exc, (handle,), stream)
        return
    try:
        if segment >= 0:
            data = session.segments.read(segment, offset, spec)
        else:
            if not 0 <= offset <= len(body) - spec.nbytes:
                raise ProtocolError(f"{spec} at {offset} is not inside a body of {len(body)} bytes")
            data = np.empty(spec.shape, DTYPES[spec.dtype])
            raw(data)[:] = memoryview(body)[offset : offset + spec.nbytes]
    except (MemoryError, OSError) as exc:
        session.failed(call, exc, (handle,), stream)
        return
    if spec.dtype == "bool":  # any other byte than 0 and 1 would be a bool that NumPy does not have
        data = np.asarray(data.view(np.uint8) != 0)  # stays an array where it has no axes
    buffer.storage.written(stream, stream.add(CopyIn(buffer, data, session.host_seconds)))


def _view(session: Session, body: bytearray, source: int, handle: int, shape: list[int], start: int) -> None:
    base = session.array(source)
    spec = Spec(base.spec.dtype, normal_shape(shape))
    session.check_new(handle)
    storage = base.storage
    if storage.allocation is None:
        session.stand_for_nothing((handle,), _reason([base]), storage.stream)
        return
    if type(start) is not int or not 0 <= start <= base.spec.size - spec.size or len(spec.shape) > MAX_AXES:
        raise KernelError(f"{base.spec} cannot be seen as {spec} from element {start!r}")
    storage.allocation.memory.share(storage.allocation)
    view = session.arrays[handle] = Buffer(spec, storage)
    # On the writer's stream, so that there is something to look at.
    storage.position = storage.stream.add(View(base, view, start))


def _move(session: Session, body: bytearray, stream_handle: int, source: int, handle: int) -> None:
    stream, base = session.stream(stream_handle), session.array(source)
    call = _call(session, "move", (base.spec,), {})
    session.check_new(handle)
    if base.never_made:
        session.stand_for_nothing((handle,), _reason([base]), stream)
        return
    try:
        target = session.new_array(handle, base.spec, stream, "move")
    except EmulatorError as exc:
        session.failed(call, exc, (handle,), stream)
        return
    session.order_read(stream, base.storage)
    position = stream.add(CopyAcross(call, base, target, session.host_seconds))
    if base.storage.stream is not stream:
        base.storage.read(stream, position)
    target.storage.written(stream, position)


def _free(session: Session, body: bytearray, handles: list[int]) -> None:
    for handle in handles:
        buffer = session.arrays.pop(handle, None)
        if buffer is None:
            raise InvalidHandleError(f"array {handle} does not exist or was freed already")
        buffer.release()


def _new_stream(session: Session, body: bytearray, handle: int, ordinal: int) -> None:
    session.add_stream(int(handle), int(ordinal))


def _close_stream(session: Session, body: bytearray, handle: int) -> None:
    stream = session.stream(handle)
    if handle < len(session.devices):
        raise InvalidHandleError(f"stream {handle} is the default stream of a device and stays")
    session.wait(session.mark([stream]))
    del session.streams[handle]
    stream.close()
    # What it wrote is done; from now on the default stream stands for it.
    default = session.streams[stream.device.ordinal]
    for buffer in session.arrays.values():
        if buffer.storage.stream is stream:
            buffer.storage.written(default, 0)


def _record(session: Session, body: bytearray, stream_handle: int, handle: int) -> None:
    if handle in session.events or len(session.events) >= MAX_EVENTS:
        raise ProtocolError(f"event {handle} exists, or there are too many ({len(session.events)})")
    marker = Marker(issued=session.host_seconds)
    session.stream(stream_handle).add(marker)
    session.events[handle] = marker


def _wait(session: Session, body: bytearray, stream_handle: int, handle: int) -> None:
    session.stream(stream_handle).add(Wait(session.event(handle)))


def _forget(session: Session, body: bytearray, handles: list[int]) -> None:
    for handle in handles:
        session.events.pop(handle, None)


def _collective(
    session: Session,
    body: bytearray,
    stream_handle: int,
    kind: str,
    ranks: list[int],
    sequence: int,
    dtype: str,
    count: int,
    reduce: str,
    peer: int,
    channel: int,
    send: int | None,
    receive: int | None,
    shape: list[int] | None,
) -> None:
    stream = session.stream(stream_handle)
    numbers = (sequence, count, peer, channel, *ranks)
    if not all(type(number) is int and abs(number) < 1 << 62 for number in numbers) or len(ranks) > 1 << 16:
        raise ProtocolError(f"collective {kind} with numbers that are none")
    words = CollectiveCall(str(kind), tuple(ranks), sequence, known_dtype(dtype), count, str(reduce), peer, channel)
    new = () if shape is None or receive is None else (receive,)
    specs: tuple[Spec, ...] = ()
    call = _call(session, words.kind, (), words.words())
    try:
        source = None if send is None else session.array(send)
        if source is not None:
            specs = (source.spec,)
            call = _call(session, words.kind, specs, words.words())
        if new:
            target: Buffer | None = session.new_array(new[0], _spec(dtype, shape), stream, words.kind)
        else:
            target = None if receive is None else session.array(receive)
    except ProtocolError:
        raise
    except EmulatorError as exc:
        session.failed(call, exc, new, stream)
        return
    if source is not None:
        session.order_read(stream, source.storage)
    if target is not None:
        session.order_write(stream, target.storage)
    position = stream.add(Collective(call, words, session.fabric, source, target, session.host_seconds))
    if source is not None and source.storage.stream is not stream:
        source.storage.read(stream, position)
    if target is not None:
        target.storage.written(stream, position)


def _report(session: Session, body: bytearray, fields: dict[str, Any]) -> None:
    report = checked(fields)
    # The device time of the report must not depend on how far the streams happen to be.
    session.wait(session.mark(session.streams.values()))
    session.progress.report(report, max(device.seconds for device in session.devices))


COMMANDS: Final[Mapping[str, Callable[..., None]]] = {
    "launch": _launch,
    "into": _launch_into,
    "upload": _upload,
    "view": _view,
    "move": _move,
    "free": _free,
    "stream": _new_stream,
    "close": _close_stream,
    "record": _record,
    "wait": _wait,
    "forget": _forget,
    "collective": _collective,
    "report": _report,
}
