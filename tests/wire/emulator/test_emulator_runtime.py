"""What a HIP runtime gives, through the socket: launches by signature, the place of a failed call, memory figures."""

from __future__ import annotations

import inspect
import itertools
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from supernode.chips import find_chip
from supernode.emulator.client import Emulator, Stream, connect
from supernode.emulator.client.connection import Connection
from supernode.emulator.server import Server
from supernode.errors import InputError, InvalidHandleError, KernelError, OutOfDeviceMemoryError, ProtocolError

CHIP = find_chip("hygon-bw1000")


def until(true: Callable[[], bool]) -> None:
    """Wait for what the sidecar does when a client has gone."""
    for _ in range(600):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("never happened")


def line() -> int:
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


# --- launches by signature ---


def test_what_is_told_apart_by_more_than_equality(emulator: Emulator) -> None:
    device = emulator.devices[0]
    x = device.array(np.array([1.0, -2.0], np.float32))
    for _ in range(3):  # said in words, prepared, said in numbers
        assert np.signbit(device.launch("multiply", x, 0.0).numpy()).tolist() == [False, True]
        assert np.signbit(device.launch("multiply", x, -0.0).numpy()).tolist() == [True, False]
        assert device.launch("add", x, 1).numpy().tolist() == [2, -1]
        assert np.isnan(device.launch("add", x, float("nan")).numpy()).all()
        assert device.launch("sum", x, axis=0, keepdims=True).shape == (1,)
        assert device.launch("sum", x, axis=0, keepdims=False).shape == ()


