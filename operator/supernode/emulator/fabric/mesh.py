"""This pod's connections to the others: made at the start, watched until the end, data links added when needed.

Flows in: the configuration. Flows out: links for channels, aborts and questions to other pods, and, through
`Events`, what other pods say and that a pod is gone. Not here: groups and their order (`channel`).
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from supernode.emulator.fabric import bootstrap
from supernode.emulator.fabric.bootstrap import Address
from supernode.emulator.fabric.config import FabricConfig
from supernode.emulator.fabric.control import Control
from supernode.emulator.fabric.handshake import Silent
from supernode.emulator.fabric.link import Link, LinkDown, Stalled
from supernode.emulator.fabric.memory import Board, board_bytes, door_name, place_token
from supernode.emulator.fabric.memory_link import MemoryLink
from supernode.emulator.fabric.reception import (
    HANDSHAKE_SECONDS,
    Connection,
    Reception,
    Refused,
    dial,
    listen_tcp,
    listen_unix,
    short,
)
from supernode.errors import EmulatorError, FabricError, PeerLostError, ProtocolError

# How long the pods that are alive get to answer "who has come?".
ANSWER_SECONDS: Final = 2.0


@dataclass(frozen=True)
class Events:
    """What the mesh tells its owner, on its own threads; none may block.

    aborted: (channel key, words of the abort). lost: (pod, reason). asked: (channel key, position) -> answer.
    ended: (channel key, position that will not be reached, text).
    """

    aborted: Callable[[str, dict[str, Any]], None]
    lost: Callable[[int, str], None]
    asked: Callable[[str, int], dict[str, Any]]
    ended: Callable[[str, int, str], None]


class Mesh:
    """Connections of one pod to all others of its job."""

    def __init__(self, config: FabricConfig, wiring: str, events: Events) -> None:
        self._config = config
        self._wiring = wiring
        self._events = events
        self._table: list[Address] = []
        self._changed = threading.Condition()
        self._arrived: dict[tuple[str, int], Link] = {}
        self._answers: dict[int, dict[int, dict[str, Any]]] = {}
        self._numbers = itertools.count()
        self.lost: dict[int, str] = {}
        self._closed = False
        self._closing = threading.Event()
        self._control = Control(self._hear, self._lose)
        self._boards: dict[str, Board] = {}
        try:
            sock = listen_tcp(config.listen_host, config.listen_port)
        except FabricError:
            self._control.close()
            raise
        host, port = sock.getsockname()[:2]
        place = place_token() if config.transport == "auto" else ""
        door = listen_unix(door_name(config.key, host, port)) if place else None
        self.address = Address(host, port, place if door is not None else "")
        self._register = bootstrap.Register(config, self.address) if config.rank == 0 else None
        # Last: from here on others come in.
        self._receptions = [
            Reception(listener, config.key, self._welcome, self._adopt) for listener in (sock, door) if listener
        ]

    @property
    def turned_away(self) -> Counter[str]:
        """Connections refused so far, by reason."""
        return sum((reception.turned_away for reception in self._receptions), Counter())

    def start(self) -> None:
        """Find all other pods; FabricError (CollectiveTimeoutError, AuthenticationError ...) when that fails."""
        config = self._config
        deadline = time.monotonic() + config.start_timeout
        if self._register is not None:
            self._table, connections = self._register.complete(deadline, self._receptions[0])
            for pod, connection in connections.items():
                self._control.add(pod, connection)
        else:
            self._table, connection = bootstrap.register(config, self._wiring, self.address, deadline, self._closing)
            self._control.add(0, connection)
            for pod in range(1, config.rank):
                self._control.add(pod, self._call(pod, "control", deadline))
        missing = self._control.wait_for(set(range(config.workers)) - {config.rank}, deadline)
        if missing:
            raise PeerLostError(f"workers {sorted(missing)} registered but did not connect to worker {config.rank}")

    def close(self) -> None:
        """Say goodbye and close everything."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._closing.set()
        if self._register is not None:
            self._register.close()
        self._control.close()
        for reception in self._receptions:
            reception.close()
        with self._changed:
            for link in self._arrived.values():
                link.close()
            self._arrived.clear()
            for board in self._boards.values():
                board.close()
            self._boards.clear()

    def link(self, key: str, pod: int, give_up: Callable[[], None]) -> Link:
        """A new data connection to `pod` for a channel: dialled by the higher number, awaited by the lower.

        Args:
            give_up: called now and then while waiting; raises to stop.

        Raises:
            LinkDown: the pod is gone. Stalled: it did not dial, or did not answer, within the timeout.
        """
        deadline = time.monotonic() + self._config.timeout
        if pod in self.lost:
            raise LinkDown(pod, self.lost[pod])
        if pod < self._config.rank:
            return self._dial_again(key, pod, deadline, give_up)
        with self._changed:
            while (key, pod) not in self._arrived:
                give_up()
                if pod in self.lost or self._closed:
                    raise LinkDown(pod, self.lost.get(pod, "this fabric is closed"))
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Stalled({pod})
                self._changed.wait(left)
            return self._arrived.pop((key, pod))

    def together(self, pods: Iterable[int]) -> bool:
        """Whether this pod and all of `pods` share memory with each other; the same answer on each of them."""
        return bool(self.address.place) and all(self._table[pod].place == self.address.place for pod in pods)

    def _dial_again(self, key: str, pod: int, deadline: float, give_up: Callable[[], None]) -> Link:
        """Dial until somebody answers: a pod that is frozen or very busy is not lost."""
        while True:
            give_up()
            if pod in self.lost:
                raise LinkDown(pod, self.lost[pod])
            try:
                return self._dialled(key, pod, deadline)
            except Silent as exc:
                if time.monotonic() >= deadline:
                    raise Stalled({pod}) from exc
            except EmulatorError as exc:
                raise LinkDown(pod, str(exc)) from exc

    def _dialled(self, key: str, pod: int, deadline: float) -> Link:
        if not self.together([pod]):
            connection = self._call(pod, "data", deadline, channel=key)
            return Link(pod, connection.sock, connection.outward, connection.inward)
        connection = self._call(pod, "memory", deadline, channel=key)
        try:
            return self._memory_link(key, pod, connection)
        except BaseException:
            connection.close()
            raise

    def _memory_link(self, key: str, pod: int, connection: Connection) -> Link:
        size = board_bytes(self._config.workers)
        with self._changed:
            if self._closed:
                raise FabricError("this fabric is closed")
            board = self._boards.get(key)
            if board is None:
                try:
                    board = self._boards[key] = Board(size)
                except OSError as exc:
                    raise FabricError(f"worker {self._config.rank} cannot make shared memory: {exc}") from exc
        return MemoryLink(pod, connection, board, (self._config.rank, size), time.monotonic() + HANDSHAKE_SECONDS)

    def forget(self, key: str) -> None:
        """Give up a channel's board."""
        with self._changed:
            board = self._boards.pop(key, None)
        if board is not None:
            board.close()

    def wake(self) -> None:
        """Let everyone who waits for a link look again."""
        with self._changed:
            self._changed.notify_all()

    def abort(self, key: str, pods: Iterable[int], error: FabricError) -> None:
        """Tell other pods that a channel has failed."""
        self._control.send(
            pods, {"do": "abort", "channel": key, "error": type(error).__name__, "text": str(error)[:4000]}
        )

    def end(self, key: str, pods: Iterable[int], position: int, error: FabricError) -> None:
        """Tell other pods that a program here will not come to a position of a channel."""
        self._control.send(pods, {"do": "end", "channel": key, "position": position, "text": str(error)})

    def ask(self, key: str, position: int, pods: Iterable[int]) -> dict[int, dict[str, Any]]:
        """Ask pods who of them has come to a position of a channel; the answers that came in time."""
        asked = {pod for pod in pods if pod not in self.lost}
        deadline = time.monotonic() + ANSWER_SECONDS
        number = next(self._numbers)
        with self._changed:
            answers = self._answers[number] = {}
        self._control.send(asked, {"do": "ask", "id": number, "channel": key, "position": position})
        with self._changed:
            while set(answers) < asked - set(self.lost) and not self._closed:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return self._answers.pop(number)

    def describe(self, pod: int) -> str:
        """`worker 1 at 10.0.0.2:29400`."""
        where = f" at {self._table[pod].host}:{self._table[pod].port}" if pod < len(self._table) else ""
        return f"worker {pod}{where}"

    def _call(self, pod: int, purpose: str, deadline: float, **more: Any) -> Connection:
        said = bootstrap.identity(self._config, purpose, self._wiring, **more)
        address = self._table[pod]
        near = door_name(self._config.key, address.host, address.port) if purpose == "memory" else None
        try:
            return dial(near or (address.host, address.port), self._config.key, said, deadline)[0]
        except TimeoutError as exc:
            raise Silent(f"{self.describe(pod)} cannot be reached: {exc}") from exc
        except OSError as exc:
            raise PeerLostError(f"{self.describe(pod)} cannot be reached: {exc}") from exc
        except Refused as exc:
            raise FabricError(f"{self.describe(pod)} refused worker {self._config.rank}: {exc}") from exc

    def _welcome(self, said: dict[str, Any], connection: Connection) -> dict[str, Any] | None:
        refusal = bootstrap.judge(said, self._config, self._wiring)
        if refusal is not None:
            return refusal
        purpose = said.get("purpose")
        if purpose == "register" and self._register is not None:
            return self._register.enter(said, connection)
        if purpose == "control":
            return {"welcome": True}
        if purpose in ("data", "memory") and isinstance(said.get("channel"), str) and len(said["channel"]) <= 64:
            return {"welcome": True}
        return {"refused": f"worker {self._config.rank} does not serve this purpose"}

    def _adopt(self, said: dict[str, Any], connection: Connection) -> None:
        pod: int = said["rank"]
        if self._closing.is_set():
            # It came while we were closing: nobody would ever close it.
            connection.sock.close()
            return
        if said["purpose"] == "control":
            self._control.add(pod, connection)
            return
        if said["purpose"] == "memory":
            if connection.sock.family != socket.AF_UNIX:
                raise ProtocolError(f"{self.describe(pod)} offers memory over TCP")
            link = self._memory_link(said["channel"], pod, connection)
        else:
            link = Link(pod, connection.sock, connection.outward, connection.inward)
        with self._changed:
            old = self._arrived.pop((said["channel"], pod), None)
            if self._closed:
                old = link
            else:
                self._arrived[said["channel"], pod] = link
            self._changed.notify_all()
        if old is not None:
            old.close()

    def _hear(self, pod: int, words: dict[str, Any]) -> None:
        try:
            self._obey(pod, words)
        except (TypeError, ValueError, KeyError, OverflowError) as exc:
            # The control thread must live on; the pod that says such things is given up.
            raise ProtocolError(f"a control message makes no sense: {short(words)}") from exc

    def _obey(self, pod: int, words: dict[str, Any]) -> None:
        do = words.get("do")
        if do == "abort":
            self._events.aborted(str(words.get("channel")), words)
        elif do == "end":
            self._events.ended(str(words.get("channel")), int(words["position"]), str(words.get("text"))[:4000])
        elif do == "ask":
            answer = self._events.asked(str(words.get("channel")), int(words.get("position", 0)))
            self._control.send([pod], {"do": "answer", "id": words.get("id"), **answer})
        elif do == "answer":
            with self._changed:
                waiting = self._answers.get(int(words.get("id", -1)))
                if waiting is not None:
                    waiting[pod] = words
                    self._changed.notify_all()
        elif do == "goodbye":
            self._lose(pod, "it has closed its fabric")

    def _lose(self, pod: int, reason: str) -> None:
        with self._changed:
            if pod in self.lost or self._closed:
                return
            self.lost[pod] = reason
            self._changed.notify_all()
        self._events.lost(pod, reason)


def error_from(words: dict[str, Any], known: dict[str, type[EmulatorError]]) -> FabricError:
    """The error that another pod's abort stands for."""
    kind = known.get(str(words.get("error")), FabricError)
    error = kind(str(words.get("text"))[:4000])
    return error if isinstance(error, FabricError) else FabricError(str(error))
