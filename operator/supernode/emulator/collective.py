"""Collectives of a client: the command, its checks, and the work item that a stream runs.

Flows in: the command's arguments, nothing of which is trusted. Flows out: a ticket of the fabric, taken in the order of
the client's program, and an item on the stream. Not here: how ranks meet and bytes move (`fabric`).

    collective  stream kind ranks sequence dtype count reduce peer channel send receive shape {more}
    more: generation, sends, receives (all_to_all_v), where (the caller's line)
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from supernode.emulator.dtypes import DTYPES
from supernode.emulator.fabric.call import CollectiveCall
from supernode.emulator.fabric.participant import Participant, Ticket
from supernode.emulator.kernels import Spec
from supernode.emulator.kernels.rules import known_dtype
from supernode.emulator.launches import a_spec
from supernode.emulator.runtime.buffer import Buffer
from supernode.emulator.runtime.call import Call, first_error, poison
from supernode.emulator.runtime.host import check_room
from supernode.emulator.runtime.stream import Stream
from supernode.emulator.session import Session
from supernode.emulator.trace import COLLECTIVE
from supernode.errors import EmulatorError, ProtocolError

_MAX_RANKS: Final = 1 << 16
_MAX_WHERE: Final = 300


def collective(
    session: Session,
    body: memoryview,
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
    more: dict[str, Any] | None = None,
) -> None:
    """Put a collective on a stream.

    Raises:
        ProtocolError: it is not one.
    """
    stream = session.stream(stream_handle)
    words = _words(kind, ranks, sequence, known_dtype(dtype), count, reduce, peer, channel, more or {})
    new = () if shape is None or receive is None else (receive,)
    call = Call(session.number, words.kind, (), words.words(), session.failures)
    try:
        ticket = session.program.issue(words, stream.device.ordinal, stream)
    except EmulatorError as exc:
        session.failed(call, exc, new, stream)
        return
    source: Buffer | None = None
    target: Buffer | None = None
    refused = ""
    try:
        source = None if send is None else session.array(send)
        specs = () if source is None else (source.spec,)
        call = Call(session.number, words.kind, specs, words.words(), session.failures)
        if new:
            target = session.new_array(new[0], a_spec(dtype, shape), stream, words.kind)
        else:
            target = None if receive is None else session.array(receive)
    except ProtocolError:
        raise
    except EmulatorError as exc:
        session.failed(call, exc, new, stream)
        # The others are coming: they need not wait for the deadline.
        refused = f"{type(exc).__name__}: {exc}"
    if source is not None:
        session.order_read(stream, source.storage)
        source.uses += 1
    if target is not None:
        target.uses += 1
        session.order_write(stream, target.storage)
    item = Collective(call, ticket, session.program, source, target, session.host_seconds, refused)
    position = stream.add(item)
    if source is not None and source.storage.stream is not stream:
        source.storage.read(stream, position)
    if target is not None:
        target.storage.written(stream, position)


def _words(
    kind: str,
    ranks: list[int],
    sequence: int,
    dtype: str,
    count: int,
    reduce: str,
    peer: int,
    channel: int,
    more: dict[str, Any],
) -> CollectiveCall:
    sends, receives = tuple(more.get("sends", ())), tuple(more.get("receives", ()))
    generation, where = more.get("generation", 0), more.get("where", "")
    numbers = (sequence, count, peer, channel, generation, *ranks, *sends, *receives)
    if not all(type(number) is int and abs(number) < 1 << 62 for number in numbers) or len(ranks) > _MAX_RANKS:
        raise ProtocolError(f"collective {kind} with numbers that are none")
    if not isinstance(where, str):
        raise ProtocolError(f"collective {kind} comes from a line that is none")
    return CollectiveCall(
        str(kind),
        tuple(ranks),
        sequence,
        dtype,
        count,
        str(reduce),
        peer,
        channel,
        generation,
        sends,
        receives,
        where[:_MAX_WHERE],
    )


class Collective:
    """Take part in a collective of the job; blocks the stream until the fabric is done or its deadline has passed."""

    __slots__ = ("call", "issued", "program", "receive", "refused", "send", "ticket")

    def __init__(
        self,
        call: Call,
        ticket: Ticket,
        program: Participant,
        send: Buffer | None,
        receive: Buffer | None,
        issued: float,
        refused: str,
    ) -> None:
        self.call = call
        self.ticket = ticket
        self.program = program
        self.send = send
        self.receive = receive
        self.issued = issued
        self.refused = refused

    def run(self, stream: Stream) -> None:
        """Run it; the device time of the end comes from the fabric."""
        if stream.aborted:
            return
        buffers = [buffer for buffer in (self.send, self.receive) if buffer is not None]
        error = first_error(buffers)
        if error is not None or self.refused:
            if error is not None:
                poison(buffers, error)
            self.program.withdraw(self.ticket, self.refused or f"{type(error).__name__}: {error}")
            return
        start = max([stream.seconds, self.issued, *(buffer.storage.ready_seconds for buffer in buffers)])
        if self.receive is not None:
            start = max(start, self.receive.storage.free_seconds)
        try:
            if self.receive is not None and self.receive.data is None:
                spec: Spec = self.receive.spec
                check_room(spec.nbytes)
                # Zeros, not what lies there: a call that leaves part of it alone must not show what others had.
                self.receive.data = np.zeros(spec.shape, DTYPES[spec.dtype])
            send = None if self.send is None else self.send.data
            receive = None if self.receive is None else self.receive.data
            end = self.program.run(self.ticket, send, receive, start)
        except Exception as exc:
            poison(buffers, self.call.failed(exc, stream.device.name))
            return
        stream.reach(end, busy=max(end - start, 0.0))
        if stream.trace is not None:
            self._remember(stream, start, end)
        if self.receive is not None:
            self.receive.storage.ready_seconds = stream.seconds
        if self.send is not None:
            self.send.storage.sent(stream.seconds)
        stream.collectives[self.ticket.call.kind] += 1

    def _remember(self, stream: Stream, start: float, end: float) -> None:
        """Tell the trace: from when the device was ready; it moved bytes in `moving` (begin and end, microseconds)."""
        ticket = self.ticket
        words = {**ticket.call.words(), "group": str(list(ticket.call.group))[:200]}
        if ticket.moving:
            words["moving"] = [round(ticket.moving[0][0] * 1e6, 6), round(ticket.moving[-1][1] * 1e6, 6)]
        if stream.trace is not None:
            stream.trace.add(stream.lane, COLLECTIVE, ticket.call.kind, start, end, words)
