"""Collectives beside a program's other work: handles, batches of sends and receives, uneven exchanges, groups again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.wire.emulator.conftest import CHIP

from supernode.emulator.client import Emulator, connect
from supernode.emulator.fabric import FabricConfig
from supernode.emulator.server import Server, ServerConfig
from supernode.errors import CollectiveMismatchError, CollectiveTimeoutError, InputError, KernelError

SECRET = "a secret for tests, long enough"


@contextmanager
def two_pods(directory: Path) -> Iterator[list[Emulator]]:
    """Two sidecars of one device each, and a client of each."""
    servers: list[Server] = []
    clients: list[Emulator] = []
    try:
        for rank in range(2):
            address = "" if not servers else ":".join(map(str, servers[0]._fabric.fabric.address))  # type: ignore
            fabric = FabricConfig(
                rank, 2, 1, listen_port=0, rendezvous=address, secret=SECRET, chip=CHIP, timeout=5.0, start_timeout=20.0
            )
            server = Server(ServerConfig(CHIP, 1, directory / f"{rank}.sock", fabric, http_port=None))
            server.start()
            servers.append(server)
            clients.append(connect(server.config.socket, environment={}))
        yield clients
    finally:
        for client in clients:
            client.close()
        for server in servers:
            server.stop()


@pytest.fixture
def pods(directory: Path) -> Iterator[list[Emulator]]:
    """Two sidecars of one device each, and a client of each."""
    with two_pods(directory) as clients:
        yield clients


def on_both(pods: list[Emulator], program: Callable[[Emulator], Any]) -> list[Any]:
    """Run a program on both pods at the same time; results or errors."""
    results: list[Any] = [None, None]

    def go(rank: int) -> None:
        try:
            results[rank] = program(pods[rank])
        except Exception as exc:
            results[rank] = exc

    threads = [threading.Thread(target=go, args=(rank,), daemon=True) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    return results


def test_a_started_call_runs_beside_the_programs_work_in_device_time(pods: list[Emulator]) -> None:
    def program(emulator: Emulator) -> tuple[float, float, float]:
        device, member = emulator.devices[0], emulator.group().member(emulator.devices[0])
        gradient, x = device.full(1 << 20, 1.0), device.full((512, 512), 0.5)
        begin = emulator.synchronize()
        member.all_reduce(gradient)
        alone = emulator.synchronize() - begin
        for _ in range(4):
            x = device.launch("matmul", x, x)
        compute = emulator.synchronize() - begin - alone
        begin = emulator.synchronize()
        handle = member.start("all_reduce", gradient)
        for _ in range(4):
            x = device.launch("matmul", x, x)
        handle.wait()
        both = emulator.synchronize() - begin
        assert handle.done()
        assert handle.result is None
        assert handle.synchronize() <= emulator.synchronize()
        assert gradient.numpy()[0] == 4.0
        return alone, compute, both

    for alone, compute, both in on_both(pods, program):
        assert both == pytest.approx(max(alone, compute), rel=1e-6)


def test_the_default_stream_waits_for_a_handle_on_the_device(pods: list[Emulator]) -> None:
    def program(emulator: Emulator) -> tuple[float, float]:
        device = emulator.devices[0]
        handle = emulator.group().start("all_gather", [device.full(1 << 16, 1.0)])
        handle.wait()
        after = device.record().seconds
        assert handle.result[0].shape == (2, 1 << 16)
        return handle.synchronize(), after

    for end, after in on_both(pods, program):
        assert after == end > 0


def test_started_calls_and_calls_in_stream_order_keep_apart(pods: list[Emulator]) -> None:
    def program(emulator: Emulator) -> list[float]:
        device = emulator.devices[0]
        group = emulator.group()
        started = [device.full(4, float(n)) for n in range(20)]
        plain = [device.full(4, 100.0 + n) for n in range(20)]
        for one, other in zip(started, plain, strict=True):
            group.start("all_reduce", [one])
            group.all_reduce([other])
        return [array.numpy()[0] for array in started + plain]

    wanted = [2.0 * n for n in range(20)] + [2 * (100.0 + n) for n in range(20)]
    assert on_both(pods, program) == [wanted, wanted]


def test_an_exchange_round_a_ring_does_not_block(pods: list[Emulator]) -> None:
    """Each rank sends before it receives, which blocks where sends and receives follow each other."""

    def program(emulator: Emulator) -> list[list[float]]:
        device = emulator.devices[0]
        member, other = emulator.group().member(device), 1 - device.rank
        got = []
        for step in range(5):
            mine = [device.full(3, 10.0 * device.rank + step), device.full((2, 2), -1.0 * step, "f16")]
            received = member.exchange([(a, other) for a in mine], [((3,), "f32", other), ((2, 2), "f16", other)])
            got.append([float(array.numpy().flat[0]) for array in received])
        return got

    assert on_both(pods, program) == [[[10.0 * other + n, -n] for n in range(5)] for other in (1, 0)]


@pytest.mark.parametrize("started", [False, True])
def test_uneven_parts_go_where_the_counts_say(pods: list[Emulator], started: bool) -> None:
    counts = [[1, 2], [3, 0]]

    def program(emulator: Emulator) -> list[list[float]]:
        device = emulator.devices[0]
        rank = device.rank
        array = device.array(np.arange(6, dtype=np.float32).reshape(3, 2) + 10 * rank)
        group = emulator.group()
        if started:
            return group.start("all_to_all_v", [array], counts).result[0].numpy().tolist()
        return group.all_to_all_v([array], counts)[0].numpy().tolist()

    assert on_both(pods, program) == [
        [[0.0, 1.0], [10.0, 11.0], [12.0, 13.0], [14.0, 15.0]],
        [[2.0, 3.0], [4.0, 5.0]],
    ]


def test_what_cannot_be_sent_or_started_is_refused_at_the_call(pods: list[Emulator]) -> None:
    device = pods[0].devices[0]
    group = pods[0].group()
    with pytest.raises(KernelError, match=r"2 members cannot send \[1, 1\] and receive \[0, 0\] rows of f32\[3"):
        group.member(device).all_to_all_v(device.zeros((3, 2)), [1, 1], [0, 0])
    with pytest.raises(KernelError, match="counts must be 2 rows of 2"):
        group.all_to_all_v([device.zeros((3, 2))], [[1, 2]])
    with pytest.raises(InputError, match="'send' cannot be started; there are all_reduce"):
        group.start("send", device.zeros(1))


def test_a_mismatch_names_the_lines_of_both_programs(pods: list[Emulator]) -> None:
    def program(emulator: Emulator) -> None:
        device = emulator.devices[0]
        if device.rank == 0:
            emulator.group().all_reduce([device.zeros(4)])
        else:
            emulator.group().all_reduce([device.zeros(5)], op="max")
        emulator.synchronize()

    first, second = on_both(pods, program)
    for error in (first, second):
        assert isinstance(error, CollectiveMismatchError)
        text = str(error)
        assert "rank 0 called all_reduce(sequence=0, dtype=f32, count=4, reduce=sum) at " in text
        assert "rank 1 called all_reduce(sequence=0, dtype=f32, count=5, reduce=max) at " in text
        lines = [int(part.split(":")[1].split(";")[0].split()[0].strip(",;")) for part in text.split(__file__)[1:3]]
        assert lines[1] == lines[0] + 2


def test_a_group_that_failed_is_made_again(pods: list[Emulator]) -> None:
    failed = threading.Event()

    def program(emulator: Emulator) -> float:
        device = emulator.devices[0]
        group = emulator.group()
        if device.rank == 0:
            group.barrier()
            with pytest.raises(CollectiveTimeoutError):
                emulator.synchronize()
            failed.set()
        # Else the other's new call would have as little time left as the one that fails.
        assert failed.wait(30)
        group = group.again()
        assert emulator.group() is group
        array = device.full(2, 3.0)
        group.all_reduce([array])
        return float(array.numpy()[0])

    pods[0].connection.request("drain")
    assert on_both(pods, program) == [6.0, 6.0]


def test_programs_that_all_begin_again_meet_again(pods: list[Emulator]) -> None:
    def program(emulator: Emulator) -> float:
        with connect(emulator.connection.path, environment={}) as fresh:
            array = fresh.devices[0].full(2, 1.0)
            for _ in range(3):
                fresh.group().all_reduce([array])
            return float(array.numpy()[0])

    for _ in range(3):
        assert on_both(pods, program) == [8.0, 8.0]


def test_programs_that_see_one_device_each_form_one_group(sidecar: Callable[..., Server]) -> None:
    """As launchers do that start one process per card."""
    server = sidecar(2)
    clients = [connect(server.config.socket, environment={"HIP_VISIBLE_DEVICES": str(n)}) for n in range(2)]
    try:
        arrays = [client.devices[0].full(3, 1.0 + n) for n, client in enumerate(clients)]
        for client, array in zip(clients, arrays, strict=True):
            client.group().all_reduce([array])
        assert [array.numpy().tolist() for array in arrays] == [[3.0] * 3] * 2
    finally:
        for client in clients:
            client.close()


def test_who_reads_what_is_being_sent_does_not_wait_and_who_writes_it_does(pods: list[Emulator]) -> None:
    """Also when the host has long sent it: else device time would tell how busy the host is."""

    def program(emulator: Emulator) -> tuple[float, float, float]:
        device = emulator.devices[0]
        x, y = device.full(1 << 20, 1.0), device.full(1 << 20, 2.0)
        emulator.synchronize()
        handle = emulator.group().start("all_gather", [x])
        deadline = time.monotonic() + 60
        while not handle.done():
            assert time.monotonic() < deadline
        device.launch("add", x, 1.0)
        read = device.record().seconds
        device.launch("add", y, 1.0, out=x)
        return read, handle.synchronize(), device.record().seconds

    for read, sent, written in on_both(pods, program):
        assert read < sent < written


def test_the_same_contended_program_takes_the_same_microseconds_however_busy_the_host_is(directory: Path) -> None:
    """Two streams of collectives over one link, sends beside them, compute between, and pauses of the host anywhere."""

    def program(emulator: Emulator, seed: int) -> list[float]:
        pauses = np.random.default_rng(seed)
        device = emulator.devices[0]
        group, side = emulator.group(), emulator.group(channel=7)
        member, other = group.member(device), 1 - device.rank
        x, gradient = device.full((256, 256), 0.01), device.full(1 << 21, 1.0)
        stream, small = device.stream(), device.full(1 << 12, 1.0)
        marks = []
        for _ in range(4):
            handle = group.start("all_reduce", [gradient])
            # On the virtual clock the small one waits for the large one's link; on the host it comes long before.
            side.all_reduce([small], streams=[stream])
            marks.append(stream.record())
            if seed:
                time.sleep(pauses.uniform(0, 0.03))
            x = device.launch("matmul", x, x)
            got = member.exchange([(x, other)], [((256, 256), "f32", other)])
            side.all_reduce([device.launch("add", x, 1.0)], streams=[stream])
            x = device.launch("add", x, got[0])
            marks += [device.record(), stream.record()]
            handle.wait()
            marks.append(device.record())
        times = [mark.seconds for mark in marks]
        return [*times, emulator.synchronize()]

    found = set()
    for seed in (0, 1, 2):
        with two_pods(directory / str(seed)) as pods:
            results = on_both(pods, lambda emulator, seed=seed: program(emulator, seed))
            assert not [result for result in results if isinstance(result, Exception)], results
            found.add(tuple(map(tuple, results)))
    assert len(found) == 1
    ((times, _),) = found
    small_one, large = times[0], times[3]
    assert small_one > 0.9 * large > 0  # alone it takes a twentieth of that
