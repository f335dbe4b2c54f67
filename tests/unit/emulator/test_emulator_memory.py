"""Device memory: blocks lie apart, the sums hold in any order of calls, and the error says the numbers."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernode.emulator.runtime.host import available_bytes
from supernode.emulator.runtime.memory import GRANULE, Block, Memory, Pool, human_bytes
from supernode.errors import InputError, OutOfDeviceMemoryError

LIMIT = 1 << 16
moves = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 1), st.integers(0, 20_000)),
        st.tuples(st.just("give"), st.integers(0, 1), st.integers(0, 99)),
        st.tuples(st.just("share"), st.integers(0, 1), st.integers(0, 99)),
        st.tuples(st.just("empty"), st.integers(0, 1), st.just(0)),
    ),
    max_size=80,
)


def check(pool: Pool, held: list[Block]) -> None:
    """Blocks in use lie apart from each other inside their segments, and the sums are right."""
    distinct = set(held)
    places = sorted((b.segment.number, b.offset, b.size) for b in distinct if b.size)
    for (segment, start, size), (other, next_start, _) in itertools.pairwise(places):
        assert segment != other or start + size <= next_start
    for block in distinct:
        assert 0 <= block.offset <= block.segment.size - block.size
    assert pool.in_use == sum(block.size for block in distinct) <= pool.reserved
    assert pool.allocations == len(distinct)
    assert pool.peak >= pool.in_use


@given(moves)
def test_two_clients_share_a_card(steps: list[tuple[str, int, int]]) -> None:
    memory = Memory(LIMIT, "device 0")
    pools = [memory.pool("client 1"), memory.pool("client 2")]
    held: list[list[Block]] = [[], []]
    for move, who, number in steps:
        pool, mine = pools[who], held[who]
        if move == "take":
            possible = pool.use().largest
            try:
                mine.append(pool.take(number, f"label {number % 3}"))
                assert mine[-1].size >= number
            except OutOfDeviceMemoryError as exc:
                assert number > possible - GRANULE
                assert f"{pool.allocations} allocations of {pool.owner}" in str(exc)
            else:
                assert number <= possible
        elif move == "empty":
            before = pool.reserved
            assert pool.empty() == before - pool.reserved
        elif mine and move == "share":
            mine.append(mine[number % len(mine)])
            pool.share(mine[-1])
        elif mine:
            pool.release(mine.pop(number % len(mine)))
        for each, blocks in zip(pools, held, strict=True):
            check(each, blocks)
        use = memory.use()
        assert use.in_use == sum(each.in_use for each in pools) <= use.peak
        assert use.reserved == sum(each.reserved for each in pools) == LIMIT - use.largest <= LIMIT
    for pool, mine in zip(pools, held, strict=True):
        for block in mine:
            pool.release(block)
        assert (pool.in_use, pool.allocations) == (0, 0)
        pool.empty()
        assert pool.reserved == 0
        assert pool.use().largest == LIMIT - sum(other.reserved for other in pools if other is not pool)


def test_a_freed_block_is_used_again() -> None:
    pool = Memory(1 << 30, "device 0").pool("client 1")
    first = pool.take(5000, "a")
    pool.release(first)
    reserved = pool.reserved
    assert pool.take(5100, "b") is first  # both are 20 granules
    assert pool.reserved == reserved


def test_neighbours_are_joined_before_the_card_is_asked() -> None:
    pool = Memory(64 << 20, "device 0").pool("client 1")
    blocks = [pool.take(256, "a") for _ in range(pool.take(256, "x").segment.size // 256 - 1)]
    reserved = pool.reserved
    for block in blocks[:20]:
        pool.release(block)
    pool.take(20 * 256, "b")
    assert pool.reserved == reserved


def test_fragments_are_told() -> None:
    memory = Memory(1 << 20, "device 0 (x)")
    pool = memory.pool("client 7")
    blocks = [pool.take(16 << 10, "a") for _ in range(64)]
    for block in blocks[::2]:
        pool.release(block)
    assert pool.use().largest == 16 << 10
    with pytest.raises(OutOfDeviceMemoryError) as caught:
        pool.take(17 << 10, "b")
    for words in (
        "of 1 MiB client 7 uses 512 KiB in 32 allocations (512 KiB free)",
        "reserved 1 MiB",
        "largest free block 16 KiB",
    ):
        assert words in str(caught.value)


def test_what_a_client_keeps_is_not_anothers_until_it_gives_it_back() -> None:
    memory = Memory(1 << 20, "device 0")
    one, two = memory.pool("client 1"), memory.pool("client 2")
    one.release(one.take(1 << 20, "a"))
    with pytest.raises(OutOfDeviceMemoryError) as caught:
        two.take(1 << 19, "b")
    assert (
        "of 1 MiB client 2 uses 0 B in 0 allocations, 1 other client holds 1 MiB (only 0 B of it in arrays: "
        "empty_cache() there gives the rest back) (0 B free)"
    ) in str(caught.value)
    assert one.empty() == 1 << 20
    two.take(1 << 19, "b")
    two.close()
    assert memory.use()[:1] == (0,)
    assert memory.use().reserved == 0


def test_what_others_hold_is_not_called_free() -> None:
    memory = Memory(1 << 20, "device 0")
    memory.pool("client 1").take(300 << 10, "a")
    memory.pool("client 2").take(200 << 10, "a")
    with pytest.raises(OutOfDeviceMemoryError) as caught:
        memory.pool("client 3").take(1 << 20, "b")
    held, free = memory.use().reserved, memory.use().largest
    words = f"of 1 MiB client 3 uses 0 B in 0 allocations, 2 other clients hold {human_bytes(held)} "
    assert f"{words}({human_bytes(free)} free)" in str(caught.value)
    assert held >= 500 << 10


def test_the_message_has_the_numbers() -> None:
    pool = Memory(1 << 30, "device 3 (hygon-bw1000)").pool("client 1")
    blocks = [pool.take(600 << 20, "matmul f32[1,2]"), pool.take(100 << 20, "upload bf16[7]")]
    pool.holders = lambda: blocks
    with pytest.raises(OutOfDeviceMemoryError) as caught:
        pool.take(400 << 20, "gelu f32[9]")
    for words in (
        "device 3 (hygon-bw1000)",
        "asked 400 MiB (419430400 bytes) for gelu f32[9]",
        "of 1 GiB client 1 uses 700 MiB in 2 allocations (324 MiB free)",
        "reserved 700 MiB, largest free block 324 MiB",
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
