"""Collectives through the client, between the devices of one sidecar."""

from __future__ import annotations

import numpy as np
import pytest

from supernode.emulator.client import Emulator
from supernode.errors import CollectiveTimeoutError, FabricError, InputError, KernelError


def test_all_kinds(emulator: Emulator) -> None:
    a, b = emulator.devices
    group = emulator.group()
    assert (group.ranks, group.local, emulator.world_size) == ((0, 1), (a, b), 2)
    x, y = a.array([1.0, 2.0]), b.array([10.0, 20.0])
    gathered = group.all_gather([x, y])
    parts = group.reduce_scatter([x, y])
    swapped = group.all_to_all([x, y])
    at_root = group.gather([x, y], root=1)
    scattered = group.scatter(gathered[0], (2,), root=0)
    group.send(x, to=1)
    received = group.recv(b, (2,), source=0)
    group.barrier()
    group.broadcast([x, y], root=1)
    assert [g.numpy().tolist() for g in gathered] == [[[1, 2], [10, 20]]] * 2
    assert [p.numpy().tolist() for p in parts] == [[11], [22]]
    assert [s.numpy().tolist() for s in swapped] == [[1, 10], [2, 20]]
    assert at_root[0] is None
    assert at_root[1] is not None
    assert at_root[1].numpy().tolist() == [[1, 2], [10, 20]]
    assert [s.numpy().tolist() for s in scattered] == [[1, 2], [10, 20]]
    assert received.numpy().tolist() == [1, 2]
    assert [x.numpy().tolist(), y.numpy().tolist()] == [[10, 20], [10, 20]]
    group.reduce([x, y], root=0, op="max")
    group.all_reduce([x, y], op="average")
    assert x.numpy().tolist() == [10, 20]


def test_a_program_per_device(emulator: Emulator) -> None:
    """Each device's calls one after the other, as a program of its own would make them; then all at once again."""
    group = emulator.group()
    kept = []
    for device in emulator.devices:
        mine = group.member(device)
        assert (mine.size, mine.place, mine.device) == (2, device.rank, device)
        x = device.array([1.0 + mine.place, 2.0])
        mine.broadcast(x, root=1)
        mine.all_reduce(x)
        gathered, whole = mine.all_gather(x), device.empty((4,))
        assert mine.all_gather(x, out=whole) is whole
        part = mine.reduce_scatter(device.array([[1.0, 2.0], [3.0, 4.0]]))
        out = device.stream()
        mine.send(x, to=1 - mine.place, stream=out)
        kept.append((x, gathered, whole, part, mine.recv((2,), source=1 - mine.place)))
    for place, (x, gathered, whole, part, received) in enumerate(kept):
        assert x.numpy().tolist() == received.numpy().tolist() == [4, 4]
        assert gathered.numpy().tolist() == [[4, 4]] * 2
        assert whole.numpy().tolist() == [4] * 4
        assert part.numpy().tolist() == [[[2, 4]], [[6, 8]]][place]
    xs = [device.array([1.0]) for device in emulator.devices]
    group.all_reduce(xs)
    assert [x.item() for x in xs] == [2, 2]
    with pytest.raises(KernelError, match=r"2 times f32\[1\]"):
        group.member(xs[0].device).all_gather(xs[0], out=xs[0])


def test_on_streams_of_their_own(emulator: Emulator) -> None:
    streams = [device.stream() for device in emulator.devices]
    group = emulator.group(channel=1)
    for i in range(20):
        xs = [device.launch("add", device.full(8, float(i)), 1.0) for device in emulator.devices]
        group.all_reduce(xs, streams=streams)
        ys = [device.launch("add", x, 0.0) for device, x in zip(emulator.devices, xs, strict=True)]
        assert [y.numpy()[0] for y in ys] == [2 * (i + 1)] * 2


def test_bf16_sums_accumulate_wide(emulator: Emulator) -> None:
    xs = [device.array(np.full(3, 1 + 2.0**-7), "bf16") for device in emulator.devices]
    emulator.group().all_reduce(xs)
    assert [x.numpy().astype(float).tolist() for x in xs] == [[2 + 2.0**-6] * 3] * 2


def test_a_rank_that_does_not_come_is_named(emulator: Emulator) -> None:
    a, b = emulator.devices
    group = emulator.group()
    received = group.recv(b, (2,), source=0)  # rank 0 sends nothing
    with pytest.raises(CollectiveTimeoutError, match="rank"):
        b.synchronize()
    with pytest.raises(FabricError):
        received.numpy()
    assert a.full(1, 4.0).item() == 4


def test_wrong_groups(emulator: Emulator) -> None:
    with pytest.raises(InputError, match="ranks of 0 to 1"):
        emulator.group([0, 5])
    group = emulator.group()
    assert emulator.group([0, 1]) is group
    a, b = emulator.devices
    with pytest.raises(KernelError, match="one array on each"):
        group.all_reduce([a.zeros(2)])
    with pytest.raises(KernelError, match="one shape and dtype"):
        group.all_reduce([a.zeros(2), b.zeros(3)])
    with pytest.raises(KernelError, match="does not divide into 2"):
        group.reduce_scatter([a.zeros(3), b.zeros(3)])
