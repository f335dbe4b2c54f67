"""The same run every time, and cheaply: what differs from run to run elsewhere, and what a soak can do without.

Left out are the record of who set which field, and CEL rules (other tests hold everybody to them): half of the time.
Lists are read in pages of three, so that there are pages.
"""

from __future__ import annotations

import functools
import random
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import SimpleNamespace
from unittest import mock

from tests.soak.virtual import VirtualLoop

from supernode.local.machinery import cel_rules

# Rules are compiled once for all schedules of a process.
_program = functools.cache(cel_rules._program)


def same_every_time(seed: int, loop: VirtualLoop) -> Iterator[AbstractContextManager[object]]:
    """All that has to be replaced while a schedule runs."""
    random.seed(seed)
    lots = random.Random(seed + 1)
    uuid4 = SimpleNamespace(uuid4=lambda: uuid.UUID(int=lots.getrandbits(128), version=4))
    yield mock.patch("supernode.local.server.objects.uuid", uuid4)
    yield mock.patch("supernode.handlers.cycle.time", SimpleNamespace(monotonic=loop.time, perf_counter=loop.time))
    yield mock.patch("supernode.cluster.cache.PAGE", 3)
    yield mock.patch("supernode.local.machinery.cel_rules._program", _program)
    yield mock.patch("supernode.local.machinery.check._rules", return_value=None)
    yield mock.patch("supernode.local.server.objects.Objects._track", lambda self, target, old, new, write: new)
