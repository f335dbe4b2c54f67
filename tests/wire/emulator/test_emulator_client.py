"""The client against a real sidecar: arrays, launches, streams, events, groups, asynchronous errors, isolation."""

from __future__ import annotations

import gc
import json
import urllib.request
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from supernode.emulator.client import Array, Emulator, connect
from supernode.emulator.kernels import Spec
from supernode.emulator.server import Server
from supernode.errors import (
    EmulatorError,
    InputError,
    InvalidHandleError,
    KernelError,
    OutOfDeviceMemoryError,
)

RNG = np.random.default_rng(5)


def test_parts_share_the_memory_of_the_whole(sidecar: Callable[..., Server]) -> None:
    server = sidecar(memory_bytes=4096)
    with connect(server.config.socket, environment={}) as emulator:
        device = emulator.devices[0]
        whole = device.array(np.arange(256.0), "f32")
        used, seconds = device.memory().in_use, device.synchronize()
        middle = whole.part(10, (2, 3))
        assert middle.numpy().tolist() == [[10, 11, 12], [13, 14, 15]]
        device.launch("add", middle, middle, out=middle)
        expected = np.arange(256.0)
        expected[10:16] *= 2
        assert whole.numpy().tolist() == expected.tolist()
        part_of_part = middle.part(4, ())
        assert device.memory().in_use == used
        assert seconds < device.synchronize()
        del whole, middle
        assert part_of_part.item() == 28  # a part keeps the memory
        for start, shape in ((-1, (2,)), (2, ()), (0, (-1,))):
            with pytest.raises(KernelError, match="has no part"):
                part_of_part.part(start, shape)


@pytest.mark.parametrize("transfer", ["shared", "inline"])
@pytest.mark.parametrize("dtype", ["bool", "i8", "u64", "f16", "bf16", "f32", "f64"])
def test_arrays_come_back(sidecar: Callable[..., Server], transfer: str, dtype: str) -> None:
    server = sidecar(memory_bytes=64 << 20)
    with connect(server.config.socket, transfer=transfer, environment={}) as emulator:
        device = emulator.devices[0]
        for shape in ((), (0, 3), (7,), (100, 1000)):
            data = (RNG.random(shape) * 100).astype("i4")
            array = device.array(data, dtype)
            assert (array.dtype, array.shape) == (dtype, shape)
            back = array.numpy()
            assert back.tolist() == data.astype(back.dtype).tolist()


def test_many_large_uploads_share_the_staging_memory(sidecar: Callable[..., Server]) -> None:
    with connect(sidecar(memory_bytes=512 << 20).config.socket, environment={}) as emulator:
        data = [RNG.random(3 << 17) for _ in range(12)]  # 3 MiB each, in a staging area of 8
        arrays = [emulator.devices[i % 2].array(x, "f64") for i, x in enumerate(data)]
        big = emulator.devices[0].array(np.concatenate(data), "f64")
        assert all((a.numpy() == x).all() for a, x in zip(arrays, data, strict=True))
        assert (big.numpy() == np.concatenate(data)).all()


def test_data_may_change_after_the_call(emulator: Emulator) -> None:
    data = np.arange(4, dtype=np.float32)
    array = emulator.devices[0].array(data)
    data[:] = 9
    assert array.numpy().tolist() == [0, 1, 2, 3]


def test_launches_know_their_shape_at_once(emulator: Emulator) -> None:
    device = emulator.devices[0]
    a, b = device.array(RNG.random((5, 3)), "bf16"), device.array(RNG.random((4, 3)), "bf16")
    c = device.launch("matmul", a, b, transpose_b=True)
    assert c.spec == Spec("bf16", (5, 4))
    y, mean, rstd = device.launch("layer_norm", c, device.full(4, 1, "bf16"), device.zeros([4], "bf16"))
    assert [x.spec for x in (y, mean, rstd)] == [Spec("bf16", (5, 4)), Spec("f32", (5,)), Spec("f32", (5,))]
    expected = a.numpy().astype("f4") @ b.numpy().astype("f4").T
    assert np.abs(c.numpy().astype("f4") - expected).max() < 0.01
    assert device.launch("add", a, 1.0).numpy().astype("f4").min() >= 1
    assert device.launch("sum", device.full(10, 2.0)).item() == 20.0
    assert device.launch("argmax", device.array([1.0, 5.0, 2.0])).item() == 1


