"""What a fabric must be told to start; checked, with the field's name in every error."""

from __future__ import annotations

from dataclasses import dataclass, field

from supernode.chips import Chip
from supernode.emulator.fabric.handshake import SHORTEST_SECRET
from supernode.errors import FabricError
from supernode.names import ENV_FABRIC_SECRET, ENV_RENDEZVOUS, PORT_FABRIC

DEFAULT_TIMEOUT = 60.0
MAX_WORKERS = 4096
MAX_DEVICES = 64
TRANSPORTS = ("auto", "tcp")


@dataclass(frozen=True)
class FabricConfig:
    """One pod's place in a job.

    Args:
        rank: of this pod among the workers, from 0.
        workers: pods in the job; with 1 nothing listens and no secret is needed.
        devices_per_worker: the same in every pod; global device rank = rank * devices_per_worker + local device.
        listen_host: address of this pod that the others can reach.
        listen_port: 0 takes any free port.
        rendezvous: host:port of rank 0's fabric; rank 0 itself ignores it.
        secret: the job's, at least 16 bytes.
        topology: text of SUPERNODE_TOPOLOGY; None or empty = by the chip's own figures.
        chip: figures for links that the topology does not give, and their efficiency.
        timeout: seconds that a collective waits for a rank, or without any progress, before it fails.
        start_timeout: seconds in which all pods must have found each other.
        attempt: of the job; pods of different attempts refuse each other.
        transport: `auto`: memory between pods that can share it, TCP to the others; `tcp`: TCP only.
    """

    rank: int
    workers: int
    devices_per_worker: int
    listen_host: str = "127.0.0.1"
    listen_port: int = PORT_FABRIC
    rendezvous: str = ""
    secret: bytes | str = field(default=b"", repr=False)
    topology: str | None = None
    chip: Chip | None = None
    timeout: float = DEFAULT_TIMEOUT
    start_timeout: float = 120.0
    attempt: int = 0
    transport: str = "auto"

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= MAX_WORKERS or not 0 <= self.rank < self.workers:
            raise FabricError(
                f"rank {self.rank} of {self.workers} workers: need 1..{MAX_WORKERS} workers, rank below it"
            )
        if not 1 <= self.devices_per_worker <= MAX_DEVICES:
            raise FabricError(f"{self.devices_per_worker} devices per worker: need 1..{MAX_DEVICES}")
        if self.transport not in TRANSPORTS:
            raise FabricError(f"transport {self.transport!r} is unknown; use one of {', '.join(TRANSPORTS)}")
        if not (self.timeout > 0 and self.start_timeout > 0):
            raise FabricError(f"timeouts must be above 0 s, got {self.timeout} and {self.start_timeout}")
        if self.workers > 1:
            if len(self.key) < SHORTEST_SECRET:
                raise FabricError(
                    f"{self.workers} workers need a job secret of {SHORTEST_SECRET} bytes or more in "
                    f"{ENV_FABRIC_SECRET}, got {len(self.key)}"
                )
            if self.rank > 0:
                self.rendezvous_address()

    @property
    def key(self) -> bytes:
        """The secret as bytes."""
        return self.secret.encode() if isinstance(self.secret, str) else self.secret

    @property
    def world(self) -> int:
        """Devices in the job."""
        return self.workers * self.devices_per_worker

    def ranks_of(self, pod: int) -> range:
        """Global device ranks of a pod."""
        return range(pod * self.devices_per_worker, (pod + 1) * self.devices_per_worker)

    def rendezvous_address(self) -> tuple[str, int]:
        """Host and port of rank 0's fabric; FabricError when it is not host:port."""
        host, _, port = self.rendezvous.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise FabricError(f"{ENV_RENDEZVOUS} must be host:port, got {self.rendezvous!r}")
        return host.strip("[]"), int(port)
