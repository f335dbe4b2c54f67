"""Addresses in 127.0.0.0/8: one for each node, pod, and name that a pod will have.

In: owners (any text) and DNS names of pods. Out: IPv4 addresses, stable while their owner is known. Each local cluster
takes one block 127.A.0.0/16, and holds it by an abstract Unix socket (seen by all users of the same network namespace,
gone with the process), so two clusters on one machine never share an address.
"""

from __future__ import annotations

import random
import socket
from collections import deque
from ipaddress import IPv4Address
from typing import Final

from supernode.errors import LocalError

# 127.0 to 127.15 is left to whatever else uses the loopback range.
_FIRST_BLOCK: Final = 16
_LAST_BLOCK: Final = 254


class AddressBlock:
    """Hands out the addresses of one block, the longest unused first, so that old connections have died out.

    Args:
        seed: chooses where the search for a free block begins (the cluster's name, say).
    """

    def __init__(self, seed: str) -> None:
        self._lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._block = self._claim(seed)
        self._next = IPv4Address(f"127.{self._block}.0.1")
        self._end = IPv4Address(f"127.{self._block}.255.254")
        self._released: deque[str] = deque()
        self._by_owner: dict[str, str] = {}

    def _claim(self, seed: str) -> int:
        blocks = list(range(_FIRST_BLOCK, _LAST_BLOCK + 1))
        random.Random(seed).shuffle(blocks)
        for block in blocks:
            try:
                self._lock.bind(f"\0supernode-local-127.{block}")
            except OSError:
                continue
            return block
        self._lock.close()
        raise LocalError(f"all {len(blocks)} address blocks 127.{_FIRST_BLOCK}-{_LAST_BLOCK}.0.0/16 are in use")

    def close(self) -> None:
        """Give the block back."""
        self._lock.close()

    @property
    def prefix(self) -> str:
        """First two parts of all addresses of this block, such as ``127.20.``."""
        return f"127.{self._block}."

    def address(self, owner: str) -> str:
        """The owner's address; the first call reserves it."""
        found = self._by_owner.get(owner)
        if found is None:
            found = self._by_owner[owner] = self._fresh()
        return found

    def release(self, owner: str) -> None:
        """The owner needs its address no longer."""
        found = self._by_owner.pop(owner, None)
        if found is not None:
            self._released.append(found)

    def _fresh(self) -> str:
        if self._next > self._end:
            if not self._released:
                raise LocalError(f"no free address left in {self.prefix}0.0/16 ({len(self._by_owner)} in use)")
            return self._released.popleft()
        self._next, fresh = self._next + 1, self._next
        # Some programs take a last part of 0 or 255 for a network or broadcast address.
        return str(fresh) if int(fresh) & 0xFF not in (0, 255) else self._fresh()


def pod_owner(namespace: str, hostname: str, subdomain: str | None, uid: str) -> str:
    """Owner of a pod's address: its DNS name if it has one (others may name it before it exists), else its uid."""
    return f"{hostname}.{subdomain}.{namespace}" if subdomain else f"uid:{uid}"
