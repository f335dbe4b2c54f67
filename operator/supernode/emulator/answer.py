"""What each request of a client gives: one table, one function each. A request is the last thing of its frame.

Flows in: `[name, argument ...]` from a frame's header, nothing of which is trusted. Flows out: a `Reply`, or the
earliest failure of the commands before it. Not here: commands (`dispatch`), frames (`wire`).

    read  array segment offset      (segment -1: in the reply's body)
    fetch  array                    (gives a descriptor, or none)      file  new size   (a descriptor, or none)
    synchronize  [streams]|null     event  event       memory  device      empty  device
    segment  new size               (gives a file descriptor)          discard  segment     drain
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from supernode.emulator.kernels.table import AnyArray
from supernode.emulator.runtime.buffer import Buffer
from supernode.emulator.runtime.host import give_back
from supernode.emulator.sealed import SealedStorage, give
from supernode.emulator.segments import raw
from supernode.emulator.session import Session
from supernode.errors import InvalidHandleError, ProtocolError, SupernodeError


@dataclass
class Reply:
    """The answer to a request: a header, bytes, and file descriptors to pass on (`keep`: what they belong to)."""

    header: dict[str, Any] = field(default_factory=dict)
    body: list[memoryview] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    keep: object = None


def answer(session: Session, request: object) -> Reply:
    """Run a request.

    Raises:
        SupernodeError: what the request itself refuses, or the earliest failure of the commands before it.
    """
    name, *arguments = request if isinstance(request, list) and request else [None]
    if not isinstance(name, str) or name not in REQUESTS:
        raise ProtocolError(f"no such request: {str(request)[:100]}")
    try:
        return REQUESTS[name](session, *arguments)
    except SupernodeError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as exc:
        raise ProtocolError(f"request {name} is not understood: {exc!r}") from exc


def _read(session: Session, handle: int, segment: int, offset: int) -> Reply:
    _, data = _wait_for(session, handle)
    if segment < 0:
        return Reply(body=[raw(data)])
    session.segments.write(segment, offset, data)
    return Reply()


def _fetch(session: Session, handle: int) -> Reply:
    """The same in a sealed file; without a descriptor where there can be none."""
    buffer, data = _wait_for(session, handle)
    storage = buffer.storage
    file = storage.file if isinstance(storage, SealedStorage) else None
    if file is None or file.size != data.nbytes:
        file = give(data)
    return Reply() if file is None else Reply(descriptors=[file.descriptor], keep=file)


def _wait_for(session: Session, handle: int) -> tuple[Buffer, AnyArray]:
    buffer = session.array(handle)
    spend = buffer.storage.stream.device.costs.host_copy_seconds(buffer.spec.nbytes)
    session.synchronise([buffer.storage.stream], spend=spend)
    if buffer.error is not None:
        raise buffer.error
    if buffer.data is None:
        raise InvalidHandleError(f"array {handle} was never written")
    return buffer, buffer.data


def _file(session: Session, number: int, size: int) -> Reply:
    limit = max(device.memory.limit for device in session.devices)
    descriptor = session.hand.create(number, size, limit)
    return Reply(descriptors=[] if descriptor is None else [descriptor])


def _synchronize(session: Session, handles: list[int] | None) -> Reply:
    streams = list(session.streams.values()) if handles is None else [session.stream(handle) for handle in handles]
    return Reply({"seconds": session.synchronise(streams)})


def _event(session: Session, handle: int) -> Reply:
    session.flush()
    session.host_seconds = max(session.host_seconds, session.wait([session.event(handle)]))
    session.raise_failure()
    return Reply({"seconds": session.event(handle).seconds})


def _reached(session: Session, handle: int) -> Reply:
    session.flush()
    return Reply({"reached": session.event(handle).done.is_set()})


def _memory(session: Session, ordinal: int) -> Reply:
    if not 0 <= ordinal < len(session.devices):
        raise InvalidHandleError(f"there is no device {ordinal}")
    card, own = session.devices[ordinal].memory.use(), session.pools[ordinal].use()
    return Reply({"card": card._asdict(), "own": own._asdict()})


def _empty(session: Session, ordinal: int) -> Reply:
    """Give back what no array needs, once all work is done that might still."""
    if not 0 <= ordinal < len(session.devices):
        raise InvalidHandleError(f"there is no device {ordinal}")
    given = session.pools[ordinal].empty()
    give_back()
    return Reply({"given": given})


def _segment(session: Session, number: int, size: int) -> Reply:
    return Reply(descriptors=[session.segments.create(number, size)])


def _discard(session: Session, number: int) -> Reply:
    session.segments.discard(number)
    return Reply()


def _drain(session: Session) -> Reply:
    """Everything sent before has been read: shared memory may be used again."""
    return Reply()


REQUESTS: Final[Mapping[str, Callable[..., Reply]]] = {
    "read": _read,
    "fetch": _fetch,
    "file": _file,
    "synchronize": _synchronize,
    "event": _event,
    "reached": _reached,
    "memory": _memory,
    "empty": _empty,
    "segment": _segment,
    "discard": _discard,
    "drain": _drain,
}
