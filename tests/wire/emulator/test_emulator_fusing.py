"""Launches computed in one pass give what they give one by one: bits, errors, memory, device time.

Random programs run twice on one kind of sidecar, with and without fusing, with blocks so small that arrays have many.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supernode.chips import find_chip
from supernode.emulator.client import connect
from supernode.emulator.fabric import FabricConfig
from supernode.emulator.runtime import fuse, launch, stream
from supernode.emulator.server import Server, ServerConfig
from supernode.errors import SupernodeError

CHIP = find_chip("hygon-bw1000")
COUNT = 1000
fused: list[int] = []


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Room for 15 arrays of 1,000 f32, so that programs run out of memory now and then."""
    with TemporaryDirectory(prefix="sn-") as path, pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "FUSED", 1)
        patch.setattr(fuse, "_BLOCK_BYTES", 512)
        fabric = FabricConfig(rank=0, workers=1, devices_per_worker=1, chip=CHIP, timeout=1.0)
        server = Server(ServerConfig(CHIP, 1, Path(path) / "e.sock", fabric, memory_bytes=15 << 12))
        server.start()
        yield server
        server.stop()


arrays = st.integers(0, 5)
steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["add", "subtract", "multiply", "divide", "maximum", "atan2"]), arrays, arrays),
        st.tuples(st.sampled_from(["exp", "tanh", "sqrt", "negative", "gelu", "sin", "relu", "log1p"]), arrays),
        st.tuples(st.just("value"), st.sampled_from(["add", "multiply", "power", "less"]), arrays, st.floats(-3, 3)),
        st.tuples(st.just("cast"), arrays, st.sampled_from(["bf16", "f16", "f32", "i32", "bool"])),
        st.tuples(st.just("into"), arrays, arrays, arrays),
        st.tuples(st.just("drop"), arrays),
        st.tuples(st.just("where"), arrays, arrays),
        st.tuples(st.just("one"), arrays, arrays),
        st.tuples(st.just("view"), arrays, st.sampled_from([(10, 100), (COUNT,)])),
        st.tuples(st.just("shifted"), arrays, st.integers(0, 3)),
        st.tuples(st.just("sum"), arrays),
        st.tuples(st.just("event")),
        st.tuples(st.just("stream"), arrays, arrays),
    ),
    max_size=30,
)


def run(server: Server, program: list[tuple[Any, ...]]) -> list[Any]:
    """Everything that can be seen of a program."""
    seen: list[Any] = []
    data = np.random.default_rng(1).standard_normal(COUNT).astype(np.float32)

    def look(what: Callable[[], Any]) -> None:
        try:
            seen.append(what())
        except SupernodeError as exc:
            seen.append(re.sub(r"client \d+", "the client", f"{type(exc).__name__}: {exc}"))

    while server.devices[0].memory.use().reserved:  # the client before is still leaving
        time.sleep(0.001)
    with connect(server.config.socket, environment={}) as emulator:
        began = emulator.synchronize()
        device = emulator.devices[0]
        held = [device.array(data), device.array(data[::-1].copy())]
        other, events = device.stream(), []
        go: Any = device.launch
        for name, *rest in program:

            def at(number: int) -> Any:
                return held[number % len(held)]

            try:
                if name in ("add", "subtract", "multiply", "divide", "maximum", "atan2"):
                    held.append(go(name, at(rest[0]), at(rest[1])))
                elif name == "value":
                    held.append(go(rest[0], at(rest[1]), rest[2]))
                elif name == "cast":
                    held.append(go("cast", at(rest[0]), dtype=rest[1]))
                elif name == "into":
                    go("add", at(rest[0]), at(rest[1]), out=at(rest[2]))
                elif name == "drop":
                    if len(held) > 1:
                        del held[rest[0] % len(held)]
                elif name == "where":
                    held.append(go("where", go("less", at(rest[0]), at(rest[1])), at(rest[1]), at(rest[0])))
                elif name == "one":
                    held.append(go("add", at(rest[0]), at(rest[1]).part(3, (1,))))
                elif name == "view":
                    held.append(at(rest[0]).reshape(rest[1]))
                elif name == "shifted":
                    base = at(rest[0])
                    first, second = base.part(rest[1], (900,)), base.part(0, (900,))
                    go("multiply", first, go("add", first, 1.0), out=second)
                elif name == "sum":
                    held.append(go("cumulative_sum", at(rest[0]).reshape((COUNT,)), axis=0))
                elif name == "event":
                    events.append(device.record())
                elif name == "stream":
                    held.append(go("add", at(rest[0]), at(rest[1]), stream=other))
                else:
                    held.append(go(name, at(rest[0])))
            except SupernodeError as exc:
                seen.append(f"{type(exc).__name__}: {exc}")
            del held[: max(0, len(held) - 8)]
        look(lambda: device.memory()[:1])
        look(emulator.synchronize)
        for array in held:
            look(lambda array=array: (array.spec, array.numpy().tobytes()))  # type: ignore[misc]
        for event in events:
            look(lambda event=event: round((event.seconds - began) * 1e12))  # type: ignore[misc]
        look(lambda: round((emulator.synchronize() - began) * 1e12))
    return [round((item - began) * 1e12) if isinstance(item, float) else item for item in seen]


