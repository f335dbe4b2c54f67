"""What each command of a client does: one table, one function each.

A command has no answer: `[name, argument ...]`, numbered from 1. What a command refuses is kept as the failure of that
number and reported at the next request. Most launches come as numbers instead (`launches`). Flows in: lists from a
frame's header, nothing of which is trusted. Flows out: work items. Not here: requests (`answer`), the session's tables
(`session`), frames (`wire`).

    launch  stream kernel [inputs] [new handles] {attributes}     into    the same, results go into existing arrays
    prepare code stream kernel [[dtype, shape] ...] outputs {attributes} into      launches by number (`launches`)
    upload  stream handle dtype shape segment offset               (segment -1: the frame's body)
    adopt   stream handle dtype shape file                         (`sealed`)
    view    array new shape          move  stream array new        free   [arrays]
    stream  new device priority      close stream
    record  stream new               wait  stream event            forget [events]
    collective  ...                                                (`collective`)
    report  {fields}
"""

from __future__ import annotations

import array
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from supernode.emulator import launches
from supernode.emulator.collective import collective
from supernode.emulator.dtypes import DTYPES
from supernode.emulator.kernels import Spec
from supernode.emulator.progress import checked
from supernode.emulator.runtime.call import Call
from supernode.emulator.runtime.work import CopyAcross, CopyIn, Marker, Wait
from supernode.emulator.sealed import SealedStorage
from supernode.emulator.segments import raw
from supernode.emulator.session import MAX_EVENTS, Session
from supernode.emulator.wire import MAX_SIGNATURES
from supernode.errors import EmulatorError, InputError, InvalidHandleError, ProtocolError, SupernodeError


def execute(session: Session, header: Mapping[str, Any], body: bytearray) -> None:
    """Run a batch: the numbers at the start of the body, which call for the commands in words one by one.

    Commands that no number has called for follow in order.

    Raises:
        ProtocolError: a command that is not one; what came before it in the batch has been done.
    """
    commands, count = header.get("commands", []), header.get("codes", 0)
    if not isinstance(commands, list):
        raise ProtocolError(f"commands must be a list, not {type(commands).__name__}")
    if type(count) is not int or not 0 <= count <= len(body) // 8:
        raise ProtocolError(f"{count!r} numbers are not inside a body of {len(body)} bytes")
    rest = memoryview(body)[8 * count :]
    waiting = iter(commands)

    def words() -> None:
        command = next(waiting, None)
        if command is None:
            raise ProtocolError("the numbers call for more commands than there are")
        _command(session, command, rest)

    try:
        if count:
            codes = array.array("q", bytes(memoryview(body)[: 8 * count]))
            if sys.byteorder == "big":
                codes.byteswap()
            launches.run(session, codes.tolist(), words)
        for command in waiting:
            _command(session, command, rest)
    except SupernodeError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as exc:
        raise ProtocolError(f"command {session.number} is not understood: {exc!r}") from exc
    finally:
        session.flush()


def _command(session: Session, command: list[Any], body: memoryview) -> None:
    session.number += command[0] != "prepare"
    try:
        COMMANDS[command[0]](session, body, *command[1:])
    except (EmulatorError, InputError) as exc:
        if isinstance(exc, ProtocolError):
            raise
        _refused(session, command, exc)


