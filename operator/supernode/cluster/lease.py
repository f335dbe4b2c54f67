"""Leader election: one operator acts per cluster, by a Lease that it renews.

Flows in: the Lease as others see it. Flows out: "you lead", "you lead no more", and a guard for writes.
Time is measured on this machine's monotonic clock only, from when *we* saw the Lease change: clocks of other
machines are never compared. A leader that could not renew for two thirds of the lease stops writing by itself,
before anybody else may take over; what it has sent until then is given up, here and at the server, while the lease
still lasts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from supernode.cluster.client import Client
from supernode.cluster.kinds import LEASES, Json
from supernode.errors import ClusterError, ConflictError, NotFoundError
from supernode.names import LEASE_NAME, LEASE_NAMESPACE

logger = logging.getLogger(__name__)

# Seconds a lease lasts after its last renewal; Kubernetes' own components use 15.
DURATION: Final = 15
# Share of a lease after its last renewal for which its holder writes, and after which all that it sent is over.
WRITING: Final = 2 / 3
OVER: Final = 14 / 15


class LeaseLostError(ClusterError):
    """This process leads no more and must not write."""


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """Where the Lease is, who we are, and how long (seconds) it lasts."""

    identity: str
    duration: int = DURATION
    namespace: str = LEASE_NAMESPACE
    name: str = LEASE_NAME


class Lease:
    """Takes, renews and releases the Lease.

    Args:
        client: the connection. Its guard must not be this lease's own: renewing is what makes writing legal.
        settings: where and who.
        clock: monotonic seconds.
        sleep: waits.
    """

    def __init__(
        self,
        client: Client,
        settings: LeaseSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._settings = settings
        self._clock = clock
        self._sleep = sleep
        # What we saw last, and when: (resourceVersion, monotonic seconds).
        self._seen: tuple[str, float] | None = None
        self._renewed: float | None = None
        self._held: Json | None = None
        self._noted: str | None = None

    @property
    def leading(self) -> bool:
        """Whether this process may write now."""
        if self._renewed is None:
            return False
        return self._clock() - self._renewed < self._settings.duration * WRITING

    def guard(self) -> float:
        """For Client.guard: seconds in which a write that begins now must be over.

        Raises:
            LeaseLostError: this process may not write.
        """
        if self._renewed is None or not self.leading:
            raise LeaseLostError(f"{self._settings.identity} does not hold the lease any more; nothing is written")
        return self._renewed + self._settings.duration * OVER - self._clock()

    async def acquire(self) -> None:
        """Wait until this process leads."""
        while not await self._try():
            await self._sleep(min(2.0, self._settings.duration / 5))
        logger.info("leading as %s", self._settings.identity)

    async def keep(self) -> None:
        """Renew until it fails for good; returns when leadership is lost."""
        while True:
            # After a renewal that failed sooner: it may have been done and only its answer lost.
            await self._sleep(self._settings.duration / (5 if self._held is not None else 20))
            if not await self._try() and not self.leading:
                self._renewed = None
                logger.error("%s lost the lease", self._settings.identity)
                return

    async def release(self) -> None:
        """Give the Lease up, so that a standby takes over at once. Failing to is no error: it runs out."""
        held, self._held, self._renewed = self._held, None, None
        if held is None:
            return
        held["spec"]["holderIdentity"] = ""
        held["spec"]["leaseDurationSeconds"] = 1
        try:
            await self._client.request(
                "PUT", LEASES.path(self._settings.namespace, self._settings.name), body=held, attempts=1
            )
        except ClusterError as exc:
            logger.info("the lease was not released and will run out: %s", exc)

    async def _try(self) -> bool:
        """One attempt to take or renew; True when it worked."""
        # The lease counts from before the request: an answer may take its time.
        began = self._clock()
        try:
            async with asyncio.timeout(self._settings.duration / 3):
                written = await self._write()
        except (ClusterError, TimeoutError) as exc:
            logger.warning("lease %s/%s: %s", self._settings.namespace, self._settings.name, exc or "no answer")
            if isinstance(exc, ConflictError):
                self._held = None
            return False
        if written is None:
            self._renewed = None
            return False
        self._held, self._renewed = written, began
        return True

    async def _write(self) -> Json | None:
        """The Lease with our name in it, or None while another holds it."""
        settings = self._settings
        path = LEASES.path(settings.namespace, settings.name)
        lease = self._held
        if lease is None:
            try:
                lease = await self._client.request("GET", path, attempts=1)
            except NotFoundError:
                fresh: Json = {
                    "apiVersion": LEASES.api_version,
                    "kind": LEASES.kind,
                    "metadata": {"name": settings.name, "namespace": settings.namespace},
                    "spec": self._spec({}),
                }
                return await self._client.request("POST", LEASES.path(settings.namespace), body=fresh, attempts=1)
            if not self._free(lease):
                return None
        lease = {**lease, "spec": self._spec(lease.get("spec") or {})}
        return await self._client.request("PUT", path, body=lease, attempts=1)

    def _free(self, lease: Json) -> bool:
        """Whether the Lease is ours, given up, or has not changed for as long as it lasts."""
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        version = lease["metadata"].get("resourceVersion", "")
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, self._clock())
        if holder in ("", self._settings.identity):
            return True
        if holder != self._noted:
            self._noted = holder
            logger.info("standing by: %s leads", holder)
        return self._clock() - self._seen[1] > float(spec.get("leaseDurationSeconds") or self._settings.duration)

    def _spec(self, old: Json) -> Json:
        settings = self._settings
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        mine = old.get("holderIdentity") == settings.identity
        return {
            **old,
            "holderIdentity": settings.identity,
            "leaseDurationSeconds": settings.duration,
            "acquireTime": old.get("acquireTime", now) if mine else now,
            "renewTime": now,
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + (0 if mine or not old else 1),
        }
