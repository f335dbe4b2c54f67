"""The directory of one local cluster: its files, and the lock that says whether it runs.

In: a cluster's name. Out: paths, a record of what runs (JSON), and certainty about whether it does: the lock is held
by the process that runs the cluster and is gone with it, however that ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Final

from supernode.errors import LocalError
from supernode.local.agent.volumes import memory_root
from supernode.local.agent.warden import kill_marked
from supernode.names import ENV_LOCAL_DIRECTORY

# A Unix socket's path has at most 107 bytes on Linux; pods' volumes need some 40 of them below this directory.
_LONGEST: Final = 64
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?")


@dataclass(frozen=True)
class Record:
    """What is known about a running cluster.

    Attributes:
        name: its name.
        pid: process that runs it.
        engine: its engine.
        url: the API server's address.
        kubeconfig: path of its kubeconfig file.
        nodes: number of nodes.
        started: RFC 3339.
        operator: whether it runs the operator too.
        operator_log: path of the operator's log, empty without one.
        log: path of the cluster's own log.
        state: ``starting`` or ``ready``.
    """

    name: str
    pid: int
    engine: str
    url: str
    kubeconfig: str
    nodes: int
    started: str
    operator: bool
    operator_log: str
    log: str
    state: str


class StateDirectory:
    """Files of one cluster. `acquire` before anything else is written; `remove` at the end.

    Args:
        name: the cluster's name.
        root: directory of all clusters.
    """

    def __init__(self, name: str, root: Path) -> None:
        if not _NAME.fullmatch(name):
            raise LocalError(f"cluster name {name!r}: at most 32 lower-case letters, digits and '-', such as local")
        self.name = name
        self.path = root / name
        if len(os.fsencode(self.path)) > _LONGEST:
            raise LocalError(
                f"{self.path} is too long for Unix sockets below it ({len(os.fsencode(self.path))} bytes, at most "
                f"{_LONGEST}); set {ENV_LOCAL_DIRECTORY} to a shorter directory"
            )
        self._lock: int | None = None

    @property
    def mark(self) -> str:
        """What this cluster's processes are found by."""
        return str(self.path)

    @property
    def memory(self) -> Path:
        """Directory for volumes in memory."""
        digest = sha256(str(self.path).encode()).hexdigest()[:12]
        return memory_root(self.path, f"supernode-{os.getuid()}-{digest}")

    @property
    def kubeconfig(self) -> Path:
        """The cluster's own kubeconfig file."""
        return self.path / "kubeconfig"

    @property
    def log(self) -> Path:
        """Log of the process that runs the cluster, when it is detached."""
        return self.path / "cluster.log"

    @property
    def operator_log(self) -> Path:
        """Log of the operator."""
        return self.path / "operator.log"

    def acquire(self) -> None:
        """Take the lock, and clear away what a cluster of this name that was killed has left.

        LocalError when one of this name is running.
        """
        _private(self.path.parent)
        while True:
            _private(self.path)
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                record = self.read()
                who = f" (process {record.pid}, {record.url or record.state})" if record else ""
                raise LocalError(
                    f'cluster "{self.name}" is already running{who}; '
                    f"`supernode local down --name {self.name}` ends it, another --name starts a second one"
                ) from None
            # The directory may have been removed between our open and our lock.
            if self._lock_path.exists() and os.path.samestat(os.fstat(descriptor), self._lock_path.stat()):
                break
            os.close(descriptor)
        self._lock = descriptor
        self.clear()
        _private(self.memory)

    def running(self) -> bool:
        """Whether a process holds the lock."""
        try:
            descriptor = os.open(self._lock_path, os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def write(self, record: Record) -> None:
        """Write the record, whole or not at all."""
        with tempfile.NamedTemporaryFile("w", dir=self.path, delete=False) as file:
            json.dump(asdict(record), file, indent=2)
        Path(file.name).replace(self._record_path)

    def read(self) -> Record | None:
        """The record, or None when there is none (yet)."""
        try:
            values = json.loads(self._record_path.read_text())
            return Record(**{field.name: values[field.name] for field in fields(Record)})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def clear(self) -> None:
        """Kill the cluster's processes and remove its files, all but the lock."""
        kill_marked(self.mark)
        shutil.rmtree(self.memory, ignore_errors=True)
        for entry in list(self.path.iterdir()) if self.path.is_dir() else []:
            if entry == self._lock_path:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)

    def remove(self) -> None:
        """Kill, remove, and give the lock up: nothing is left."""
        self.clear()
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        try:
            self.path.parent.rmdir()
        except OSError:
            # Other clusters are in it.
            return

    @property
    def _lock_path(self) -> Path:
        return self.path / "lock"

    @property
    def _record_path(self) -> Path:
        return self.path / "cluster.json"


def default_root() -> Path:
    """Directory of all local clusters of this user."""
    chosen = os.environ.get(ENV_LOCAL_DIRECTORY)
    # A fixed short path, not tempfile's, which may be long: sockets lie below it.
    return Path(chosen).absolute() if chosen else Path(f"/tmp/supernode-{os.getuid()}")  # noqa: S108


def _private(directory: Path) -> None:
    """Make a directory that is ours alone; LocalError if somebody else's is there."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    figures = directory.lstat()
    if figures.st_uid != os.getuid() or not directory.is_dir() or directory.is_symlink():
        raise LocalError(f"{directory} belongs to somebody else; set {ENV_LOCAL_DIRECTORY} to a directory of yours")
    if figures.st_mode & 0o077:
        directory.chmod(0o700)
