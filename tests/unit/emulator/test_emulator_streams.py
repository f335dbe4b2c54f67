"""Streams: order, the published device time, markers, waiting for positions, closing with work left."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from supernode.chips import find_chip
from supernode.emulator.runtime.device import Device
from supernode.emulator.runtime.stream import DEPTH, Stream
from supernode.emulator.runtime.work import After, Marker, Wait


class Spend:
    """Takes device time."""

    def __init__(self, seconds: float, seen: list[float] | None = None) -> None:
        self.seconds = seconds
        self.seen = seen

    def run(self, stream: Stream) -> None:
        end = stream.advance(0.0, self.seconds)
        if self.seen is not None and not stream.aborted:
            self.seen.append(end)


class Block:
    """Holds the stream's thread until told to go on."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def run(self, stream: Stream) -> None:
        self.go.wait(30)


@pytest.fixture
def device() -> Device:
    return Device(0, 0, find_chip("hygon-bw1000"))


@pytest.fixture
def streams(device: Device) -> Iterator[tuple[Stream, Stream]]:
    pair = Stream(device, "one"), Stream(device, "two", seconds=0.25)
    yield pair
    for stream in pair:
        stream.close()


def test_a_reached_marker_has_published_the_device_time(device: Device, streams: tuple[Stream, Stream]) -> None:
    stream, _ = streams
    block, marker = Block(), Marker()
    for item in (Spend(1.0), Spend(0.5), marker, block):
        stream.add(item)
    stream.flush()
    assert marker.done.wait(30)
    # What comes after the marker is still running; a report must already see what was before it.
    assert (marker.seconds, device.seconds, device.figures().busy_seconds) == (1.5, 1.5, 1.5)
    block.go.set()


def test_waits_on_the_host_and_on_the_clock(streams: tuple[Stream, Stream]) -> None:
    one, two = streams
    block, marker, end = Block(), Marker(), Marker()
    one.add(block)
    one.add(Spend(2.0))
    one.add(marker)
    two.add(Wait(marker))
    two.add(Spend(1.0))
    two.add(end)
    two.flush()
    one.flush()
    assert not end.done.is_set()
    block.go.set()
    assert end.done.wait(30)
    assert end.seconds == 3.0


def test_after_waits_on_the_host_alone(streams: tuple[Stream, Stream]) -> None:
    one, two = streams
    block, end = Block(), Marker()
    one.add(block)
    position = one.add(Spend(2.0))
    two.add(After(one, position))
    two.add(end)
    two.flush()
    one.flush()
    block.go.set()
    assert end.done.wait(30)
    assert one.completed >= position
    assert end.seconds == 0.25  # when an item starts on the clock, its inputs say


def test_work_that_waits_is_bounded(streams: tuple[Stream, Stream]) -> None:
    stream, _ = streams
    block = Block()
    stream.add(block)
    for _ in range(DEPTH + 100):
        stream.add(Spend(0.0))
    stream.flush()
    held = threading.Thread(target=stream.throttle)
    held.start()
    held.join(0.05)
    assert held.is_alive()
    block.go.set()
    held.join(30)
    assert not held.is_alive()


def test_closing_drops_what_waits_but_reaches_markers(device: Device) -> None:
    stream = Stream(device, "one")
    block, marker, seen = Block(), Marker(), list[float]()
    for item in (block, Spend(1.0, seen), marker):
        stream.add(item)
    stream.flush()
    closing = threading.Thread(target=stream.close)
    stream.aborted = True
    closing.start()
    block.go.set()
    closing.join(30)
    assert not closing.is_alive()
    assert marker.done.is_set()  # another stream may wait for it
    assert seen == []
