"""What each request of a client gives: one table, one function each. A request is the last thing of its frame.

Flows in: `[name, argument ...]` from a frame's header, nothing of which is trusted. Flows out: a `Reply`, or the
earliest failure of the commands before it. Not here: commands (`dispatch`), frames (`wire`).

    read  array segment offset      (segment -1: in the reply's body)
    synchronize  [streams]|null     event  event       memory  device      empty  device
    segment  new size               (gives a file descriptor)          discard  segment     drain
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from supernode.emulator.segments import raw
from supernode.emulator.session import Session
from supernode.errors import InvalidHandleError, ProtocolError, SupernodeError


@dataclass
class Reply:
    """The answer to a request: a header, bytes, and file descriptors to pass on."""

    header: dict[str, Any] = field(default_factory=dict)
    body: list[memoryview] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)


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
    buffer = session.array(handle)
    spend = buffer.storage.stream.device.costs.copy_seconds(buffer.spec.nbytes)
    session.synchronise([buffer.storage.stream], spend=spend)
    if buffer.error is not None:
        raise buffer.error
    if buffer.data is None:
        raise InvalidHandleError(f"array {handle} was never written")
    if segment < 0:
        return Reply(body=[raw(buffer.data)])
    session.segments.write(segment, offset, buffer.data)
    return Reply()


def _synchronize(session: Session, handles: list[int] | None) -> Reply:
    streams = list(session.streams.values()) if handles is None else [session.stream(handle) for handle in handles]
    return Reply({"seconds": session.synchronise(streams)})


def _event(session: Session, handle: int) -> Reply:
    session.flush()
    session.host_seconds = max(session.host_seconds, session.wait([session.event(handle)]))
    session.raise_failure()
    return Reply({"seconds": session.event(handle).seconds})


def _memory(session: Session, ordinal: int) -> Reply:
    if not 0 <= ordinal < len(session.devices):
        raise InvalidHandleError(f"there is no device {ordinal}")
    card, own = session.devices[ordinal].memory.use(), session.pools[ordinal].use()
    return Reply({"card": card._asdict(), "own": own._asdict()})


def _empty(session: Session, ordinal: int) -> Reply:
    """Give back what no array needs, once all work is done that might still."""
    if not 0 <= ordinal < len(session.devices):
        raise InvalidHandleError(f"there is no device {ordinal}")
    return Reply({"given": session.pools[ordinal].empty()})


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
    "synchronize": _synchronize,
    "event": _event,
    "memory": _memory,
    "empty": _empty,
    "segment": _segment,
    "discard": _discard,
    "drain": _drain,
}
