"""Every pod of a group hears whether all call the same, and data may go along.

An opinion is the call as a line of text, where that alone can be compared, and the ready time. Pods whose lines are the
same have agreed without another word; all others hear everything through a coordinator (`agreement`).

Pods that share memory write their opinions on their boards and ring. Over TCP opinions go up a tree and the verdict
comes down; the sum that a tree makes goes along, as long as all that is known agrees. On its way up it is taken into
memory of the channel's own, so a mismatch harms nothing.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from supernode.emulator.fabric.algorithms import tree
from supernode.emulator.fabric.algorithms.direct import DirectSum
from supernode.emulator.fabric.algorithms.tree import TreeSum
from supernode.emulator.fabric.boards import boards
from supernode.emulator.fabric.frames import NOTHING, encode
from supernode.emulator.fabric.link import Incoming, Link, LinkDown, Outgoing, Taking, move
from supernode.emulator.fabric.memory import OPINION
from supernode.emulator.fabric.pods import LANDING, Flat, Pods

# Ready time, bytes of the call's line.
_HEAD: Final = struct.Struct("<dI")


#: A sum that goes along over TCP.
Going = TreeSum | DirectSum


class Opinion(NamedTuple):
    """What one pod, or several that agree, call.

    Attributes:
        call: as a line of text; empty where pods differ, or where comparing it is not enough.
        ready: when the last of them is ready, in virtual seconds.
    """

    call: str
    ready: float

    def beside(self, other: Opinion) -> Opinion:
        """Both together."""
        return Opinion(self.call if self.call == other.call else "", max(self.ready, other.ready))


def exchange(pods: Pods, opinion: Opinion, going: Going | None) -> Opinion:
    """The opinion of all pods together; the same on all of them. It has no call where a coordinator has to be asked.

    Args:
        pods: of the group.
        opinion: this pod's.
        going: a sum that goes along over TCP: its result is there where all call the same.

    Raises:
        LinkDown, Stalled, Interrupted: see `link.move`.
    """
    if pods.together:
        return _on_boards(pods, opinion)
    if pods.direct:
        return _by_all(pods, opinion, going if isinstance(going, DirectSum) else None)
    return _by_tree(pods, opinion, going if isinstance(going, TreeSum) else None)


def _on_boards(pods: Pods, opinion: Opinion) -> Opinion:
    around = pods.boards or boards(pods)
    area, others = around.opinions[pods.meetings % 2]
    pods.meetings += 1
    line = opinion.call.encode()
    if _HEAD.size + len(line) > OPINION:
        line = b""
    mine = _HEAD.pack(opinion.ready, len(line)) + line
    size = len(mine)
    area[:size] = mine
    around.ring()
    agreed, ready = bool(line), opinion.ready
    for link, place in others:
        link.wait_ring(pods.waker, pods.patience)
        said = bytes(place[:size])
        if said == mine and line:
            continue
        theirs, length = _HEAD.unpack_from(said)
        if math.isnan(theirs):
            raise LinkDown(link.pod, "it is ready at no time")
        ready = max(ready, theirs)
        # No more than our own line is ever read; another length is another call.
        agreed = agreed and length == len(line) and said[_HEAD.size :] == line
    return Opinion(opinion.call if agreed else "", ready)


def _by_all(pods: Pods, opinion: Opinion, going: DirectSum | None) -> Opinion:
    """Everyone tells everyone; who says what this pod says is understood without being read."""
    bodies: dict[int, bytes] = {}
    known: dict[bytes, dict[str, Any]] = {}
    told: list[Outgoing] = []
    heard: list[_Told] = []
    listeners: list[_Peer] = []
    for step in range(1, pods.count):
        index = (pods.me + step) % pods.count
        link = pods.connect(pods.numbers[index])
        values = going.outgoing(index) if going is not None and opinion.call else None
        size = 0 if values is None else values.nbytes
        if size not in bodies:
            said = {"call": opinion.call, "ready": opinion.ready, "bytes": size}
            bodies[size] = encode(said)
            known[bodies[size]] = said
        told.append(Outgoing.encoded(link, bodies[size], values))
        listeners.append(_Peer(opinion, going, index))
        heard.append(_Told(link, pods, listeners[-1], known))
    move([*told, *heard], pods.waker, pods.patience)
    for listener in listeners:
        opinion = opinion.beside(listener.opinion)
    if going is not None and opinion.call:
        going.complete()
    return opinion


def _by_tree(pods: Pods, opinion: Opinion, going: TreeSum | None) -> Opinion:
    place = tree.place(pods.me, pods.count)
    for child in place.children:
        last = place.parent < 0 and child == place.children[-1]
        opinion = _hear(pods, child, _Below(pods, opinion, going, last=last))
    if place.parent >= 0:
        _tell(pods, [place.parent], opinion, None if going is None else going.values)
        opinion = _hear(pods, place.parent, _Above(pods, opinion, going))
    elif going is not None and opinion.call:
        going.complete()
    # The farthest child has most to pass on.
    _tell(pods, place.children[::-1], opinion, None if going is None else going.result)
    return opinion


def _tell(pods: Pods, indices: Sequence[int], opinion: Opinion, values: Flat | None) -> None:
    """Tell pods an opinion, and send values along if it has a call."""
    links = [pods.connect(pods.numbers[index]) for index in indices]
    if links:
        given = values if opinion.call else None
        said = {"call": opinion.call, "ready": opinion.ready, "bytes": 0 if given is None else given.nbytes}
        move([Outgoing.message(link, said, given) for link in links], pods.waker, pods.patience)


def _hear(pods: Pods, index: int, listener: _Listener) -> Opinion:
    """What a pod says, together with what is known; its data is taken if all agree, else dropped."""
    heard = _Told(pods.connect(pods.numbers[index]), pods, listener)
    move([heard], pods.waker, pods.patience)
    return listener.opinion


class _Listener(Protocol):
    """Who hears an opinion: takes it in, then says where the data goes that comes along; None: no data is due."""

    opinion: Opinion

    def listen(self, said: Opinion, link: Link) -> Taking | Incoming | None: ...


class _Below:
    """Of a child: its opinion beside ours, its sum beside ours."""

    def __init__(self, pods: Pods, opinion: Opinion, going: TreeSum | None, *, last: bool) -> None:
        self.opinion = opinion
        self._pods = pods
        self._going = going
        self._last = last

    def listen(self, said: Opinion, link: Link) -> Taking | None:
        """Take it in."""
        self.opinion = self.opinion.beside(said)
        if self._going is None or not self.opinion.call:
            return None
        values = self._going.values
        landing = self._pods.scratch.take("landing", LANDING // values.itemsize, values.dtype)
        return Taking(link, values.size, landing, self._going.take(last=self._last))


class _Above:
    """Of the parent: the verdict, and the result."""

    def __init__(self, pods: Pods, opinion: Opinion, going: TreeSum | None) -> None:
        self.opinion = opinion
        self._pods = pods
        self._going = going

    def listen(self, said: Opinion, link: Link) -> Incoming | None:
        """Take it in."""
        if said.call and said.call != self.opinion.call:
            raise LinkDown(link.pod, "its verdict is about another call")
        self.opinion = said
        return None if self._going is None or not said.call else Incoming(link, self._going.result)


class _Peer:
    """Of a pod that tells everyone: its opinion, and what goes along if that is ours."""

    def __init__(self, opinion: Opinion, going: DirectSum | None, index: int) -> None:
        self.opinion = opinion
        self._going = going
        self._index = index

    def listen(self, said: Opinion, link: Link) -> Incoming | None:
        """Take it in."""
        self.opinion = self.opinion.beside(said)
        return (
            None if self._going is None or not self.opinion.call else Incoming(link, self._going.incoming(self._index))
        )


class _Told:
    """An opinion on its way in, and the data that it announces."""

    def __init__(
        self, link: Link, pods: Pods, listener: _Listener, known: Mapping[bytes, dict[str, Any]] = NOTHING
    ) -> None:
        self.link = link
        self._pods = pods
        self._listener = listener
        self._message: Incoming | None = Incoming(link, None, known)
        self._now: Incoming | None = self._message

    @property
    def done(self) -> bool:
        """True when the data has come, too."""
        return self._message is None and (self._now is None or self._now.done)

    def watch(self) -> list[tuple[int, int]]:
        """What makes another step worth while."""
        return [] if self._now is None else self._now.watch()

    def step(self) -> bool:
        """Receive what is there."""
        moved = self._now is not None and self._now.step()
        if self._message is not None and self._message.done:
            words, self._message = self._message.words, None
            self._now = self._data(words)
            if self._now is not None:
                self._now.step()
        return moved

    def _data(self, words: dict[str, Any]) -> Incoming | None:
        call, ready, size = words.get("call"), words.get("ready"), words.get("bytes")
        if (
            not (isinstance(call, str) and isinstance(ready, float) and type(size) is int)
            or math.isnan(ready)
            or size < 0
        ):
            raise LinkDown(self.link.pod, "what it says of its call makes no sense")
        due = self._listener.listen(Opinion(call, ready), self.link)
        if due is not None:
            if size != due.due:
                raise LinkDown(self.link.pod, f"{size} bytes come along with its call; {due.due} are due")
            return due.announced()
        if not size:
            return None
        dropped = self._pods.scratch.take("landing", LANDING, np.dtype(np.uint8))
        return Taking(self.link, size, dropped, lambda start, values: None).announced()