def test_out_and_in_place(emulator: Emulator) -> None:
    device = emulator.devices[0]
    total = device.zeros(3)
    for i in range(4):
        device.launch("add", total, float(i), out=total)
    assert total.numpy().tolist() == [6, 6, 6]
    view = total.reshape(3, -1)
    device.launch("scale", total, factor=2.0, out=total)
    assert view.numpy().tolist() == [[12]] * 3
    param, m, v = device.full(2, 1.0), device.zeros(2), device.zeros(2)
    assert device.launch("adamw", param, device.full(2, 1.0), param, m, v, learning_rate=0.1, step=1) == ()
    assert np.abs(param.numpy() - 0.9).max() < 1e-6
    with pytest.raises(KernelError, match="gives f32\\[3\\], but out is"):
        device.launch("add", total, 1.0, out=param)


def test_garbage_collection_gives_memory_back(emulator: Emulator) -> None:
    device = emulator.devices[0]
    kept = device.zeros(64)
    for _ in range(500):  # 500 x 64 KiB in a device of 1 MiB: each must be freed before the next but a few
        x = device.launch("add", device.zeros(1 << 14), 1.0)
    assert x.item if x.size == 1 else x.numpy()[0] == 1
    del x
    gc.collect()
    device.synchronize()
    assert device.memory().in_use == kept.nbytes
    view = kept.reshape(8, 8)
    kept.free()
    assert device.memory().in_use == 256
    assert view.numpy().shape == (8, 8)
    del view
    assert device.memory().in_use == 0
    with pytest.raises(InvalidHandleError, match="was freed"):
        device.launch("add", kept, 1.0)


def test_out_of_memory_is_asynchronous_and_names_the_call(emulator: Emulator) -> None:
    device = emulator.devices[0]
    held = device.zeros(1 << 17)  # half of the device
    first = device.zeros(1 << 18)  # cannot be
    later = device.launch("add", first, 1.0)  # depends on it
    with pytest.raises(OutOfDeviceMemoryError) as caught:
        device.synchronize()
    for words in (
        "call 2, zeros(shape=[262144], dtype='f32') on device 0 (hygon-bw1000): asked 1 MiB",
        "of 1 MiB client 1 uses 512 KiB in 1 allocation (",
        "zeros f32[131072] 512 KiB",
    ):
        assert words in str(caught.value)
    # Told once; what depended on it stays unusable, the rest goes on.
    assert held.numpy()[0] == 0
    for array in (later, first, later.reshape(-1)):
        with pytest.raises(OutOfDeviceMemoryError, match="call 2"):
            array.numpy()
    held.free()
    assert device.zeros(1 << 18).numpy().size == 1 << 18


