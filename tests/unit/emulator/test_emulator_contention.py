"""Times of launches among streams of other priorities, against a clock that ticks."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from supernode.emulator.runtime.contention import KEPT, Busy, end_of

lengths = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8)


def by_ticks(start: int, length: int, taken: set[int]) -> int:
    moment = start
    while length:
        length -= moment not in taken
        moment += 1
    return moment


@given(st.integers(0, 30), st.integers(0, 10), st.lists(lengths, max_size=3), st.integers(0, 8))
@example(start=3, length=0, streams=[[(0, 5)]], limit=8)  # nothing to do is done at once, even while others run
@example(start=5, length=0, streams=[[(0, 5)], [(5, 5)]], limit=8)
def test_work_runs_in_the_time_that_is_left(
    start: int, length: int, streams: list[list[tuple[int, int]]], limit: int
) -> None:
    higher, taken = [], set[int]()
    for stream in streams:
        busy, now = Busy(0), 0
        for position, (gap, long) in enumerate(stream, 1):
            busy.add(position, now + gap, now + gap + long)
            if position <= limit:
                taken |= set(range(now + gap, now + gap + long))
            now += gap + long
        higher.append((busy, limit))
    assert end_of(start, length, higher) == by_ticks(start, length, taken)


def test_what_was_there_before_does_not_count() -> None:
    busy = Busy(3)
    for position in range(1, 6):
        busy.add(position, position, position + 1)
    assert list(busy.after(0, 99)) == [(4, 5), (5, 6)]


def test_not_all_times_are_kept() -> None:
    busy = Busy(0)
    for position in range(1, 5 * KEPT):
        busy.add(position, position, position + 1)
    assert KEPT <= len(busy.after(0, 5 * KEPT)) <= 2 * KEPT
