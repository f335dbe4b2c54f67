"""The warden: a process that kills a local cluster's processes when the one that started it has ended.

Run as a script, standard library only: ``python -I -S warden.py MARK`` with a pipe as standard input. Lines ``+GROUP``
and ``-GROUP`` note and forget process groups. At the end of the pipe all noted groups, and all processes whose
environment carries the mark, get SIGKILL. It is immune to the terminal's Ctrl-C because it has a session of its own.
`supervise` starts it and shares its way to find marked processes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

# Variable that marks a process as one of a local cluster; its value is the cluster's mark.
# Also in `supernode.names`, which cannot be imported here (no site packages).
MARK_VARIABLE: Final = "SUPERNODE_LOCAL_MARK"
_PROC: Final = Path("/proc")


def marked_processes(mark: str) -> list[int]:
    """Process ids of this user's processes whose environment carries `mark` (or a mark below it), without ourselves.

    `mark` may name a whole cluster (``/tmp/supernode-0/local``), one pod in it (``/tmp/supernode-0/local#UID``) or one
    container (``/tmp/supernode-0/local#UID/NAME``). Empty where there is no /proc.
    """
    wanted = f"{MARK_VARIABLE}={mark}".encode()
    found = []
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(item == wanted or item.startswith((wanted + b"#", wanted + b"/")) for item in environment):
            found.append(int(entry.name))
    return found


def kill_marked(mark: str, *, spare: frozenset[int] = frozenset(), attempts: int = 40) -> list[int]:
    """SIGKILL every marked process until none is left; returns those killed. `spare` are left alone."""
    killed: set[int] = set()
    clean = 0
    for _ in range(attempts):
        alive = [pid for pid in marked_processes(mark) if pid not in spare]
        # Twice clean, because a process that was between fork and exec does not show its mark yet.
        clean = clean + 1 if not alive else 0
        if clean == 2:
            break
        for pid in alive:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        time.sleep(0.02)
    return sorted(killed)


def watch(lines: Iterable[str], mark: str) -> None:
    """Follow the pipe to its end, then kill."""
    groups: set[int] = set()
    for line in lines:
        number = int(line[1:])
        if line[0] == "+":
            groups.add(number)
        else:
            groups.discard(number)
    for group in groups:
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)
    kill_marked(mark)


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    watch(sys.stdin, sys.argv[1])