def collecting(items: Any, first: int) -> Any:
    found = fuse.collect(items, first)
    if len(found) > 1:
        fused.append(len(found))
    return found


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=steps)
def test_programs_give_the_same(server: Server, program: list[tuple[Any, ...]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "collect", lambda items, first: [])
        alone = run(server, program)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "collect", collecting)
        together = run(server, program)
    assert together == alone


def test_runs_were_fused() -> None:
    assert max(fused, default=0) > 4  # the programs above were worth comparing


def test_a_chain_writes_only_what_is_kept(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = np.empty

    def empty(shape: Any, *rest: Any, **named: Any) -> Any:
        out = real(shape, *rest, **named)
        made.append(out.size)
        return out

    monkeypatch.setattr(fuse.np, "empty", empty)
    with connect(server.config.socket, environment={}) as emulator:
        device = emulator.devices[0]
        x = y = device.full(COUNT, 1.5)
        for _ in range(8):
            y = device.launch("multiply", y, x)
        assert y.numpy().tolist() == [1.5**9] * COUNT
    assert made.count(COUNT) == 1  # the last; the others had blocks alone
    assert max(size for size in made if size != COUNT) <= 512


def test_the_clock_charges_every_launch(server: Server) -> None:
    def seconds(count: int) -> float:
        with connect(server.config.socket, environment={}) as emulator:
            device = emulator.devices[0]
            x = device.full(COUNT, 1.0)
            began = device.synchronize()
            for _ in range(count):
                x = device.launch("add", x, 1.0)
            return device.synchronize() - began

    one, many = seconds(1), seconds(20)
    assert many == pytest.approx(20 * one)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 127, 129, 1000])
def test_blocks_of_any_length(server: Server, size: int) -> None:
    values = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    with connect(server.config.socket, environment={}) as emulator:
        device = emulator.devices[0]
        x = device.array(values)
        y = device.launch("exp", device.launch("multiply", device.launch("sin", x), x))
        assert y.numpy().tobytes() == np.exp(np.sin(values) * values).tobytes()


def test_a_failure_in_the_middle_is_told_of_its_own_call(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(server.config.socket, environment={}) as emulator:
        device = emulator.devices[0]
        x = device.full(COUNT, 1.0)
        emulator.synchronize()
        calls = itertools.count(1)
        real = fuse.check_room

        def check(nbytes: int) -> None:
            if next(calls) == 1:
                raise MemoryError("none")
            real(nbytes)

        monkeypatch.setattr(fuse, "check_room", check)
        y = device.launch("add", device.launch("add", x, x), x)
        assert y.numpy().tolist() == [3] * COUNT  # one by one there was room


def test_what_is_read_again_later_keeps_its_place(server: Server) -> None:
    values = np.random.default_rng(3).standard_normal(COUNT).astype(np.float32)

    def expression(x: Any, two: Callable[..., Any]) -> Any:
        y = two("add", x, x)
        z = two("multiply", two("subtract", two("multiply", y, y), x), y)
        return two("add", two("multiply", z, x), two("maximum", y, z))

    with connect(server.config.socket, environment={}) as emulator:
        device = emulator.devices[0]
        found = expression(device.array(values), device.launch).numpy()
        assert found.tobytes() == expression(values, lambda name, a, b: getattr(np, name)(a, b)).tobytes()


@pytest.mark.parametrize("where", ["collect", "Fused"])
def test_a_fault_of_the_sidecar_is_told_and_nobody_waits_for_ever(
    server: Server, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    with connect(server.config.socket, environment={}) as emulator:
        device = emulator.devices[0]
        x = device.full(COUNT, 1.0)
        emulator.synchronize()

        def broken(*arguments: Any) -> Any:
            raise RuntimeError("a mistake")

        with monkeypatch.context() as patch:
            patch.setattr(stream, where, broken)
            y = device.launch("add", device.launch("add", x, x), x)
            with pytest.raises(SupernodeError, match=r"call \d+, add.*a mistake"):
                emulator.synchronize()
        with pytest.raises(SupernodeError):
            y.numpy()
        assert device.launch("add", x, x).numpy()[0] == 2
