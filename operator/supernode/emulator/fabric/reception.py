"""The listener of one pod: lets in who proves the job's secret, turns strangers away and counts them.

Each connection is answered on a thread of its own with one deadline, so a slow stranger delays nobody; when too many
are unproven at the same time the oldest is dropped. Flows out: (purpose, identity, connection) to `welcome`, which
answers with the words to send back. Not here: what the purposes mean (`bootstrap`, `fabric`).
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from supernode.emulator.fabric import handshake
from supernode.emulator.fabric.congestion import unpaced
from supernode.emulator.fabric.frames import CODE_BYTES, HEADER, MESSAGE, Seal
from supernode.errors import AuthenticationError, EmulatorError, FabricError, ProtocolError

# Connections that may be unproven at once; an honest one is proven within milliseconds.
MAX_UNPROVEN: Final = 128
HANDSHAKE_SECONDS: Final = 5.0
BACKLOG: Final = 256


@dataclass
class Connection:
    """A connection whose other side has proved the secret."""

    sock: socket.socket
    outward: Seal
    inward: Seal

    def send(self, words: dict[str, Any], deadline: float) -> None:
        """Send one message; PeerLostError when it cannot be sent before the deadline."""
        handshake.write(self.sock, self.outward.message(words), deadline)

    def receive(self, deadline: float) -> dict[str, Any]:
        """Read one message; PeerLostError when none comes before the deadline."""
        raw = handshake.read(self.sock, HEADER.size + CODE_BYTES, deadline)
        header = self.inward.open(raw)
        if header.kind != MESSAGE:
            raise ProtocolError("a tensor came where a message was due")
        return self.inward.check(raw, handshake.read(self.sock, header.length, deadline))

    def close(self) -> None:
        """Break the connection."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


# (identity, connection) -> words to answer with, or None when the one who welcomes answers later by itself.
# `{"refused": reason}` ends the connection; after any other answer `adopt` hands it over.
Welcome = Callable[[dict[str, Any], Connection], "dict[str, Any] | None"]
Adopt = Callable[[dict[str, Any], Connection], None]


def listen_tcp(host: str, port: int) -> socket.socket:
    """A socket that listens on host:port; FabricError when that cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.create_server((host, port), family=family, backlog=BACKLOG)
        unpaced(sock)
        return sock
    except OSError as exc:
        raise FabricError(f"the fabric cannot listen on {host}:{port}: {exc}") from exc


def listen_unix(name: bytes) -> socket.socket | None:
    """A socket that listens under an abstract name; None where such a thing cannot be had."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(name)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        return None
    return sock


class Reception:
    """Lets in who comes to a listening socket until `close`; `turned_away` counts refused connections by reason."""

    def __init__(self, sock: socket.socket, secret: bytes, welcome: Welcome, adopt: Adopt) -> None:
        self._secret = secret
        self._welcome = welcome
        self._adopt = adopt
        self._lock = threading.Lock()
        self._unproven: dict[socket.socket, None] = {}  # oldest first
        self.turned_away: Counter[str] = Counter()
        self._sock = sock
        self._open = True
        self._thread = threading.Thread(target=self._listen, name="fabric-listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and drop everyone who is not proven yet."""
        self._open = False
        with suppress(OSError):
            # Wakes accept() on Linux; closing alone does not.
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        with self._lock:
            unproven = list(self._unproven)
        for sock in unproven:
            _drop(sock)
        self._thread.join(timeout=5)

    def _listen(self) -> None:
        while self._open:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                # Out of descriptors, or a connection that was reset before it was accepted; or we are closing.
                if self._open:
                    time.sleep(0.05)
                continue
            with self._lock:
                self._unproven[sock] = None
                oldest = next(iter(self._unproven)) if len(self._unproven) > MAX_UNPROVEN else None
            if self._sock.fileno() < 0:
                sock.close()  # came while we were closing: `close` has not seen it
                continue
            if oldest is not None:
                _drop(oldest)
            threading.Thread(target=self._answer, args=(sock,), name="fabric-handshake", daemon=True).start()

    def _answer(self, sock: socket.socket) -> None:
        adopted = False
        try:
            adopted = self._introduce(sock)
        except AuthenticationError:
            self._count("secret")
        except ProtocolError:
            self._count("protocol")
        except EmulatorError:
            self._count("silent")
        finally:
            with self._lock:
                self._unproven.pop(sock, None)
            if not adopted:
                _drop(sock)
                sock.close()

    def _introduce(self, sock: socket.socket) -> bool:
        deadline = time.monotonic() + HANDSHAKE_SECONDS
        outward, inward = handshake.answer(sock, self._secret, deadline)
        connection = Connection(sock, outward, inward)
        identity = connection.receive(deadline)
        words = self._welcome(identity, connection)
        if words is None:
            return True
        connection.send(words, deadline)
        if "refused" in words:
            self._count("identity")
            return False
        self._adopt(identity, connection)
        return True

    def _count(self, reason: str) -> None:
        with self._lock:
            self.turned_away[reason] += 1


def dial(
    where: tuple[str, int] | bytes, secret: bytes, identity: dict[str, Any], deadline: float
) -> tuple[Connection, dict[str, Any]]:
    """Connect once to host and port or to an abstract name, prove the secret and say who we are.

    Returns the connection and the listener's answer.

    Raises:
        ConnectionError, OSError: nobody listens there (yet).
        AuthenticationError, ProtocolError, PeerLostError: see `handshake.call`.
        FabricError: the listener refused the identity; the message is its reason.
    """
    left = max(0.05, deadline - time.monotonic())
    if isinstance(where, bytes):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    else:
        sock = _connected(where, left)
    try:
        if isinstance(where, bytes):
            sock.settimeout(left)
            sock.connect(where)
        outward, inward = handshake.call(sock, secret, min(deadline, time.monotonic() + HANDSHAKE_SECONDS))
        connection = Connection(sock, outward, inward)
        connection.send(identity, deadline)
        answer = connection.receive(deadline)
    except BaseException:
        sock.close()
        raise
    if "refused" in answer:
        sock.close()
        raise Refused(str(answer["refused"]), again=bool(answer.get("again")))
    return connection, answer


def _connected(where: tuple[str, int], seconds: float) -> socket.socket:
    """A connection to host and port; OSError of the last address that was tried."""
    failed: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(*where, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            unpaced(sock)
            sock.settimeout(seconds)
            sock.connect(address)
        except OSError as exc:
            sock.close()
            failed = exc
        else:
            return sock
    raise failed or OSError(f"{where[0]} has no address")


class Refused(FabricError):  # noqa: N818  (stays inside the fabric)
    """The other side knows us and says no; `again`: it may say yes later."""

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.again = again


def _drop(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def short(words: dict[str, Any]) -> str:
    """Words of a peer for a message of ours, bounded."""
    return json.dumps(words)[:200]
