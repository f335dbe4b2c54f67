"""The front of the fabric: one object per pod, called from the stream threads of its devices.

Flows in: calls with buffers and virtual ready times. Flows out: filled buffers and virtual finish times. Owns the mesh
(if there is more than one pod) and the channels; any number of threads may be inside `run` at the same time.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

import numpy as np

from supernode import errors
from supernode.emulator.fabric.agreement import name_ranks
from supernode.emulator.fabric.call import PEER_TO_PEER, CollectiveCall, say
from supernode.emulator.fabric.channel import Channel
from supernode.emulator.fabric.choice import Chooser
from supernode.emulator.fabric.collectives import Part
from supernode.emulator.fabric.config import FabricConfig
from supernode.emulator.fabric.link import Interrupted, Link
from supernode.emulator.fabric.mesh import Events, Mesh, error_from
from supernode.emulator.fabric.participant import Participant, Ticket
from supernode.emulator.fabric.standing import Standing, standing
from supernode.emulator.fabric.timing import LinkClock
from supernode.emulator.fabric.topology import read_topology
from supernode.errors import EmulatorError, FabricError, PeerLostError

#: Different calls (by group, kind, type, size, reduction and root) of which is remembered what is known.
KNOWN: Final = 1024
_ABORTS: Final[dict[str, type[EmulatorError]]] = {
    cls.__name__: cls for cls in (FabricError, errors.PeerLostError, errors.CollectiveTimeoutError)
}


class Fabric:
    """Collectives between the devices of one job, as one pod's sidecar uses them.

    Construction listens (with more than one worker); `start` finds the other pods. Errors of a started fabric are
    raised by `run`, on every rank that takes part.
    """

    def __init__(self, config: FabricConfig) -> None:
        self.config = config
        self.timeout = config.timeout
        self.my_pod = config.rank
        self._topology = read_topology(
            config.topology, workers=config.workers, devices=config.devices_per_worker, chip=config.chip
        )
        self.clock = LinkClock(self._topology)
        self._chooser = Chooser(self._topology)
        self._lock = threading.Lock()
        self._channels: dict[str, Channel] = {}
        self._aborted: dict[str, FabricError] = {}
        self._doing: dict[int, list[CollectiveCall]] = {rank: [] for rank in config.ranks_of(config.rank)}
        self._epochs: Counter[tuple[tuple[int, ...], int, int, int]] = Counter()
        self._known: dict[tuple[object, ...], tuple[Channel, Standing]] = {}
        self._closed = False
        self._mesh: Mesh | None = None
        if config.workers > 1:
            events = Events(aborted=self._on_abort, lost=self._on_lost, asked=self._on_question, ended=self._on_end)
            self._mesh = Mesh(config, self._topology.digest, events)

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port that this fabric listens on; None with a single worker."""
        return self._mesh.address[:2] if self._mesh else None

    @property
    def lost(self) -> dict[int, str]:
        """Workers that are gone, with the reason."""
        return dict(self._mesh.lost) if self._mesh else {}

    @property
    def turned_away(self) -> Counter[str]:
        """Connections refused so far by reason: secret, protocol, identity, silent."""
        return Counter(self._mesh.turned_away) if self._mesh else Counter()

    def start(self) -> None:
        """Connect to all other pods; blocks until done, at most `start_timeout` seconds; FabricError if it fails."""
        if self._mesh is not None:
            self._mesh.start()

    def close(self) -> None:
        """Tell the other pods goodbye and fail whatever is still inside `run`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            channels = list(self._channels.values())
            self._known = {}
        for channel in channels:
            if channel.failure is not None and channel.concerns_others and self._mesh is not None:
                # Who told us may not have come to all others yet: they would take our leaving for the reason.
                self._mesh.abort(channel.key, channel.others, channel.failure)
            channel.fail(FabricError("the fabric of this pod was closed"), tell=False)
        if self._mesh is not None:
            self._mesh.close()
        for channel in channels:
            channel.close()

    def run(
        self,
        call: CollectiveCall,
        local_device: int,
        send: np.ndarray[Any, Any] | None,
        recv: np.ndarray[Any, Any] | None,
        ready_seconds: float,
    ) -> float:
        """Take part in a collective for one local device; blocks until it is done on this pod.

        Args:
            call: what all ranks of its group do together.
            local_device: index of the device in this pod.
            send, recv: contiguous buffers of the call's dtype, as `call.KINDS` says; may be the same memory for
                all_reduce, reduce and broadcast. They belong to the fabric until this returns or raises.
            ready_seconds: virtual time at which the device is ready.

        Returns:
            Virtual time at which the collective is done, the same on every rank.

        Raises:
            CollectiveMismatchError: ranks called different things; the text has both sides' calls.
            CollectiveTimeoutError: ranks did not come within the timeout; the text names them.
            PeerLostError: a rank is gone; the text names it.
            FabricError: the call itself is wrong, or the fabric is closed.
        """
        if not 0 <= local_device < self.config.devices_per_worker:
            raise FabricError(f"device {local_device} is not one of this pod's {self.config.devices_per_worker}")
        return self._run(call, self.ranks()[local_device], send, recv, ready_seconds, None)

    def enter(self) -> Participant:
        """A place for a program, which issues its calls before its devices come to them; see `participant`."""
        return Participant(self)

    def _run(
        self,
        call: CollectiveCall,
        rank: int,
        send: np.ndarray[Any, Any] | None,
        recv: np.ndarray[Any, Any] | None,
        ready: float,
        ticket: Ticket | None,
    ) -> float:
        channel, standing = self._stands(call, rank, 0 if ticket is None else ticket.epoch)
        if call.uneven or not standing.fits(send, recv):
            send, recv = call.buffers(rank, send, recv)
        doing = self._doing[rank]
        doing.append(call)
        try:
            return channel.run(Part(rank, call, send, recv, float(ready), standing, ticket))
        finally:
            doing.remove(call)

    def _stands(self, call: CollectiveCall, rank: int, epoch: int) -> tuple[Channel, Standing]:
        """Where a call belongs, and what is known of it; what is wrong with a call itself is found at the first."""
        shape = (call.group, call.channel, call.generation, epoch, rank)
        key = (shape, call.kind, call.dtype, call.count, call.reduce, call.root_or_peer)
        known = self._known.get(key)
        if known is None or call.uneven:
            call.check(self.config.world)
            if rank not in call.group:
                raise FabricError(f"{call.kind}: rank {rank} is not in the group {list(call.group)}")
            known = self._channel(call, rank, epoch), standing(call, rank, self._chooser.plan, self.clock)
            with self._lock:
                if len(self._known) >= KNOWN:
                    self._known.clear()
                self._known[key] = known
        return known

    def withdraw(self, call: CollectiveCall, local_device: int, reason: str) -> None:
        """Say that a local device cannot take part in a call that the others are coming to.

        Ends the group on every rank with a FabricError that names this rank and the reason, instead of letting the
        others wait for the timeout.
        """
        self._withdraw(call, self.ranks()[local_device], reason, 0)

    def _withdraw(self, call: CollectiveCall, rank: int, reason: str, epoch: int) -> None:
        if rank in call.group:
            error = FabricError(f"rank {rank} cannot take part in {say(call.words())}: {reason}")
            self._channel(call, rank, epoch).fail(error)

    # --- for participants ---------------------------------------------------------------------------------------------

    def ranks(self) -> range:
        """Global ranks of this pod's devices."""
        return self.config.ranks_of(self.my_pod)

    def place(self, call: CollectiveCall, rank: int, epoch: int) -> tuple[str, tuple[int, ...]]:
        """The channel that a call belongs to: its key, and the ranks that meet there."""
        return _place(call, rank, epoch)

    def epoch(self, call: CollectiveCall, rank: int) -> int:
        """How many programs have used a group on a device before."""
        with self._lock:
            group = (call.group, call.channel, call.generation, rank)
            self._epochs[group] += 1
            return self._epochs[group] - 1

    def carry(
        self,
        ticket: Ticket,
        send: np.ndarray[Any, Any] | None,
        recv: np.ndarray[Any, Any] | None,
        ready: float,
    ) -> float:
        """`run` for a call with a ticket."""
        return self._run(ticket.call, ticket.rank, send, recv, ready, ticket)

    def give_up(self, ticket: Ticket, reason: str) -> None:
        """`withdraw` for a call with a ticket."""
        self._withdraw(ticket.call, ticket.rank, reason, ticket.epoch)

    def ended(self, channels: Mapping[str, tuple[int, ...]], ranks: set[int]) -> None:
        """A program is gone: others that wait in its groups, or come to them later, get an error that says so."""
        error = FabricError(
            f"the program of {name_ranks(sorted(ranks))} ({self.name_pod(self.my_pod)}) has ended or was started "
            "again; the programs of all workers begin together"
        )
        with self._lock:
            if self._closed:
                return
            found = {key: self._channels.get(key) for key in channels}
        for key, channel in found.items():
            position = 0 if channel is None else channel.reached(ranks)
            if channel is not None:
                channel.end_at(position, error)
            if self._mesh is not None:
                others = {self.pod_of(rank) for rank in channels[key]} - {self.my_pod}
                self._mesh.end(key, others, position, error)

    # --- for channels ---------------------------------------------------------------------------------------------

    def pod_of(self, rank: int) -> int:
        """Worker that a global device rank belongs to."""
        return rank // self.config.devices_per_worker

    def ring(self, pods: tuple[int, ...]) -> tuple[int, ...]:
        """Pods in the order in which a ring visits them."""
        return self._topology.ring(pods)

    def link(self, channel: Channel, pod: int) -> Link:
        """A new data connection for a channel; see `Mesh.link`."""

        def give_up() -> None:
            if channel.failure is not None:
                raise Interrupted

        if self._mesh is None:
            raise FabricError(f"a job of one worker has no link to worker {pod}")
        return self._mesh.link(channel.key, pod, give_up)

    def together(self, pods: Iterable[int]) -> bool:
        """Whether these pods and this one share memory; see `Mesh.together`."""
        return self._mesh is not None and self._mesh.together(pods)

    def absent(self, channel: Channel, position: int) -> tuple[list[int], str]:
        """Ranks of a channel that have not come to a position, and what is known about them."""
        came = set(channel.came(position))
        doing = self._told()
        remarks = []
        if self._mesh is not None and channel.others:
            answers = self._mesh.ask(channel.key, position, channel.others)
            for pod in sorted(channel.others):
                if pod in answers:
                    came |= {int(rank) for rank in answers[pod].get("came", [])}
                    doing |= {int(rank): texts for rank, texts in answers[pod].get("doing", {}).items()}
                else:
                    remarks.append(f"{self.name_pod(pod)} does not answer")
        absent = [rank for rank in channel.group if rank not in came]
        remarks += [f"rank {rank} is in {doing[rank][0]}"[:200] for rank in absent if doing.get(rank)]
        return absent, "; ".join(remarks[:8])

    def tell(self, channel: Channel, error: FabricError) -> None:
        """Tell the other pods of a channel that it has failed."""
        if self._mesh is not None:
            self._mesh.wake()
            self._mesh.abort(channel.key, channel.others, error)

    def name_pod(self, pod: int) -> str:
        """A pod as people know it."""
        return self._mesh.describe(pod) if self._mesh else f"worker {pod}"

    # --- from the mesh's threads ------------------------------------------------------------------------------------

    def _on_abort(self, key: str, words: dict[str, Any]) -> None:
        error = error_from(words, _ABORTS)
        with self._lock:
            channel = self._channels.get(key)
            if channel is None:
                self._aborted.setdefault(key, error)  # the first is why; a program that failed then ends
        if channel is not None:
            channel.fail(error, tell=False)
            if self._mesh is not None:
                self._mesh.wake()

    def _on_end(self, key: str, position: int, text: str) -> None:
        error = FabricError(text)
        with self._lock:
            channel = self._channels.get(key)
            if channel is None:
                self._aborted.setdefault(key, error)
        if channel is not None:
            channel.end_at(position, error)
            if self._mesh is not None:
                self._mesh.wake()

    def _on_lost(self, pod: int, reason: str) -> None:
        with self._lock:
            channels = [channel for channel in self._channels.values() if pod in channel.others]
        for channel in channels:
            channel.pod_lost(pod, reason)

    def _on_question(self, key: str, position: int) -> dict[str, Any]:
        with self._lock:
            channel = self._channels.get(key)
        return {
            "came": channel.came(position) if channel else [],
            "doing": {str(rank): texts[:2] for rank, texts in self._told().items()},
        }

    def _told(self) -> dict[int, list[str]]:
        """What this pod's devices are in, as people read it."""
        return {
            rank: [say(call.words()) + (f" at {call.where}" if call.where else "") for call in list(calls)]
            for rank, calls in self._doing.items()
        }

    def _channel(self, call: CollectiveCall, rank: int, epoch: int) -> Channel:
        key, group = _place(call, rank, epoch)
        with self._lock:
            if self._closed:
                raise FabricError("the fabric of this pod is closed")
            channel = self._channels.get(key)
            if channel is None:
                self._release()
                channel = self._channels[key] = Channel(key, group, self)
                error = self._aborted.pop(key, None)
                if error is not None:
                    channel.fail(error, tell=False)
                if self._mesh is not None:
                    for pod in sorted(channel.others & set(self._mesh.lost)):
                        channel.fail(PeerLostError(f"{self.name_pod(pod)} lost: {self._mesh.lost[pod]}"), tell=False)
        return channel

    def _release(self) -> None:
        """Give up the connections of groups that have failed: a new one may take their place again and again."""
        for key, channel in self._channels.items():
            if channel.release():
                # What is laid out on its boards goes with it.
                self._known = {call: known for call, known in self._known.items() if known[0] is not channel}
                if self._mesh is not None:
                    self._mesh.forget(key)


def _place(call: CollectiveCall, rank: int, epoch: int) -> tuple[str, tuple[int, ...]]:
    """The channel that a call belongs to: its key, and the ranks that meet there."""
    members = call.members(rank)
    if call.kind not in PEER_TO_PEER:
        return _key(call.group, (call.channel, call.generation, epoch), ()), members
    if call.root_or_peer == rank:
        raise FabricError(f"{call.kind}: rank {rank} cannot exchange with itself")
    return _key(call.group, (call.channel, call.generation, epoch), members), members


@lru_cache(maxsize=4096)
def _key(group: tuple[int, ...], numbers: tuple[int, int, int], pair: tuple[int, ...]) -> str:
    words = f"{'|'.join(map(str, numbers))}|{','.join(map(str, group))}"
    if pair:
        words += f"|{pair[0]}>{pair[1]}"
    return hashlib.sha256(words.encode()).hexdigest()[:32]
