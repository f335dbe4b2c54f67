"""The sidecar: a Unix socket for the worker, an HTTP port for probes and metrics, the fabric to other pods.

Flows in: a `ServerConfig`. Flows out: running devices until `stop`. One thread accepts, one reads each client, one
runs each stream. A frame that is not ours gets an error or a closed connection; nothing a client sends ends the
process, and a client that goes away gives everything back. Not here: what commands do (`session`, `dispatch`).
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from supernode.chips import Chip
from supernode.emulator import wire
from supernode.emulator.answer import Reply, answer
from supernode.emulator.dispatch import execute
from supernode.emulator.fabric import CollectiveCall, Fabric, FabricConfig
from supernode.emulator.fabric.participant import Participant, Ticket
from supernode.emulator.kernels.table import AnyArray
from supernode.emulator.listening import listen
from supernode.emulator.metrics import RuntimeCollector, ServerCounts, registry
from supernode.emulator.observe import ObserveServer, Views
from supernode.emulator.progress import Progress
from supernode.emulator.runtime.device import Device
from supernode.emulator.runtime.host import give_back
from supernode.emulator.session import ClientGoneError, Session
from supernode.emulator.trace import EVENTS, Trace, chrome_trace
from supernode.errors import EmulatorError, FabricError, ProtocolError, SupernodeError

_LOG: Final = logging.getLogger("supernode.emulator")
#: Clients at the same time; seconds in which a new one must say hello, and a frame that has begun must go on.
MAX_CLIENTS: Final = 64
_HELLO_SECONDS: Final = 10.0
_FRAME_SECONDS: Final = 60.0


@dataclass(frozen=True)
class ServerConfig:
    """What a sidecar must be told.

    Attributes:
        chip: to emulate.
        devices: how many.
        socket: path of the Unix socket; its directory also holds the shared memory.
        fabric: the pod's place in the job; its `devices_per_worker` must be `devices`.
        http_host, http_port: of the HTTP port; port 0 takes any free one, None: no HTTP.
        memory_bytes: per device, to emulate a smaller card or a share of one; None: the chip's.
        cores: percent of the chip's compute units that each device has.
        trace_events: that each device keeps for /trace; 0: none.
        socket_mode: permissions of the socket.
    """

    chip: Chip
    devices: int
    socket: Path
    fabric: FabricConfig
    http_host: str = "127.0.0.1"
    http_port: int | None = 0
    memory_bytes: int | None = None
    socket_mode: int = 0o600
    cores: int = 100
    trace_events: int = EVENTS


class _FabricDoor:
    """The fabric while it still looks for its peers: a collective waits until that has come to an end."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self._settled = threading.Event()
        self._error: FabricError | None = None
        self._thread = threading.Thread(target=self._start, name="fabric start", daemon=True)
        self._thread.start()

    def _start(self) -> None:
        try:
            self.fabric.start()
        except FabricError as exc:
            self._error = exc
        except (EmulatorError, OSError) as exc:
            # Another pod of another version, or no descriptor left: the collectives say so, each of them.
            self._error = FabricError(f"the fabric could not start: {exc}")
        finally:
            self._settled.set()

    @property
    def connected(self) -> bool:
        """All pods have found each other."""
        return self._settled.is_set() and self._error is None

    def enter(self) -> Participant:
        """A client's place in the fabric."""
        return Participant(self)

    def carry(self, ticket: Ticket, send: AnyArray | None, recv: AnyArray | None, ready: float) -> float:
        self._settled.wait()
        if self._error is not None:
            raise type(self._error)(str(self._error))
        return self.fabric.carry(ticket, send, recv, ready)

    def give_up(self, ticket: Ticket, reason: str) -> None:
        self._settled.wait()
        if self._error is None:
            self.fabric.give_up(ticket, reason)

    def ended(self, channels: Mapping[str, tuple[int, ...]], ranks: set[int]) -> None:
        if self.connected:
            self.fabric.ended(channels, ranks)

    def ranks(self) -> range:
        return self.fabric.ranks()

    def place(self, call: CollectiveCall, rank: int, epoch: int) -> tuple[str, tuple[int, ...]]:
        return self.fabric.place(call, rank, epoch)

    def epoch(self, call: CollectiveCall, rank: int) -> int:
        return self.fabric.epoch(call, rank)

    def close(self) -> None:
        self.fabric.close()
        self._thread.join(timeout=5)


