"""Device memory: the budget holds in any order of calls, and the error says the numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernode.emulator.runtime.host import available_bytes
from supernode.emulator.runtime.memory import GRANULE, Memory, human_bytes
from supernode.errors import InputError, OutOfDeviceMemoryError

steps = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 5000)),
        st.tuples(st.just("give"), st.integers(0, 99)),
        st.tuples(st.just("share"), st.integers(0, 99)),
    ),
    max_size=60,
)


@given(steps)
def test_in_use_is_what_is_held(moves: list[tuple[str, int]]) -> None:
    memory = Memory(16384, "device 0")
    held = []
    for move, number in moves:
        before = memory.use()
        if move == "take":
            try:
                held.append(memory.allocate(number, f"label {number % 3}"))
            except OutOfDeviceMemoryError:
                assert before.in_use + number > memory.limit - GRANULE
                assert memory.use() == before
        elif held and move == "share":
            held.append(memory.share(held[number % len(held)]))
        elif held:
            memory.release(held.pop(number % len(held)))
        assert memory.use().in_use == sum(a.nbytes for a in set(held)) <= memory.limit
        assert memory.use().allocations == len(set(held))
        assert memory.use().peak >= memory.use().in_use
    for allocation in held:
        memory.release(allocation)
    assert memory.use().in_use == 0
    assert memory.use().allocations == 0


def test_the_message_has_the_numbers() -> None:
    memory = Memory(1 << 30, "device 3 (hygon-bw1000)")
    memory.allocate(600 << 20, "matmul f32[1,2]")
    memory.allocate(100 << 20, "upload bf16[7]")
    with pytest.raises(OutOfDeviceMemoryError) as caught:
        memory.allocate(400 << 20, "gelu f32[9]")
    for words in (
        "device 3 (hygon-bw1000)",
        "asked 400 MiB (419430400 bytes) for gelu f32[9]",
        "700 MiB of 1 GiB are in use (324 MiB free) in 2 allocations",
        "matmul f32[1,2] 600 MiB, upload bf16[7] 100 MiB",
    ):
        assert words in str(caught.value)


def test_a_device_has_memory() -> None:
    with pytest.raises(InputError, match="0 bytes"):
        Memory(0, "device 0")


def test_human_bytes() -> None:
    assert [human_bytes(n) for n in (0, 1536, 64 << 30, 3 << 41)] == ["0 B", "1.5 KiB", "64 GiB", "6 TiB"]


def test_room_on_the_host(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    assert available_bytes(meminfo, tmp_path) is None
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\n")
    assert available_bytes(meminfo, tmp_path) == 5000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("700000\n")
    assert available_bytes(meminfo, tmp_path) == 5000 * 1024
    (tmp_path / "memory.max").write_text("1000000\n")
    assert available_bytes(meminfo, tmp_path) == 300_000
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 200\n")
    assert available_bytes(meminfo, tmp_path) == 300_200
