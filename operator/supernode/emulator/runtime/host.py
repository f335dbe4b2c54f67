"""How much memory the host still has: an emulated card may be larger than the machine that emulates it.

Flows in: nothing but what the kernel says. Flows out: bytes. Asked before large results only; a refused launch is an
error of the client, while a process that takes too much is killed with all its clients. Not here: the card's own limit
(`memory`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from supernode.emulator.runtime.memory import human_bytes
from supernode.errors import OutOfDeviceMemoryError

#: Results below this many bytes are not worth asking for.
LARGE: Final = 64 << 20
#: Bytes that stay free for everything else on the machine.
RESERVE: Final = 128 << 20
_MEMINFO: Final = Path("/proc/meminfo")
_CGROUP: Final = Path("/sys/fs/cgroup")


def available_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Bytes that can be taken without pushing anything out, as the machine and the container say; None: nobody says."""
    found = []
    for line in _read(meminfo).splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    limit, current = _read(cgroup / "memory.max").strip(), _read(cgroup / "memory.current").strip()
    if limit.isdecimal() and current.isdecimal():
        # File pages are counted as in use, but go when they are needed.
        cache = [
            line.split()[1] for line in _read(cgroup / "memory.stat").splitlines() if line.startswith("inactive_file ")
        ]
        found.append(int(limit) - int(current) + int(cache[0] if cache else 0))
    return min(found) if found else None


def check_room(nbytes: int) -> None:
    """Refuse a result that the host cannot hold.

    Raises:
        OutOfDeviceMemoryError: says what is left, and what helps.
    """
    if nbytes < LARGE:
        return
    left = available_bytes()
    if left is not None and nbytes + RESERVE > left:
        raise OutOfDeviceMemoryError(
            f"the host has {human_bytes(max(left, 0))} left for the emulator, the result needs {human_bytes(nbytes)}: "
            "the card may be large enough, the machine that emulates it is not; use smaller batches, or raise the "
            "sidecar's memory limit"
        )


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