def test_signatures_begin_anew_when_all_are_in_use(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supernode.emulator.client.emulator.MAX_SIGNATURES", 8)
    device = emulator.devices[0]
    arrays = [device.array(np.full(n, float(n), np.float32)) for n in range(1, 30)]
    for _ in range(3):
        sums = [device.launch("add", array, array) for array in arrays]
        assert [total.numpy().tolist() for total in sums] == [[2.0 * n] * n for n in range(1, 30)]


def test_launches_on_other_streams_and_into_arrays_are_prepared_too(emulator: Emulator) -> None:
    device = emulator.devices[0]
    stream = device.stream()
    x, out = device.full(4, 1.0), device.zeros(4)
    for _ in range(5):
        assert device.launch("add", x, out, out=out, stream=stream) is out
    assert out.numpy().tolist() == [5] * 4
    stream.close()
    device.launch("add", x, out, out=out, stream=stream)
    with pytest.raises(InvalidHandleError, match=r"call \d+, add\(f32\[4\], f32\[4\]\).* closed"):
        emulator.synchronize()
    assert device.launch("add", x, x).numpy().tolist() == [2] * 4


@pytest.mark.parametrize(
    "codes",
    [[5], [0, 1], [-1, 3, 1], [-9, 0], [-2], [-1], [-4, 1, 2, 0, 40], [-4, 1, 2, 0, -3], [-1, -5], [0, 1, 1, 1]],
)
def test_numbers_that_mean_nothing_are_refused(server: Server, codes: list[int]) -> None:
    connection = Connection(server.config.socket, timeout=10)
    connection.record(["launch", 0, "full", [], [1], {"shape": [4], "value": 1.0}])
    connection.record(["prepare", 0, 0, "add", [["f32", [4]]] * 2, 1, {}, False], counts=False)
    connection._codes += codes
    with pytest.raises(ProtocolError):
        connection.request("synchronize", None)
    with connect(server.config.socket, environment={}) as other:
        assert other.devices[0].full(2, 3.0).numpy().tolist() == [3, 3]


@pytest.mark.parametrize(
    "words",
    [
        ["x" * 101, [["f32", [4]]], 1, {}],
        ["add", [["f32", [4]]] * 4097, 1, {}],
        ["add", [["f32", [4]]], 1, {"value": "x" * (1 << 16)}],
    ],
)
def test_signatures_are_small(server: Server, words: list[Any]) -> None:
    connection = Connection(server.config.socket, timeout=10)
    connection.record(["prepare", 0, 0, *words, False], counts=False)
    with pytest.raises(ProtocolError, match="too much for one launch"):
        connection.request("synchronize", None)


def test_a_signature_is_for_its_specs_alone(server: Server) -> None:
    connection = Connection(server.config.socket, timeout=10)
    connection.record(["launch", 0, "full", [], [1], {"shape": [5], "value": 1.0}])
    connection.record(["prepare", 0, 0, "add", [["f32", [4]]] * 2, 1, {}, False], counts=False)
    connection._codes += [0, 1, 1, 2]
    with pytest.raises(ProtocolError, match="prepared for other inputs"):
        connection.request("synchronize", None)


# --- the place of a failed call ---


def test_a_failure_names_the_line_of_the_program(emulator: Emulator) -> None:
    device = emulator.devices[0]
    half = device.zeros(120_000)
    kept = device.launch("add", half, half)
    wrong, also = (device.launch("add", half, half), line())  # the third of 480,000 bytes
    assert kept.shape == (120_000,)
    with pytest.raises(OutOfDeviceMemoryError, match=r"call 3, add\(f32\[120000\], f32\[120000\]\)") as caught:
        device.full(3, 1.0).numpy()
    assert caught.value.call == 3
    assert f"(called at {__file__}:{also})" in str(caught.value)
    with pytest.raises(OutOfDeviceMemoryError):
        wrong.numpy()


def test_a_failure_names_the_program_and_not_the_array_library(server: Server) -> None:
    from supernode.emulator import array_api as xp
    from supernode.emulator.array_api import session

    with connect(server.config.socket, environment={}) as connected:
        session.use(connected)
        kept = xp.zeros(120_000, dtype=xp.float32)
        _, where = [kept + 1, kept + 2, kept + 3], line()
        with pytest.raises(OutOfDeviceMemoryError) as caught:
            connected.synchronize()
        assert f"{__file__}:{where}" in str(caught.value)


def test_what_was_called_long_ago_has_no_place_but_a_number(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supernode.emulator.client.connection._PLACES", 4)
    with connect(server.config.socket, environment={}) as emulator:
        device = emulator.devices[0]
        device.zeros(1 << 20)
        for _ in range(10):
            device.full(1, 1.0)
        with pytest.raises(OutOfDeviceMemoryError, match="call 1, ") as caught:
            emulator.synchronize()
        assert "called at" not in str(caught.value)


# --- memory ---


def test_memory_figures(server: Server) -> None:
    with connect(server.config.socket, environment={}) as one, connect(server.config.socket, environment={}) as two:
        device = one.devices[0]
        kept = device.zeros(1000)
        gone = device.zeros(100_000)
        use = device.memory()
        assert (use.in_use, use.own, use.allocations) == (4096 + 400_128, 4096 + 400_128, 2)
        assert use.reserved == use.own_reserved >= use.in_use
        del gone
        use = device.memory()
        assert (use.in_use, use.peak) == (4096, 4096 + 400_128)
        assert use.own_reserved >= 4096 + 400_128  # kept for the next array of the size
        assert two.devices[0].memory().own == two.devices[0].memory().own_reserved == 0
        two.devices[0].zeros(200_000)
        with pytest.raises(OutOfDeviceMemoryError, match=r"1 other client holds 4\d\d"):
            two.synchronize()
        assert device.empty_cache() >= 400_128
        assert two.devices[0].zeros(200_000).numpy().sum() == 0
        assert kept.numpy().sum() == 0


def test_a_program_that_repeats_itself_takes_no_more(emulator: Emulator) -> None:
    device = emulator.devices[0]
    x = device.array(np.ones(1000, np.float32))
    figures = set()
    for _ in range(20):
        y = x
        for n in (0.5, 2.0, 3.0):
            y = device.launch("add", device.launch("multiply", y, n), x)
        y.numpy()
        del y
        figures.add(device.memory()[:6])
    assert len(figures) == 1


def test_metrics_say_what_is_reserved(sidecar: Callable[..., Server]) -> None:
    from urllib.request import urlopen

    server = sidecar(devices=1)
    with connect(server.config.socket, environment={}) as emulator:
        kept = emulator.devices[0].zeros(1000)
        emulator.synchronize()
        assert server.http is not None
        with urlopen(f"http://{server.http.host}:{server.http.port}/metrics") as answer:
            text = answer.read().decode()
        use = emulator.devices[0].memory()
        assert kept.shape == (1000,)
    for name, value in (("reserved", use.reserved), ("largest_free", (1 << 20) - use.reserved)):
        found = re.search(rf'^supernode_emulator_memory_{name}_bytes{{device="0"}} (\S+)$', text, re.MULTILINE)
        assert found is not None
        assert float(found[1]) == value


def test_call_numbers_do_not_depend_on_what_python_frees(emulator: Emulator) -> None:
    device = emulator.devices[0]
    for n in itertools.count(1):
        array = device.full(n, 1.0)
        del array
        if n == 40:
            break
    device.launch("add", device.full(2, 1.0), device.full(2, 1.0))
    device.zeros(1 << 20)
    with pytest.raises(OutOfDeviceMemoryError, match="call 44, zeros"):
        emulator.synchronize()
    with pytest.raises(KernelError):
        device.launch("add", device.full(2, 1.0), device.full(3, 1.0))


# --- devices, streams, shares ---


def test_properties_are_the_catalogues(emulator: Emulator) -> None:
    found = emulator.devices[1].properties
    assert (found["chip"], found["vendor"], found["architecture"]) == (CHIP.name, CHIP.vendor, CHIP.architecture)
    assert (found["computeUnits"], found["wavefront"]) == (CHIP.compute_units, CHIP.wavefront)
    assert (found["memoryBytes"], found["memoryBandwidth"]) == (1 << 20, CHIP.memory_bandwidth)
    assert found["tflops"] == dict(CHIP.tflops)
    assert (found["linkBandwidth"], found["linkDomain"]) == (CHIP.link_bandwidth, CHIP.link_domain)


def test_a_share_of_a_card_is_smaller_and_slower(sidecar: Callable[..., Server]) -> None:
    def seconds(cores: int, kernel: str, *specs: tuple[int, ...]) -> float:
        server = sidecar(devices=1, memory_bytes=512 << 20, cores=cores)
        with connect(server.config.socket, environment={}) as emulator:
            device = emulator.devices[0]
            assert device.properties["cores"] == cores
            assert device.properties["tflops"]["f16"] == CHIP.tflops["f16"] * cores / 100
            arrays = [device.zeros(shape, dtype="f16") for shape in specs]
            began = device.synchronize()
            device.launch(kernel, *arrays)
            return device.synchronize() - began

    launch = seconds(100, "add", (1,), (1,))
    for kernel, shape in (("matmul", (4096, 4096)), ("add", (4096, 4096))):
        whole = seconds(100, kernel, shape, shape) - launch
        assert seconds(25, kernel, shape, shape) - launch == pytest.approx(4 * whole, rel=0.01)


@pytest.mark.parametrize("cores", [0, 101])
def test_shares_are_percent(sidecar: Callable[..., Server], cores: int) -> None:
    with pytest.raises(InputError, match=f"1 to 100 percent .*, not {cores}"):
        sidecar(devices=1, cores=cores)


def test_streams_that_go_first(sidecar: Callable[..., Server]) -> None:
    with connect(sidecar(devices=2, memory_bytes=1 << 30).config.socket, environment={}) as emulator:
        device, other = emulator.devices
        x, far = device.zeros((1024, 1024)), other.zeros((1024, 1024))
        began = device.synchronize()
        device.launch("matmul", x, x)
        once = device.synchronize() - began

        def ends(*streams: Stream) -> list[float]:
            """Of one product on each stream, issued in this order, in products."""
            began = emulator.synchronize()
            for stream in streams:
                array = x if stream.device is device else far
                stream.device.launch("matmul", array, array, stream=stream)
            events = [stream.record() for stream in streams]
            return [round((event.seconds - began) / once, 6) for event in events]

        first, last, normal = device.stream(-1), device.stream(priority=1), device.default
        assert ends(first, normal) == [1, 2]
        assert ends(normal, first) == [1, 1]  # what comes later does not push back what was issued
        assert ends(first, normal, last) == [1, 2, 3]
        assert ends(device.stream(), normal) == [1, 1]
        assert ends(device.stream(-9), device.stream(7)) == [1, 2]
        assert ends(first, other.default) == [1, 1]
        first.close()
        assert ends(normal, last) == [1, 2]


def test_priorities_measure_the_same_every_time(sidecar: Callable[..., Server]) -> None:
    def run() -> list[float]:
        with connect(sidecar(devices=1, memory_bytes=1 << 30).config.socket, environment={}) as emulator:
            device = emulator.devices[0]
            x = device.zeros((256, 256))
            began = emulator.synchronize()
            streams = [device.stream(priority) for priority in (-1, 0, 1, -1)]
            events = []
            for number in range(60):
                stream = streams[(number * 7) % 4]
                y = device.launch("matmul", x, x, stream=stream)
                if number % 5 == 0:
                    x = device.launch("add", x, y, stream=streams[number % 4])
                events.append(stream.record())
            return [event.seconds - began for event in events]

    assert run() == run() == run()


def test_a_stream_cannot_wait_for_itself_for_ever(emulator: Emulator) -> None:
    """An event is a point that has been passed in the order of the program, so waits never form a circle."""
    device = emulator.devices[0]
    one, two = device.stream(), device.stream()
    for _ in range(20):
        first, second = one.record(), two.record()
        one.wait(second)
        two.wait(first)
        one.wait(first)
        device.launch("full", shape=[4], value=1.0, dtype="f32", stream=one)
    one.synchronize()
    two.synchronize()
    emulator.connection.record(["wait", one.handle, 123456])  # an event that nobody has recorded
    with pytest.raises(InvalidHandleError, match="was never recorded"):
        emulator.synchronize()


def test_a_program_that_is_started_again_finds_the_device_as_new(server: Server) -> None:
    for turn in range(3):
        with connect(server.config.socket, environment={}) as emulator:
            group = emulator.group()
            arrays = [device.full(4, 1.0) for device in emulator.devices]
            for _ in range(turn + 1):
                group.all_reduce(arrays)
            assert [array.numpy().tolist() for array in arrays] == [[2.0 ** (turn + 1)] * 4] * 2
            assert emulator.devices[0].memory().allocations == 1


def test_clients_side_by_side_see_their_own_numbers_alone(sidecar: Callable[..., Server]) -> None:
    """Four programs at once, with the same handles, on the same devices; one of them fails all the time."""
    server = sidecar(devices=2, memory_bytes=64 << 20)
    wrong: list[str] = []

    def program(number: int) -> None:
        rng = np.random.default_rng(number)
        with connect(server.config.socket, environment={}) as emulator:
            for turn in range(40):
                device = emulator.devices[turn % 2]
                data = rng.standard_normal(int(rng.integers(1, 40_000))).astype(np.float32)
                x = device.array(data)
                y = device.launch("multiply", device.launch("add", x, x), float(number))
                if number == 3:
                    device.zeros(1 << 26)
                    try:
                        emulator.synchronize()
                        wrong.append("the failure was not told")
                    except OutOfDeviceMemoryError:
                        pass
                if y.numpy().tobytes() != ((data + data) * np.float32(number)).tobytes():
                    wrong.append(f"program {number}, turn {turn}")

    threads = [threading.Thread(target=program, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    with connect(server.config.socket, environment={}) as emulator:
        for device in emulator.devices:
            until(lambda device=device: device.memory().reserved == 0)  # type: ignore[misc]
