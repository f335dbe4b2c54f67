"""How the pods of a job find each other: everyone registers with rank 0, which answers all when the last has come.

    register  pod r -> rank 0: rank, host, port, workers, devices, attempt, wiring; the answer, later, is the table of
              all addresses; the connection stays and becomes the control connection between r and 0
    control   pod r -> every pod between 0 and r: the control connection of that pair
    data      later, whenever a group first needs it (see `channel`)

A pod that registers again before the table is out (its sidecar was restarted) replaces its old registration.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any, NamedTuple

from supernode.emulator.fabric.config import FabricConfig
from supernode.emulator.fabric.reception import Connection, Reception, Refused, dial, short
from supernode.errors import AuthenticationError, CollectiveTimeoutError, FabricError, PeerLostError, ProtocolError

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0


class Address(NamedTuple):
    """Where a pod's fabric listens; pods with the same `place` (not empty) can share memory."""

    host: str
    port: int
    place: str = ""


def identity(config: FabricConfig, purpose: str, wiring: str, **more: Any) -> dict[str, Any]:
    """What a pod says about itself at the start of every connection."""
    return {
        "purpose": purpose,
        "rank": config.rank,
        "workers": config.workers,
        "devices": config.devices_per_worker,
        "attempt": config.attempt,
        "wiring": wiring,
        **more,
    }


def judge(said: dict[str, Any], config: FabricConfig, wiring: str) -> dict[str, Any] | None:
    """The refusal of an identity that does not fit this pod's job, or None."""
    rank = said.get("rank")
    if type(rank) is not int or not 0 <= rank < config.workers or rank == config.rank:
        return {"refused": f"rank {short({'rank': rank})} is not another worker of this job of {config.workers}"}
    if said.get("attempt") != config.attempt:
        # An old attempt's pod may still be going away: the caller tries again.
        return {"refused": f"attempt {said.get('attempt')} met attempt {config.attempt}"[:200], "again": True}
    for name, mine in (("workers", config.workers), ("devices", config.devices_per_worker), ("wiring", wiring)):
        if said.get(name) != mine:
            return {
                "refused": f"worker {rank} was started with {name}={said.get(name)}, rank {config.rank} with {mine}"
            }
    return None


class Register:
    """Rank 0's list of who has come."""

    def __init__(self, config: FabricConfig, mine: Address) -> None:
        self._config = config
        self._changed = threading.Condition()
        self._present: dict[int, tuple[Address, Connection]] = {}
        self._table: list[Address] | None = None
        self._mine = mine
        self._closed = False

    def enter(self, said: dict[str, Any], connection: Connection) -> dict[str, Any] | None:
        """Take a registration; the refusal, or None when the table will follow."""
        host, port, place = said.get("host"), said.get("port"), said.get("place", "")
        if not isinstance(host, str) or len(host) > 255 or type(port) is not int or not 0 < port < 65536:
            return {"refused": f"not an address: {short({'host': host, 'port': port})}"}
        if not isinstance(place, str) or len(place) > 64:
            return {"refused": f"not a place: {short({'place': place})}"}
        rank: int = said["rank"]
        with self._changed:
            if self._closed:
                # Kept now, nobody would ever close it.
                return {"refused": "worker 0 is closing its fabric", "again": True}
            if self._table is not None:
                return {"refused": f"worker {rank} has joined already, and the job has started", "again": True}
            old = self._present.pop(rank, None)
            self._present[rank] = (Address(host, port, place), connection)
            self._changed.notify_all()
        if old is not None:
            old[1].close()
        return None

    def complete(self, deadline: float, reception: Reception) -> tuple[list[Address], dict[int, Connection]]:
        """Wait for everyone, send the table to all; the table and the connections.

        Raises:
            CollectiveTimeoutError: not all came before the deadline; it names them.
        """
        wanted = set(range(1, self._config.workers))
        with self._changed:
            while True:
                if self._closed:
                    # Before anything else: `close` has closed the connections of those who are present.
                    raise FabricError("the fabric was closed before all workers had come")
                for rank in [rank for rank, (_, connection) in self._present.items() if _gone(connection)]:
                    self._present.pop(rank)[1].close()
                missing = sorted(wanted - set(self._present))
                if not missing:
                    break
                left = deadline - time.monotonic()
                if left <= 0:
                    raise CollectiveTimeoutError(
                        f"{self._config.workers - len(missing)} of {self._config.workers} workers came to "
                        f"{self._mine.host}:{self._mine.port} within {self._config.start_timeout:g} s; missing: "
                        f"workers {missing}; connections turned away: {dict(reception.turned_away) or 'none'}"
                    )
                # Wakes now and then to notice registrations that have gone away.
                self._changed.wait(min(left, 0.5))
            self._table = [self._mine] + [self._present[rank][0] for rank in sorted(wanted)]
            connections = {rank: connection for rank, (_, connection) in self._present.items()}
        words = {"table": [list(address) for address in self._table]}
        for connection in connections.values():
            # Who dies in this very moment is noticed by the control plane.
            with suppress(PeerLostError):
                connection.send(words, time.monotonic() + 5)
        return self._table, connections

    def close(self) -> None:
        """End `complete`, and the connections of those who wait for the table."""
        with self._changed:
            self._closed = True
            present = [] if self._table is not None else list(self._present.values())
            self._changed.notify_all()
        for _, connection in present:
            connection.close()