def test_a_card_may_be_larger_than_the_host(sidecar: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supernode.emulator.runtime.host.available_bytes", lambda: 1 << 30)
    with connect(sidecar(memory_bytes=1 << 40).config.socket, environment={}) as emulator:
        device = emulator.devices[0]
        x = device.zeros(1 << 29)  # 2 GiB that nobody has touched
        y = device.launch("add", x, 1.0)
        with pytest.raises(OutOfDeviceMemoryError, match=r"call 2, add.*the host has 1 GiB left .* needs 2 GiB"):
            device.synchronize()
        assert device.memory().in_use == 2 << 31
        assert y.size == x.size


def test_a_kernel_that_fails_names_its_call_and_number(emulator: Emulator) -> None:
    device = emulator.devices[1]
    x, places = device.zeros(4), device.array([0, 9], "i32")
    taken = device.launch("take", x, places)
    for _ in range(200):  # the error waits for the next synchronising call, however far it is
        device.launch("add", x, 1.0)
    with pytest.raises(KernelError, match=r"call 3, take\(f32\[4\], i32\[2\]\) on device 1 .*indices from 0 to 9"):
        device.synchronize()
    device.synchronize()
    with pytest.raises(KernelError, match="call 3"):
        taken.numpy()


def test_mistakes_are_raised_where_they_are_made(emulator: Emulator) -> None:
    a, b = emulator.devices
    x = a.zeros(3)
    with pytest.raises(KernelError, match="is not on device 1"):
        b.launch("add", x, 1.0)
    with pytest.raises(KernelError, match="needs arrays of this device"):
        a.launch("add", np.zeros(3), x)  # type: ignore[arg-type]
    with pytest.raises(KernelError, match="do not broadcast"):
        a.launch("add", x, a.zeros(4))
    with pytest.raises(KernelError, match="cannot be reshaped"):
        x.reshape(4)
    with pytest.raises(KernelError, match="one element"):
        x.item()
    with pytest.raises(KernelError, match="stream belongs to device 1"):
        a.launch("add", x, 1.0, stream=b.stream())


def test_copies_between_devices(emulator: Emulator) -> None:
    a, b = emulator.devices
    x = a.array(np.arange(3.0), "f32")
    y = x.to(b)
    a.launch("scale", x, factor=5.0, out=x)
    assert (y.device, y.numpy().tolist(), x.to(a) is x) == (b, [0, 1, 2], True)


def test_streams_see_what_other_streams_wrote(emulator: Emulator) -> None:
    device = emulator.devices[0]
    side = device.stream()
    for i in range(50):
        x = device.full(1000, float(i))
        for _ in range(5):
            x = device.launch("add", x, 1.0)
        y = device.launch("add", x, 1.0, stream=side)
        z = device.launch("add", y, 1.0)
        assert z.numpy()[0] == i + 7
    side.close()
    # An array outlives the stream that wrote it.
    assert y.numpy()[0] == 55
    assert device.launch("add", y.reshape(10, 100), 1.0).numpy()[0, 0] == 56


def test_updates_wait_for_readers_on_other_streams(emulator: Emulator) -> None:
    device = emulator.devices[0]
    side = device.stream()
    x = device.zeros((64, 64))
    for i in range(30):
        slow = x
        for _ in range(3):
            slow = device.launch("matmul", slow, slow, stream=side)
        seen = device.launch("add", x, 0.0, stream=side)
        device.launch("add", x, 1.0, out=x)
        assert seen.numpy()[0, 0] == i
    assert slow.size == 4096


def test_events_order_and_time(emulator: Emulator) -> None:
    a, b = emulator.devices
    side = b.stream()
    start = a.record()
    x = a.array(RNG.random((64, 64)), "f32")
    for _ in range(20):
        x = a.launch("matmul", x, x)
    end = a.record()
    side.wait(end)
    after = side.record()
    assert 0 <= start.seconds < end.seconds <= after.seconds
    assert side.synchronize() >= end.seconds


def test_what_another_stream_writes_is_ready_when_it_is_written(emulator: Emulator) -> None:
    a, b = emulator.devices
    x = a.full((256, 256), 0.001)
    for _ in range(10):
        x = a.launch("matmul", x, x)
    written = a.record()
    side = a.stream()
    seen = a.launch("add", x, 1.0, stream=side)
    moved = b.launch("add", x.to(b), 1.0)
    # Neither stream was told to wait, but the data they read did not exist any earlier.
    assert side.record().seconds > written.seconds
    assert b.record().seconds > written.seconds
    assert (seen.numpy() == moved.numpy()).all()


def test_a_program_that_waits_sees_time_pass(emulator: Emulator) -> None:
    a, b = emulator.devices
    for _ in range(10):
        a.full((256, 256), 1.0)
    reached = a.synchronize()
    # The program knew the result before it launched this: it cannot have run earlier on the other device.
    b.full((2,), 1.0)
    assert b.record().seconds > reached


def test_events_nobody_holds_are_forgotten(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supernode.emulator.dispatch.MAX_EVENTS", 200)
    for _ in range(1000):
        event = emulator.devices[0].record()
    assert event.seconds == 0


def test_device_time_does_not_depend_on_the_host(sidecar: Callable[..., Server]) -> None:
    def run(pause: bool) -> list[Any]:
        server = sidecar()
        with connect(server.config.socket, environment={}) as emulator:
            a, b = emulator.devices
            group = emulator.group()
            side = a.stream()
            found: list[Any] = []
            x, y = a.full((32, 32), 1.0), b.full((32, 32), 2.0)
            for step in range(5):
                z = a.launch("matmul", x, x, stream=side)
                for _ in range(step):
                    y = b.launch("gelu", y)
                    if pause:
                        emulator.flush()
                x = a.launch("softmax", z)
                group.all_reduce([x, y])
                found.append(a.record().seconds)
                if pause:
                    sum(range(100_000))
                emulator.report(step, loss=1.0)
            found += [emulator.synchronize(), x.numpy().tobytes(), server.progress.snapshot()["stepSeconds"]]
            return found

    assert run(False) == run(True) == run(False)


def test_reports(server: Server, emulator: Emulator) -> None:
    device = emulator.devices[0]
    x = device.full(1000, 1.0)
    for step in range(1, 4):
        x = device.launch("add", x, 1.0)
        emulator.report(step=step, loss=np.float32(1 / step), tokens=10 * step, digest="d", rate=0.5)
    seconds = emulator.synchronize()
    http = server.http
    assert http is not None
    with urllib.request.urlopen(f"http://127.0.0.1:{http.port}/progress") as answer:
        found = json.load(answer)
    one = device.launch("add", x, 1.0)
    assert found["step"] == 3
    assert found["tokens"] == 30
    assert found["digest"] == "d"
    assert found["firstLoss"] == 1.0
    assert found["extra"] == {"rate": 0.5}
    assert found["deviceSeconds"] == seconds
    assert 0 < found["stepSeconds"] < seconds
    assert one.size


def test_bad_reports_come_back(emulator: Emulator) -> None:
    emulator.connection.record(["report", {"step": -1}])  # past the client's own check
    with pytest.raises(EmulatorError, match="report: step must be"):
        emulator.synchronize()


def test_clients_are_isolated(server: Server) -> None:
    with connect(server.config.socket, environment={}) as one, connect(server.config.socket, environment={}) as two:
        x = one.devices[0].full(4, 1.0)
        y = two.devices[0].full(4, 2.0)
        stolen = Array(two.devices[0], Spec("f32", (4,)), x.handle)
        assert x.handle == y.handle  # the same number, another's array
        assert (x.numpy()[0], y.numpy()[0], stolen.numpy()[0]) == (1, 2, 2)
        other = one.devices[0].full(4, 3.0)
        other = Array(two.devices[0], Spec("f32", (4,)), other.handle)
        with pytest.raises(InvalidHandleError, match="does not exist"):
            other.numpy()
        # One client's failure is not the other's.
        two.devices[0].zeros(1 << 20)
        one.synchronize()
        with pytest.raises(OutOfDeviceMemoryError):
            two.synchronize()
        for array in (stolen, other):
            array._handle = -1


def test_a_client_that_leaves_frees_everything(server: Server) -> None:
    with connect(server.config.socket, environment={}) as one:
        emulator = connect(server.config.socket, environment={})
        held = [emulator.devices[0].zeros(1000) for _ in range(20)]
        emulator.devices[0].synchronize()
        assert one.devices[0].memory().allocations == 20
        emulator.close()
        for _ in range(200):
            if one.devices[0].memory().allocations == 0:
                break
            one.devices[1].full(1, 1.0).numpy()
        assert one.devices[0].memory().in_use == 0
        with pytest.raises(EmulatorError, match="the connection was closed"):
            held[0].numpy()


def test_visible_devices(sidecar: Callable[..., Server]) -> None:
    path = sidecar(devices=3).config.socket
    with connect(path, environment={"HIP_VISIBLE_DEVICES": "2,0"}) as emulator:
        assert [device.ordinal for device in emulator.devices] == [2, 0]
        assert [device.index for device in emulator.devices] == [0, 1]
        assert emulator.group([0, 2]).size == 2
        # Rank 1 is another program's; the group meets when that comes.
        assert [device.rank for device in emulator.group().local] == [0, 2]
    for text, ordinals in (("", []), ("-1", []), (" 1 , 2", [1, 2]), ("2,-1,0", [2]), ("0,", [0])):
        with connect(path, environment={"HIP_VISIBLE_DEVICES": text}) as emulator:
            assert [device.ordinal for device in emulator.devices] == ordinals
    for text in ("3", "0,0", "gpu0", "-2", "1.0", "0;1"):
        with pytest.raises(InputError, match="HIP_VISIBLE_DEVICES"):
            connect(path, environment={"HIP_VISIBLE_DEVICES": text})


def test_nobody_listens(directory: Any) -> None:
    with pytest.raises(EmulatorError, match=r"no emulator answers on .*emulator exec"):
        connect(directory / "none.sock")