# What a command would have made: handles that stand for nothing when it is refused.
_NEW: Final[Mapping[str, Callable[[list[Any]], list[int]]]] = {
    "launch": lambda command: command[4],
    "upload": lambda command: [command[2]],
    "adopt": lambda command: [command[2]],
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


# --- commands -----------------------------------------------------------------------------------------------------


def _launch(
    session: Session,
    body: memoryview,
    stream_handle: int,
    name: str,
    inputs: list[int],
    handles: list[int],
    attributes: dict[str, Any],
    *,
    into: bool = False,
) -> None:
    """A launch that is said once: it need not be prepared."""
    stream = session.stream(stream_handle)
    try:
        found = [session.array(handle) for handle in inputs]
    except InvalidHandleError as exc:
        session.failed(_call(session, name, (), attributes), exc, () if into else handles, stream)
        return
    if any(buffer.never_made for buffer in found):
        session.stand_for_nothing(() if into else handles, launches.reason(found), stream)
        return
    specs = [buffer.spec for buffer in found]
    signature = launches.prepare(session, stream_handle, name, specs, len(handles), attributes, into=into)
    launches.start(session, signature, inputs, handles)


def _launch_into(session: Session, body: memoryview, *arguments: Any) -> None:
    _launch(session, body, *arguments, into=True)


def _prepare(
    session: Session,
    body: memoryview,
    code: int,
    stream_handle: int,
    name: str,
    specs: list[list[Any]],
    outputs: int,
    attributes: dict[str, Any],
    into: bool,
) -> None:
    """Say what launches of a code have in common; a code that is said again means something else from now on."""
    if type(code) is not int or not 0 <= code < MAX_SIGNATURES or type(outputs) is not int or outputs < 0:
        raise ProtocolError(f"{code!r} is not a signature of 0 to {MAX_SIGNATURES - 1}")
    given = [launches.a_spec(dtype, shape) for dtype, shape in specs]
    session.signatures[code] = launches.prepare(
        session, stream_handle, name, given, outputs, attributes, into=into is True
    )


def _upload(
    session: Session,
    body: memoryview,
    stream_handle: int,
    handle: int,
    dtype: str,
    shape: list[int],
    segment: int,
    offset: int,
) -> None:
    stream = session.stream(stream_handle)
    spec = launches.a_spec(dtype, shape)
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
            raw(data)[:] = body[offset : offset + spec.nbytes]
    except (MemoryError, OSError) as exc:
        session.failed(call, exc, (handle,), stream)
        return
    if spec.dtype == "bool":  # any other byte than 0 and 1 would be a bool that NumPy does not have
        data = np.asarray(data.view(np.uint8) != 0)  # stays an array where it has no axes
    buffer.storage.written(stream, stream.add(CopyIn(buffer, data, session.host_seconds)))


def _adopt(
    session: Session, body: memoryview, stream_handle: int, handle: int, dtype: str, shape: list[int], number: int
) -> None:
    stream = session.stream(stream_handle)
    spec = launches.a_spec(dtype, shape)
    try:
        data, file = session.hand.take(number, spec)
        buffer = session.new_array(handle, spec, stream, "upload")
    except ProtocolError:
        raise
    except EmulatorError as exc:
        session.failed(_call(session, "upload", (spec,), {}), exc, (handle,), stream)
        return
    storage = buffer.storage
    if spec.dtype == "bool":
        data = data.view(np.uint8) != 0
    elif storage.allocation is not None:
        storage = buffer.storage = SealedStorage(stream, storage.allocation, file)
    storage.position = stream.add(CopyIn(buffer, data, session.host_seconds))


def _view(session: Session, body: memoryview, source: int, handle: int, shape: list[int], start: int) -> None:
    launches.view(session, source, handle, shape, start)


def _move(session: Session, body: memoryview, stream_handle: int, source: int, handle: int) -> None:
    stream, base = session.stream(stream_handle), session.array(source)
    call = _call(session, "move", (base.spec,), {})
    session.check_new(handle)
    if base.never_made:
        session.stand_for_nothing((handle,), launches.reason([base]), stream)
        return
    try:
        target = session.new_array(handle, base.spec, stream, "move")
    except EmulatorError as exc:
        session.failed(call, exc, (handle,), stream)
        return
    session.order_read(stream, base.storage)
    base.uses += 1
    position = stream.add(CopyAcross(call, base, target, session.host_seconds))
    if base.storage.stream is not stream:
        base.storage.read(stream, position)
    target.storage.written(stream, position)


def _free(session: Session, body: memoryview, handles: list[int]) -> None:
    launches.free(session, handles)


def _new_stream(session: Session, body: memoryview, handle: int, ordinal: int, priority: int = 0) -> None:
    session.add_stream(int(handle), int(ordinal), max(-1, min(1, int(priority))))


def _close_stream(session: Session, body: memoryview, handle: int) -> None:
    stream = session.stream(handle)
    if handle < len(session.devices):
        raise InvalidHandleError(f"stream {handle} is the default stream of a device and stays")
    session.wait(session.mark([stream]))
    del session.streams[handle]
    for other in session.streams.values():
        other.above.pop(stream, None)
    stream.close()
    for signature in session.signatures.values():
        if signature.stream is stream:
            signature.withdraw(InvalidHandleError(f"stream {handle} does not exist or is closed"))
    # What it wrote is done; from now on the default stream stands for it.
    default = session.streams[stream.device.ordinal]
    for buffer in session.arrays.values():
        if buffer.storage.stream is stream:
            buffer.storage.written(default, 0)


def _record(session: Session, body: memoryview, stream_handle: int, handle: int) -> None:
    if handle in session.events or len(session.events) >= MAX_EVENTS:
        raise ProtocolError(f"event {handle} exists, or there are too many ({len(session.events)})")
    marker = Marker(issued=session.host_seconds)
    session.stream(stream_handle).add(marker)
    session.events[handle] = marker


def _wait(session: Session, body: memoryview, stream_handle: int, handle: int) -> None:
    session.stream(stream_handle).add(Wait(session.event(handle)))


def _forget(session: Session, body: memoryview, handles: list[int]) -> None:
    launches.forget(session, handles)


def _report(session: Session, body: memoryview, fields: dict[str, Any]) -> None:
    report = checked(fields)
    # The device time of the report must not depend on how far the streams happen to be.
    session.wait(session.mark(session.streams.values()))
    figures = [device.figures() for device in session.devices]
    # What the slowest device did itself: not in collectives, where it waits for other ranks too.
    own = max(each.busy_seconds - each.collective_seconds for each in figures)
    session.progress.report(report, max(each.seconds for each in figures), own)


COMMANDS: Final[Mapping[str, Callable[..., None]]] = {
    "launch": _launch,
    "into": _launch_into,
    "prepare": _prepare,
    "upload": _upload,
    "adopt": _adopt,
    "view": _view,
    "move": _move,
    "free": _free,
    "stream": _new_stream,
    "close": _close_stream,
    "record": _record,
    "wait": _wait,
    "forget": _forget,
    "collective": collective,
    "report": _report,
}