def register(
    config: FabricConfig, wiring: str, mine: Address, deadline: float, closed: threading.Event
) -> tuple[list[Address], Connection]:
    """Register with rank 0, again and again until the deadline; the table and the connection to rank 0.

    Setting `closed` ends it within about a second, or when rank 0 answers.

    Raises:
        AuthenticationError, ProtocolError: rank 0 holds another secret, or is of another version.
        CollectiveTimeoutError: it could not be reached, or the job was not complete, before the deadline.
        FabricError: it refused us for good.
    """
    host, port = config.rendezvous_address()
    said = identity(config, "register", wiring, host=mine.host, port=mine.port, place=mine.place)
    pause, last = FIRST_PAUSE, "nothing tried yet"
    while time.monotonic() < deadline:
        if closed.is_set():
            raise FabricError("the fabric was closed before all workers had come")
        try:
            connection, answer = dial((host, port), config.key, said, deadline)
            return _read_table(answer, config.workers), connection
        except (AuthenticationError, ProtocolError):
            raise
        except Refused as exc:
            if not exc.again:
                raise FabricError(f"worker 0 at {host}:{port} refused worker {config.rank}: {exc}") from exc
            last = str(exc)
        except (OSError, PeerLostError) as exc:
            last = str(exc) or type(exc).__name__
        closed.wait(max(0.0, min(pause, deadline - time.monotonic())))
        pause = min(pause * 1.6, LONGEST_PAUSE)
    raise CollectiveTimeoutError(
        f"worker {config.rank} did not get the table of all workers from worker 0 at {host}:{port} within "
        f"{config.start_timeout:g} s; last: {last}"
    )


def _read_table(answer: dict[str, Any], workers: int) -> list[Address]:
    try:
        table = [Address(str(host), int(port), str(place)) for host, port, place in answer["table"]]
    except (KeyError, TypeError, ValueError) as exc:
        raise ProtocolError(f"worker 0 answered {short(answer)} instead of a table") from exc
    if len(table) != workers:
        raise ProtocolError(f"worker 0 sent a table of {len(table)} workers; this job has {workers}")
    return table


def _gone(connection: Connection) -> bool:
    """True if the other side has closed; nothing is due from it, so any byte counts too."""
    connection.sock.setblocking(False)
    try:
        connection.sock.recv(1)
    except (BlockingIOError, InterruptedError):
        return False
    except OSError:
        return True
    return True