class Server:
    """A running sidecar. `start`, then `stop`; both from one thread."""

    def __init__(self, config: ServerConfig) -> None:
        if config.devices < 1 or config.devices != config.fabric.devices_per_worker:
            raise EmulatorError(f"{config.devices} devices, but {config.fabric.devices_per_worker} in the fabric")
        self.config = config
        first = config.fabric.rank * config.devices
        self.devices = [
            Device(
                i,
                first + i,
                config.chip,
                memory_limit=config.memory_bytes,
                cores=config.cores,
                trace=Trace(config.trace_events),
            )
            for i in range(config.devices)
        ]
        self.progress = Progress()
        self._refused = 0
        self._stopping = threading.Event()
        self._clients: dict[int, tuple[socket.socket, threading.Thread]] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._fabric: _FabricDoor | None = None
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self.http: ObserveServer | None = None

    def start(self) -> None:
        """Listen on the socket and the HTTP port; the fabric looks for its peers meanwhile.

        Raises:
            EmulatorError: the socket or the port cannot be had.
        """
        try:
            self._open()
        except BaseException:
            # What was begun before it failed must not stay: threads, ports, the socket.
            self.stop()
            raise

    def _open(self) -> None:
        self._fabric = _FabricDoor(Fabric(self.config.fabric))
        if self.config.http_port is not None:
            collector = RuntimeCollector(self.devices, self.config.fabric.rank, self.progress, self._counts)
            views = Views(registry(collector), self.progress.snapshot, self.trace, self._not_ready)
            self.http = ObserveServer(self.config.http_host, self.config.http_port, views)
            self.http.start()
        self._listener = listen(self.config.socket, self.config.socket_mode, MAX_CLIENTS)
        self._acceptor = threading.Thread(target=self._accept, args=(self._listener,), name="accept", daemon=True)
        self._acceptor.start()

    def stop(self, *, grace: float = 0.0) -> None:
        """Accept no more clients, give those that are there `grace` seconds to end, then close everything."""
        self._stopping.set()
        if self._listener is not None:
            # Shutting down wakes the acceptor; closing alone would not.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self.config.socket.unlink(missing_ok=True)
        if self._acceptor is not None:
            self._acceptor.join()
        with self._changed:
            self._changed.wait_for(lambda: not self._clients, timeout=grace)
            clients = list(self._clients.values())
        for connection, _ in clients:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        if self._fabric is not None:
            self._fabric.close()
        for _, thread in clients:
            thread.join()
        if self.http is not None:
            self.http.close()

    def trace(self) -> dict[str, Any]:
        """What the devices did, as Chrome's trace events."""
        fabric = self.config.fabric
        return chrome_trace(
            [(device.rank, device.chip.name, device.trace) for device in self.devices],
            worker=fabric.rank,
            attempt=fabric.attempt,
            now={device.rank: device.seconds for device in self.devices},
        )

    def _counts(self) -> ServerCounts:
        door = self._fabric
        if door is None:
            return ServerCounts(len(self._clients), self._refused, False, 0, {})
        fabric = door.fabric
        return ServerCounts(len(self._clients), self._refused, door.connected, len(fabric.lost), fabric.turned_away)

    def _not_ready(self) -> str:
        if self._stopping.is_set():
            return "stopping"
        return "" if self._acceptor is not None else "starting"

    def _accept(self, listener: socket.socket) -> None:
        number = 0
        while not self._stopping.is_set():
            try:
                connection, _ = listener.accept()
            except OSError as exc:
                if self._stopping.is_set():
                    return
                # Out of descriptors or memory: clients that are there go on, a new one may come later.
                _LOG.warning("a client could not be accepted: %s", exc)
                self._stopping.wait(0.1)
                continue
            number += 1
            thread = threading.Thread(
                target=self._serve, args=(number, connection), name=f"client {number}", daemon=True
            )
            with self._lock:
                full = len(self._clients) >= MAX_CLIENTS
                if not full:
                    self._clients[number] = (connection, thread)
            if full:
                _reply_error(connection, EmulatorError(f"the sidecar has {MAX_CLIENTS} clients already"))
                connection.close()
                continue
            try:
                thread.start()
            except RuntimeError as exc:
                # No thread can be had now: this client hears of it, and the next may be luckier.
                _LOG.warning("a client could not be served: %s", exc)
                with self._changed:
                    del self._clients[number]
                _reply_error(connection, EmulatorError(f"the sidecar cannot serve another client now: {exc}"))
                connection.close()

    def _serve(self, number: int, connection: socket.socket) -> None:
        session: Session | None = None
        try:
            connection.settimeout(_HELLO_SECONDS)
            self._hello(connection)
            session = Session(
                self.devices,
                self._fabric.enter(),  # type: ignore[union-attr]  # there while clients are
                self.progress,
                self.config.socket.parent,
                alive=lambda: _connected(connection),
                owner=f"client {number}",
            )
            self._converse(connection, session)
        except ClientGoneError:
            pass
        except ProtocolError as exc:
            self._refused += 1
            _LOG.warning("client %d is refused: %s", number, exc)
            _reply_error(connection, exc)
        except OSError as exc:
            _LOG.info("client %d is gone: %s", number, exc)
        except Exception:
            # Other clients must not lose their sidecar over it.
            _LOG.exception("client %d ends because of a fault of the sidecar", number)
            _reply_error(connection, EmulatorError("the sidecar has a fault; its log says more"))
        finally:
            connection.close()
            if session is not None:
                session.close()
                del session
                give_back()
            with self._changed:
                self._clients.pop(number, None)
                self._changed.notify_all()

    def _hello(self, connection: socket.socket) -> None:
        came = wire.receive(connection, max_header=wire.HELLO_BYTES, max_body=0)
        if came is None:
            raise ClientGoneError("the client said nothing")
        version = came[0].header.get("hello")
        if version != wire.VERSION:
            raise ProtocolError(f"the client speaks version {version!r} of the protocol, the sidecar {wire.VERSION}")
        fabric = self.config.fabric
        header: dict[str, Any] = {
            "hello": wire.VERSION,
            "rank": fabric.rank,
            "workers": fabric.workers,
            "devices": [device.properties() for device in self.devices],
        }
        wire.send(connection, wire.encode(header))

    def _converse(self, connection: socket.socket, session: Session) -> None:
        poller = select.poll()
        poller.register(connection, select.POLLIN)
        while not self._stopping.is_set():
            # Between frames a client may think as long as it likes; inside a frame it must go on.
            connection.settimeout(None)
            poller.poll()
            connection.settimeout(_FRAME_SECONDS)
            if not _frame(connection, session):
                return


