"""How much memory the host still has: an emulated card may be larger than the machine that emulates it.

Flows in: nothing but what the kernel says. Flows out: bytes. Asked before large results only; a refused launch is an
error of the client, while a process that takes too much is killed with all its clients. Not here: the card's own limit
(`memory`).
"""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path
from typing import Final

from supernode.emulator.runtime.memory import human_bytes
from supernode.errors import OutOfDeviceMemoryError

#: Results below this many bytes are not worth asking for.
LARGE: Final = 64 << 20
#: Bytes that stay free for everything else on the machine.
RESERVE: Final = 128 << 20
# Parameters of glibc's mallopt.
_TRIM_THRESHOLD: Final = -1
_MMAP_MAX: Final = -4
_ARENA_MAX: Final = -8
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


def keep_freed() -> bool:
    """Let the C library keep what arrays give back, for the arrays to come: new pages cost more than most kernels.

    For a process that is a sidecar and nothing else. `give_back` returns it to the machine. Gives whether the C library
    knows how (glibc does).
    """
    try:
        tune = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # One heap for all threads, that also holds large arrays and is not cut at its end.
    return all([tune(_ARENA_MAX, 1), tune(_MMAP_MAX, 0), tune(_TRIM_THRESHOLD, (1 << 31) - 1)])


def give_back() -> None:
    """Return memory that was freed and kept to the machine."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def check_room(nbytes: int) -> None:
    """Refuse a result that the host cannot hold.

    Raises:
        OutOfDeviceMemoryError: says what is left, and what helps.
    """
    if nbytes < LARGE:
        return
    left = available_bytes()
    if left is not None and nbytes + RESERVE > left:
        give_back()
        left = available_bytes() or 0
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
