"""One group's place in order: its devices meet here, one of their threads does the work, all leave together.

Each device counts its own calls in the channel; equal positions meet. The thread that comes last in this pod leads:
it agrees with the other pods and runs the collective for all devices of this pod. A mismatch ends one collective; a
timeout or a lost pod ends the channel, on every pod, with the same error, and every later call raises it again.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Final, Protocol

from supernode.emulator.fabric.agreement import agree, name_ranks
from supernode.emulator.fabric.call import CollectiveCall, say
from supernode.emulator.fabric.collectives import Part, alike, perform, prepare
from supernode.emulator.fabric.contention import Stretch
from supernode.emulator.fabric.link import Interrupted, Link, LinkDown, Stalled
from supernode.emulator.fabric.pods import Pods, Scratch
from supernode.emulator.fabric.timing import LinkClock
from supernode.errors import CollectiveMismatchError, CollectiveTimeoutError, FabricError, PeerLostError

# What a lost pod sent before it died may still complete a collective that is under way; and whoever sees a broken
# link waits this long for the news why.
GRACE_SECONDS: Final = 1.0
# Pods of one host up to here sum in shared memory; more go round a ring, as each pair there costs a few descriptors.
MOST_TOGETHER: Final = 16
# Pods over TCP up to here tell each other everything directly: of more, each would wait for too many.
MOST_DIRECT: Final = 8


class Neighbours(Protocol):
    """What a channel needs of the fabric around it."""

    timeout: float
    my_pod: int
    clock: LinkClock

    def pod_of(self, rank: int) -> int:
        """Pod of a global device rank."""

    def ring(self, pods: tuple[int, ...]) -> tuple[int, ...]:
        """Pods in ring order."""

    def link(self, channel: Channel, pod: int) -> Link:
        """A new data connection."""

    def together(self, pods: Iterable[int]) -> bool:
        """Whether these pods share memory."""

    def absent(self, channel: Channel, position: int) -> tuple[list[int], str]:
        """Ranks that have not come to a position, and remarks about them."""

    def tell(self, channel: Channel, error: FabricError) -> None:
        """Tell the other pods that the channel has failed."""

    def name_pod(self, pod: int) -> str:
        """A pod as people know it."""


class _Meeting:
    """The devices of this pod at one position."""

    def __init__(self) -> None:
        self.parts: dict[int, Part] = {}
        self.led = False
        self.done = False
        self.error: FabricError | None = None
        self.finish = 0.0
        self.moving: tuple[Stretch, ...] = ()


class Channel:
    """The channel `key` of the devices `group`, as seen by one pod."""

    def __init__(self, key: str, group: tuple[int, ...], around: Neighbours) -> None:
        self.key = key
        self.group = group
        self._around = around
        self.local = tuple(rank for rank in group if around.pod_of(rank) == around.my_pod)
        numbers = around.ring(tuple(sorted({around.pod_of(rank) for rank in group})))
        self.others = frozenset(numbers) - {around.my_pod}
        self._waker, self._bell = socket.socketpair()
        self._links: dict[int, Link] = {}
        self._pods = Pods(
            numbers=numbers,
            members=tuple(
                tuple(place for place, rank in enumerate(group) if around.pod_of(rank) == number) for number in numbers
            ),
            me=numbers.index(around.my_pod),
            connect=self._connect,
            waker=self._waker.fileno(),
            patience=around.timeout,
            scratch=Scratch(),
            direct=1 < len(numbers) <= MOST_DIRECT,
            together=1 < len(numbers) <= MOST_TOGETHER and around.together(numbers),
        )
        self._changed = threading.Condition()
        self._positions = dict.fromkeys(self.local, 0)
        self._meetings: dict[int, _Meeting] = {}
        self._turn = 0
        self._released = False
        self._failure: FabricError | None = None
        self._hurt = False  # a call of this pod has ended with the failure
        self._first_loss: PeerLostError | None = None
        self._end: tuple[int, FabricError] | None = None

    def run(self, part: Part) -> float:
        """Take part; blocks until done. The virtual finish time, or the FabricError that all ranks get."""
        ready: bool | None = True
        with self._changed:
            self.raise_failure()
            position = self._positions[part.rank]
            self._positions[part.rank] = position + 1
            meeting = self._meetings.get(position)
            if meeting is None:
                meeting = self._meetings[position] = _Meeting()
            meeting.parts[part.rank] = part
            if len(self.local) == 1 and self._turn == position:
                meeting.led = True
            else:
                self._changed.notify_all()
                ready = self._wait(meeting, position, time.monotonic() + self._around.timeout)
        if ready is None:
            self._report_absent(part, position)
        elif ready:
            self._lead(meeting, position)
        if not meeting.done:
            with self._changed:
                # Ours may be a buffer that the leader still uses: it always comes to an end, see `link.move`.
                while meeting.led and not meeting.done:
                    self._changed.wait()
        if meeting.done and meeting.error is None:
            if part.ticket is not None:
                part.ticket.settle(meeting.finish, meeting.moving)
            return meeting.finish
        if meeting.error is not None:
            self._hurt = self._failure is not None
            raise _again(meeting.error)
        self.raise_failure()
        raise FabricError(f"{say(part.call.words())} was given up")

    def _wait(self, meeting: _Meeting, position: int, deadline: float) -> bool | None:
        """True: this thread leads. False: it is over, or someone else leads. None: not all came in time."""
        while not (meeting.led or self._failure):
            if len(meeting.parts) == len(self.local) and self._turn == position:
                meeting.led = True
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._changed.wait(left)
        return False

    def _lead(self, meeting: _Meeting, position: int) -> None:
        parts = [meeting.parts[rank] for rank in self.local]
        call = parts[0].call
        error: FabricError | None = None
        try:
            pods = self._pods
            prepared = prepare(parts, pods) if alike(parts) else None
            going = None if prepared is None else prepared.going
            verdict = agree(parts, pods, self._around.clock, self._failed, going)
            meeting.finish, meeting.moving, along = verdict
            perform(parts, pods, prepared if along else None)
        except CollectiveMismatchError as exc:
            error = exc
        except LinkDown as exc:
            error = self._after_loss(call, exc)
        except Stalled as exc:
            error = self._after_stall(call, position, exc)
        except Interrupted:
            error = self.failure
        except FabricError as exc:
            error = exc
            self.fail(exc)
        except Exception as exc:  # whatever it is, the other ranks must not wait for ever
            error = FabricError(f"{say(call.words())} broke: {type(exc).__name__}: {exc}")
            self.fail(error)
        finally:
            with self._changed:
                meeting.error = error
                meeting.done = True
                self._turn += 1
                self._meetings.pop(position, None)
                self._changed.notify_all()
                ended = self._end if self._end is not None and self._turn >= self._end[0] else None
            if ended is not None:
                self.fail(ended[1], tell=False)

    def _failed(self) -> bool:
        return self._failure is not None

    @property
    def failure(self) -> FabricError | None:
        """Why this channel is dead, if it is."""
        return self._failure

    def raise_failure(self) -> None:
        """Raise the error that ended this channel, if any."""
        if self._failure is not None:
            self._hurt = True
            raise _again(self._failure)

    @property
    def concerns_others(self) -> bool:
        """Whether a pod that leaves has to pass the failure on: not the loss of a pod that it needed no more.

        The others see for themselves that it has left, and may still end well with what it sent before.
        """
        return self._hurt or not isinstance(self._failure, PeerLostError)

    def fail(self, error: FabricError, *, tell: bool = True) -> FabricError:
        """End the channel; the error that counts (the first). Wakes everyone here and, with `tell`, on other pods."""
        with self._changed:
            if self._failure is not None:
                return self._failure
            self._failure = error
            self._changed.notify_all()
        with suppress(OSError):
            self._bell.send(b"!")
        if tell:
            self._around.tell(self, error)
        return error

    def pod_lost(self, pod: int, reason: str) -> None:
        """A pod of the group is gone. What is under way may still end well with what it sent before."""
        with self._changed:
            # Those who have heard of a loss leave, too: what counts is the first.
            if self._first_loss is None:
                self._first_loss = self._loss(pod, reason)
            error = self._first_loss
            under_way = any(meeting.led for meeting in self._meetings.values())
        if under_way:
            timer = threading.Timer(GRACE_SECONDS, self.fail, args=(error,), kwargs={"tell": False})
            timer.daemon = True
            timer.start()
        else:
            self.fail(error, tell=False)

    def end_at(self, position: int, error: FabricError) -> None:
        """A rank will not come to `position` and later ones; what is under way before it still ends."""
        with self._changed:
            if self._end is None or position < self._end[0]:
                self._end = (position, error)
            now = self._turn >= self._end[0]
        if now:
            self.fail(error, tell=False)

    def reached(self, ranks: Collection[int]) -> int:
        """Calls that all of these local ranks have come to."""
        with self._changed:
            return min((count for rank, count in self._positions.items() if rank in ranks), default=0)

    def came(self, position: int) -> list[int]:
        """Local ranks that have come to a position, or passed it."""
        with self._changed:
            return [rank for rank, count in self._positions.items() if count > position]

    def release(self) -> bool:
        """Give up the links of a channel that has failed, if nobody uses them; True if that is done now."""
        with self._changed:
            if self._failure is None or self._released or any(meeting.led for meeting in self._meetings.values()):
                return False
            self._released = True
            links, self._links = self._links, {}
            self._pods.boards = None
        for link in links.values():
            link.close()
        self._waker.close()
        self._bell.close()
        return True

    def close(self) -> None:
        """Break all links; only when no thread is inside any more."""
        self._pods.boards = None
        for link in self._links.values():
            link.close()
        self._waker.close()
        self._bell.close()

    @property
    def busy(self) -> bool:
        """True while a thread leads a collective."""
        with self._changed:
            return any(meeting.led and not meeting.done for meeting in self._meetings.values())

    def _connect(self, pod: int) -> Link:
        link = self._links.get(pod)
        if link is None:
            link = self._links[pod] = self._around.link(self, pod)
        return link

    def _loss(self, pod: int, reason: str) -> PeerLostError:
        ranks = [rank for rank in self.group if self._around.pod_of(rank) == pod]
        return PeerLostError(f"{name_ranks(ranks)} lost ({self._around.name_pod(pod)}): {reason}")

    def _after_loss(self, call: CollectiveCall, loss: LinkDown) -> FabricError:
        with self._changed:
            # The pod at the other end may have aborted for a reason that is on its way to us.
            self._changed.wait_for(lambda: self._failure is not None, timeout=GRACE_SECONDS)
        # Those who have heard of a loss leave, too: what counts is the first.
        error = self._first_loss or self._loss(loss.pod, loss.reason)
        return self.fail(PeerLostError(f"{say(call.words())}: {error}"))

    def _after_stall(self, call: CollectiveCall, position: int, stall: Stalled) -> FabricError:
        absent, remarks = self._around.absent(self, position)
        if not absent:
            absent = [rank for rank in self.group if self._around.pod_of(rank) in stall.pods]
            remarks = "they came, but no data has moved since"
        return self.fail(self._late(call, absent, remarks))

    def _report_absent(self, part: Part, position: int) -> None:
        absent, remarks = self._around.absent(self, position)
        with self._changed:
            meeting = self._meetings.get(position)
            if meeting is None or meeting.led:
                return
        self.fail(self._late(part.call, absent, remarks))

    def _late(self, call: CollectiveCall, absent: list[int], remarks: str) -> CollectiveTimeoutError:
        who = name_ranks(absent) if absent else "an earlier call of the group"
        text = (
            f"{say(call.words())} in the group of {name_ranks(self.group)}: waited {self._around.timeout:g} s for {who}"
        )
        return CollectiveTimeoutError(f"{text} ({remarks})" if remarks else text)


def _again(error: FabricError) -> FabricError:
    """The same error for another thread: an exception object collects the traceback of whoever raises it."""
    return type(error)(str(error))