def _frame(connection: socket.socket, session: Session) -> bool:
    """Read and do one frame; False: there is none. Nothing of it is kept while the client thinks."""
    came = wire.receive(connection)
    if came is None:
        return False
    header, body = came[0]
    execute(session, header, body)
    if "request" in header:
        try:
            _reply(connection, answer(session, header["request"]))
        except (ProtocolError, ClientGoneError):
            raise
        except SupernodeError as exc:
            _reply_error(connection, exc)
    return True


def _reply(connection: socket.socket, reply: Reply) -> None:
    header = {**reply.header, "bytes": sum(part.nbytes for part in reply.body)}
    wire.send(connection, wire.encode(header, reply.body), reply.descriptors)


def _reply_error(connection: socket.socket, error: SupernodeError) -> None:
    """Tell the client, if it still listens."""
    words = {"type": type(error).__name__, "message": str(error)[:4000], "call": error.call}
    with contextlib.suppress(OSError):
        connection.settimeout(1.0)
        wire.send(connection, wire.encode({"error": words}))
    with contextlib.suppress(OSError):
        connection.settimeout(None)


def _connected(connection: socket.socket) -> bool:
    """Whether the other side has not closed."""
    poller = select.poll()
    poller.register(connection, select.POLLRDHUP if hasattr(select, "POLLRDHUP") else select.POLLHUP)
    return not poller.poll(0)
