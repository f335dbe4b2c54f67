"""Device time of copies: over the host's link and between the devices of a node, from figures with a source."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supernode.chips import find_chip
from supernode.emulator.runtime.clock import CostModel
from supernode.emulator.runtime.host_link import USUAL, host_bandwidth
from supernode.steptime.collectives import collective_seconds, levels_for, regular_links

CHIP = find_chip("hygon-k100-ai")
GB = 10**9


@pytest.mark.parametrize(
    ("link", "gigabytes"),
    # Lane rates of the specification times lanes, times 256/280: worked out here a second time.
    [("gen3 x16", 14.40), ("gen4 x16", 28.81), ("gen5 x16", 57.61), ("PCIe Gen5 x8", 28.81), ("gen 2 x4", 1.829)],
)
def test_links_of_the_specification(link: str, gigabytes: float) -> None:
    assert host_bandwidth(link) / GB == pytest.approx(gigabytes, rel=1e-3)


@pytest.mark.parametrize("link", ["", "unknown", "gen9 x16"])
def test_where_nothing_is_said_the_usual_link_counts(link: str) -> None:
    assert host_bandwidth(link) == host_bandwidth(USUAL)


def test_host_copies_take_the_time_of_the_slower_of_link_and_memory() -> None:
    costs = CostModel(CHIP)
    large = costs.host_copy_seconds(GB)
    assert large == pytest.approx(GB / host_bandwidth(CHIP.host_link), rel=1e-3)
    slow = CostModel(replace(CHIP, memory_bandwidth=1e9))
    assert slow.host_copy_seconds(GB) > 1.0
    assert costs.host_copy_seconds(0) > 0


def test_copies_between_devices_are_messages_over_their_link() -> None:
    chip = find_chip("hygon-bw1000")
    assert chip.link_bandwidth is not None
    links = regular_links(levels_for(chip, [("node", chip.link_bandwidth, 2e-6)]), [2])
    assert CostModel(chip).peer_copy_seconds(GB) == collective_seconds("send_recv", GB, links)
