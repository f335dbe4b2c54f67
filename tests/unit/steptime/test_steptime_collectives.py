"""Links of a group, and collectives: bounds that hold whatever the constants."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernode.chips import find_chip
from supernode.errors import ModelError
from supernode.steptime.collectives import (
    KINDS,
    LinkLevel,
    Links,
    collective_seconds,
    levels_for,
    links_of,
    regular_links,
)

SPINE = LinkLevel("spine", 50e9, 10e-6, 0.8, 10e-6)
SUPERNODE = LinkLevel("supernode", 200e9, 3e-6, 0.8, 10e-6)
NODE = LinkLevel("node", 224e9, 2e-6, 0.8, 10e-6)
LEVELS = (SPINE, SUPERNODE, NODE)

shapes = st.lists(st.integers(1, 5), min_size=3, max_size=3)


def by_hand(domains: list[list[int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes and lanes, said in another way: sets of paths."""
    ranks = range(len(domains[0]))
    depth = len(domains)
    sizes, lanes = [], []
    for level in range(depth):
        inside: dict[tuple[int, ...], dict[tuple[int, ...], int]] = {}
        for rank in ranks:
            path = tuple(domains[at][rank] for at in range(level + 1)) if level else ()
            part = (*(domains[at][rank] for at in range(level + 2)),) if level + 1 < depth else (rank,)
            members = inside.setdefault(path, {})
            members[part] = members.get(part, 0) + 1
        sizes.append(max(len(members) for members in inside.values()))
        lanes.append(min(count for members in inside.values() for count in members.values()))
    return tuple(sizes), tuple(lanes)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12))
@settings(deadline=None)
def test_links_of_any_group(paths: list[tuple[int, int, int]]) -> None:
    domains = [[path[level] for path in paths] for level in range(3)]
    links = links_of(LEVELS, domains)
    assert (links.sizes, links.lanes) == by_hand(domains)


@given(shapes)
@settings(deadline=None)
def test_regular_links_are_the_links_of_a_regular_tree(sizes: list[int]) -> None:
    count = math.prod(sizes)
    domains = [
        [0] * count,
        [rank // (sizes[1] * sizes[2]) for rank in range(count)],
        [rank // sizes[2] for rank in range(count)],
    ]
    built, read = regular_links(LEVELS, sizes), links_of(LEVELS, domains)
    assert built.sizes == read.sizes
    assert [lane for lane, size in zip(built.lanes, built.sizes, strict=True) if size > 1] == [
        lane for lane, size in zip(read.lanes, read.sizes, strict=True) if size > 1
    ]


@pytest.mark.parametrize("kind", KINDS)
@given(sizes=shapes, small=st.floats(0, 1e12), factor=st.floats(1, 100))
@settings(deadline=None)
def test_more_bytes_never_take_less_time(kind: str, sizes: list[int], small: float, factor: float) -> None:
    links = regular_links(LEVELS, sizes)
    fast, slow = collective_seconds(kind, small, links), collective_seconds(kind, small * factor, links)
    assert 0 <= fast <= slow < math.inf
    assert (fast == 0) == (math.prod(sizes) == 1)


@given(sizes=shapes, nbytes=st.floats(1e6, 1e10))
@settings(deadline=None)
def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather_or_better(sizes: list[int], nbytes: float) -> None:
    links = regular_links(LEVELS, sizes)
    halves = collective_seconds("reduce_scatter", nbytes, links) + collective_seconds("all_gather", nbytes, links)
    assert collective_seconds("all_reduce", nbytes, links) <= halves


def test_large_ring_reaches_the_bandwidth_of_its_narrowest_border() -> None:
    # Two nodes of eight: eight lanes of 40 GB/s carry more than one accelerator's 179 GB/s inside.
    inside = regular_links(LEVELS, (1, 1, 8))
    across = regular_links(LEVELS, (2, 1, 8))
    thin = regular_links(LEVELS, (2, 1, 1))
    size = 1e11

    def bus(links: Links, ranks: int) -> float:
        return size * 2 * (ranks - 1) / ranks / collective_seconds("all_reduce", size, links)

    assert bus(inside, 8) == pytest.approx(224e9 * 0.8, rel=0.01)
    assert bus(across, 16) == pytest.approx(224e9 * 0.8, rel=0.01)
    assert bus(thin, 2) == pytest.approx(50e9 * 0.8, rel=0.01)


def test_small_messages_take_the_steps_of_a_ring() -> None:
    links = regular_links((NODE,), (8,))
    assert collective_seconds("all_reduce", 8, links) == pytest.approx(10e-6 + 14 * 2e-6, rel=0.01)


def test_send_uses_the_outermost_level_between_the_two() -> None:
    far = collective_seconds("send_recv", 1e9, links_of(LEVELS, [[0, 0], [0, 1], [0, 1]]))
    near = collective_seconds("send_recv", 1e9, links_of(LEVELS, [[0, 0], [1, 1], [1, 1]]))
    assert far == pytest.approx(1e9 / 40e9, rel=0.01)
    assert near == pytest.approx(1e9 / (224e9 * 0.8), rel=0.01)


def test_levels_as_fast_as_scale_up_links_get_their_efficiency() -> None:
    chip = find_chip("hygon-bw1000")
    levels = levels_for(chip, [("spine", 50e9, 1e-5), ("supernode", 224e9, 2e-6), ("node", 224e9, 2e-6)])
    assert levels[1].efficiency == levels[2].efficiency > levels[0].efficiency


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: collective_seconds("gossip", 1, regular_links((NODE,), (2,))), "unknown collective 'gossip'"),
        (lambda: collective_seconds("all_reduce", -1, regular_links((NODE,), (2,))), "0 or more"),
        (lambda: collective_seconds("all_reduce", math.nan, regular_links((NODE,), (2,))), "0 or more"),
        (lambda: regular_links((NODE,), (2, 2)), "1 levels need as many sizes"),
        (lambda: regular_links((NODE,), (0,)), "1 or more"),
        (lambda: links_of((NODE,), [[0], [0]]), "domains of shape"),
        (lambda: links_of((NODE,), [[]]), "domains of shape"),
        (lambda: LinkLevel("x", 0, 0), "above 0"),
        (lambda: LinkLevel("x", math.inf, 0), "above 0"),
        (lambda: LinkLevel("x", 1, -1), "0 or more"),
        (lambda: LinkLevel("x", 1, 0, 1.5), "efficiency"),
    ],
)
def test_nonsense_is_refused(call: object, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        call()  # type: ignore[operator]
