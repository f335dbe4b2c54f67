"""The sidecar's Unix socket: made where it should be, with the permissions that it should have, and nobody else's.

Flows in: a path. Flows out: a listening socket. Not here: who is accepted (`server`).
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Final

from supernode.errors import EmulatorError

#: Longest path of a Unix socket, bytes (Linux has 108, others 104).
_PATH_BYTES: Final = 100


def listen(path: Path, mode: int, backlog: int) -> socket.socket:
    """A listening Unix socket; one that a dead sidecar has left behind is replaced.

    Args:
        path: of the socket; its directory is made.
        mode: permissions of the socket.
        backlog: clients that may wait to be accepted.

    Raises:
        EmulatorError: the path is too long, another sidecar listens there, or the system refuses.
    """
    if len(os.fsencode(path)) > _PATH_BYTES:
        raise EmulatorError(f"the socket path {path} is longer than {_PATH_BYTES} bytes; choose a shorter directory")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            _refuse_live(path)
            path.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        previous = os.umask(0o777 & ~mode)
        try:
            listener.bind(str(path))
        finally:
            os.umask(previous)
        path.chmod(mode)
        listener.listen(backlog)
    except OSError as exc:
        listener.close()
        raise EmulatorError(f"cannot listen on {path}: {exc}") from exc
    except EmulatorError:
        listener.close()
        raise
    return listener


def _refuse_live(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError:
            # It is there, and too busy to answer (its backlog is full).
            pass
    raise EmulatorError(f"another emulator already listens on {path}")
