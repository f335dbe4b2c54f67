"""The array namespace through the socket, beside NumPy's: one table of expressions, each evaluated in both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import supernode.emulator.array_api as xp
from supernode.emulator.array_api import session
from supernode.emulator.client import Emulator, connect
from supernode.emulator.server import Server

DATA = np.array([[3.0, -1.0, 2.0, 0.5], [4.0, 8.0, -2.5, 1.0], [0.0, 1.0, 1.0, -7.0]])
Expression = Callable[[Any, Any], Any]

#: Evaluated with (numpy, host array) and with (namespace, device array) of float64.
FLOATS: tuple[Expression, ...] = (
    *(lambda m, x, f=f: getattr(m, f)(x) for f in ("abs", "sin", "exp", "floor", "sign", "square", "isnan", "signbit")),
    *(lambda m, x, f=f: getattr(m, f)(x, x[0, :]) for f in ("add", "multiply", "divide", "atan2", "maximum", "less")),
    lambda m, x: 2 - x * 3.5,
    lambda m, x: x**2 / (x + 10),
    lambda m, x: 1j * x,
    lambda m, x: -x // 2 + x % 3,
    lambda m, x: (x > 0) & ~(x == 1) | (x < -3) ^ (x >= 4),
    lambda m, x: x[1:, ::-1],
    lambda m, x: x[..., None, 2],
    lambda m, x: x[x > 0.75],
    lambda m, x: x[x[:, 0] > 1, ...],
    lambda m, x: x[m.asarray([2, 0]), 1],
    lambda m, x: x[m.asarray([[2], [0]]), m.asarray([1, 3])],
    lambda m, x: x.T @ x,
    lambda m, x: x @ x[0, :],
    lambda m, x: x.mT[:, 0],
    lambda m, x: m.sum(x, axis=1, keepdims=True),
    lambda m, x: m.mean(x, axis=(0, 1)),
    lambda m, x: m.std(x, axis=0),
    lambda m, x: m.prod(x),
    lambda m, x: m.argmax(x, axis=1, keepdims=True),
    lambda m, x: m.max(x, axis=-1) - m.min(x, axis=-1),
    lambda m, x: m.any(x, axis=0),
    lambda m, x: m.all(x),
    lambda m, x: m.count_nonzero(x, axis=1),
    lambda m, x: m.cumulative_sum(x, axis=1, include_initial=True),
    lambda m, x: m.cumulative_prod(x, axis=0),
    lambda m, x: m.sort(x, axis=0),
    lambda m, x: m.argsort(x, axis=1, stable=True),
    lambda m, x: m.searchsorted(m.sort(x[0, :]), x),
    lambda m, x: m.nonzero(x),
    lambda m, x: m.where(x > 0, x, 0.0),
    lambda m, x: m.clip(x, -1, 2),
    lambda m, x: m.concat([x, x], axis=1),
    lambda m, x: m.stack([x, -x], axis=-1),
    lambda m, x: m.reshape(x, (2, -1)),
    lambda m, x: m.permute_dims(x, (1, 0)),
    lambda m, x: m.moveaxis(m.reshape(x, (3, 2, 2)), (0, 2), (1, 0)),
    lambda m, x: m.expand_dims(x, axis=1),
    lambda m, x: m.squeeze(m.expand_dims(x, axis=0), axis=0),
    lambda m, x: m.flip(x, axis=0),
    lambda m, x: m.roll(x, 2),
    lambda m, x: m.roll(x, (1, -1), axis=(0, 1)),
    lambda m, x: m.repeat(x, 2, axis=1),
    lambda m, x: m.repeat(x, m.asarray([1, 0, 2]), axis=0),
    lambda m, x: m.tile(x, (2, 1, 2)),
    lambda m, x: m.tril(x, k=1) + m.triu(x),
    lambda m, x: m.diff(x, n=2),
    lambda m, x: m.unstack(x, axis=1),
    lambda m, x: m.broadcast_arrays(x, x[:, :1]),
    lambda m, x: m.meshgrid(x[0, :], x[:, 0]),
    lambda m, x: m.take(x, m.asarray([3, 1]), axis=1),
    lambda m, x: m.take_along_axis(x, m.argsort(x, axis=1), axis=1),
    lambda m, x: m.tensordot(x, x, axes=((0,), (0,))),
    lambda m, x: m.vecdot(x, 2 * x, axis=0),
    lambda m, x: m.astype(x, m.int64),
    lambda m, x: m.unique_all(m.astype(x, m.int64)),
    lambda m, x: m.unique_counts(x),
    lambda m, x: m.arange(10, 0, -3),
    lambda m, x: m.linspace(0, 1, 7, endpoint=False),
    lambda m, x: m.eye(3, 4, k=-1),
    lambda m, x: m.full((2, 3), 7),
    lambda m, x: m.ones_like(x) + m.zeros_like(x),
    lambda m, x: m.fft.fft(x, axis=0),
    lambda m, x: m.fft.irfft(m.fft.rfft(x)),
    lambda m, x: m.fft.fftn(x),
    lambda m, x: m.fft.fftshift(x),
    lambda m, x: m.fft.fftfreq(5),
    lambda m, x: m.linalg.inv(x @ x.T),
    lambda m, x: m.linalg.det(x[:, :3]),
    lambda m, x: m.linalg.solve(x[:, :3], x),
    lambda m, x: m.linalg.svdvals(x),
    lambda m, x: m.linalg.qr(x),
    lambda m, x: m.linalg.slogdet(x[:, :3]),
    lambda m, x: m.linalg.matrix_norm(x, ord=1),
    lambda m, x: m.linalg.vector_norm(x, axis=0),
    lambda m, x: m.linalg.matrix_power(x[:, :3], -3),
    lambda m, x: m.linalg.matrix_rank(x),
    lambda m, x: m.linalg.pinv(x),
    lambda m, x: m.linalg.trace(x, offset=1),
    lambda m, x: m.linalg.outer(x[0, :], x[:, 0]),
    lambda m, x: m.linalg.cross(x[:, 0], x[:, 1]),
    lambda m, x: m.linalg.diagonal(x, offset=-1),
)


@pytest.fixture
def on_device(emulator: Emulator) -> Iterator[Emulator]:
    session.use(emulator)
    yield emulator
    session.use(emulator)  # closed after the test: the next one makes its own


def host(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(host(item) for item in value)
    return value.numpy() if isinstance(value, xp.Array) else value


def compare(found: Any, wanted: Any, words: str) -> None:
    if isinstance(wanted, tuple | list):
        assert len(found) == len(wanted), words
        for a, b in zip(found, wanted, strict=True):
            compare(a, b, words)
        return
    expected = np.asarray(wanted)
    given = host(found)
    assert (given.dtype, given.shape) == (expected.dtype, expected.shape), words
    np.testing.assert_allclose(given, expected, rtol=1e-12, atol=1e-12, err_msg=words)


@pytest.mark.usefixtures("on_device")
def test_expressions_give_what_numpy_gives() -> None:
    x = xp.asarray(DATA)
    for number, expression in enumerate(FLOATS):
        with np.errstate(all="ignore"):
            compare(expression(xp, x), expression(np, DATA), f"expression {number}")
    np.testing.assert_array_equal(x.numpy(), DATA)


@pytest.mark.usefixtures("on_device")
def test_integers_wrap_and_shift_as_numpys() -> None:
    data = np.array([-128, -3, 0, 5, 127], dtype=np.int8)
    x = xp.asarray(data)
    assert x.dtype is xp.int8
    for expression in (
        lambda a: a + 100,
        lambda a: a << 3,
        lambda a: a >> 1,
        lambda a: ~a & 15,
        lambda a: a // 2,
        lambda a: -a,
        lambda a: a % 7,
    ):
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(expression(x).numpy(), expression(data))
    with pytest.raises(OverflowError):
        _ = x + 200
    assert xp.sum(x).dtype is xp.int64


@pytest.mark.usefixtures("on_device")
def test_assignment_changes_this_array_only() -> None:
    x = xp.asarray(DATA)
    whole, part, again = xp.asarray(x, copy=True), x[0, :], xp.reshape(x, (12,))
    x[0, :] = 1
    x[x < 0] = 0.0
    x[xp.asarray([1, 2]), 3] = xp.asarray([5.0, 6.0])
    x[()] = x
    expected = DATA.copy()
    expected[0, :] = 1
    expected[expected < 0] = 0
    expected[[1, 2], 3] = [5, 6]
    np.testing.assert_array_equal(x.numpy(), expected)
    for other in (whole, part, again):
        np.testing.assert_array_equal(other.numpy().reshape(-1), DATA.reshape(-1)[: other.size])
    flag = xp.asarray(False)
    flag[()] = True
    assert flag
    y = x
    y += 1
    assert y is x
    with pytest.raises(TypeError, match="in place"):
        x += 1j


@pytest.mark.usefixtures("on_device")
def test_masks_of_no_axes_and_of_no_elements() -> None:
    x = xp.asarray(DATA)
    assert x[xp.asarray(True)].shape == (1, 3, 4)
    assert x[False].shape == (0, 3, 4)
    assert x[xp.zeros((0, 4), dtype=xp.bool)].shape == (0,)
    x[xp.asarray(False)] = 7.0
    np.testing.assert_array_equal(x.numpy(), DATA)


@pytest.mark.usefixtures("on_device")
def test_refusals_have_the_standards_types() -> None:
    x, whole = xp.asarray(DATA), xp.asarray([1, 2])
    cases: tuple[tuple[type[Exception], Callable[[], Any]], ...] = (
        (TypeError, lambda: x + whole),
        (TypeError, lambda: whole + 1.5),
        (TypeError, lambda: xp.add(1, 2)),
        (TypeError, lambda: x + "1"),
        (TypeError, lambda: xp.sqrt(whole)),
        (TypeError, lambda: xp.bitwise_and(x, x)),
        (TypeError, lambda: xp.astype(xp.asarray(1j), xp.float32)),
        (TypeError, lambda: bool(x)),
        (TypeError, lambda: range(3)[x[0, 0]]),
        (TypeError, lambda: xp.asarray(DATA).__setitem__(0, 1j)),
        (IndexError, lambda: x[3]),
        (IndexError, lambda: x[0, 0, 0]),
        (IndexError, lambda: x[xp.asarray([True])]),
        (IndexError, lambda: xp.sum(x, axis=2)),
        (ValueError, lambda: xp.matmul(x, x)),
        (ValueError, lambda: xp.broadcast_to(x, (2, 2))),
        (ValueError, lambda: xp.squeeze(x, axis=0)),
        (ValueError, lambda: whole.T),
        (ValueError, lambda: xp.asarray([[1], [1, 2]])),
        (ValueError, lambda: xp.asarray(DATA, copy=False)),
        (OverflowError, lambda: xp.asarray(300, dtype=xp.uint8)),
        (BufferError, lambda: x.__dlpack__(copy=False)),
        (ValueError, lambda: x.__array_namespace__(api_version="1999.01")),
    )
    for number, (kind, call) in enumerate(cases):
        try:
            call()
        except kind:
            continue
        pytest.fail(f"case {number} was not refused")


def test_devices(on_device: Emulator) -> None:
    info = xp.__array_namespace_info__()
    first, second = info.devices()
    x = xp.asarray(DATA, device=second)
    assert (x.device, (x + 1).device, xp.zeros_like(x).device) == (second,) * 3
    assert info.default_device() is first is xp.asarray(1).device
    with pytest.raises(ValueError, match="to_device"):
        _ = x + xp.asarray(DATA)
    np.testing.assert_array_equal((x.to_device(first) + xp.asarray(DATA)).numpy(), 2 * DATA)
    assert x.to_device(second).device is second
    with pytest.raises(ValueError, match="no device"):
        xp.asarray(1, device="cpu")  # type: ignore[arg-type]


@pytest.mark.usefixtures("on_device")
def test_exchange_with_numpy() -> None:
    x = xp.asarray(DATA)
    np.testing.assert_array_equal(np.from_dlpack(x), DATA)
    np.testing.assert_array_equal(xp.from_dlpack(DATA).numpy(), DATA)
    assert x.__dlpack_device__() == (1, 0)
    assert x.__array_namespace__() is xp
    assert xp.asarray(np.float32(2)).dtype is xp.float32
    assert [xp.asarray(v).dtype.name for v in (True, 1, 1.0, 1j)] == ["bool", "int64", "float64", "complex128"]
    assert (int(x[0, 0]), float(x[0, 1]), complex(x[0, 2]), bool(x[0, 3])) == (3, -1.0, 2 + 0j, True)
    assert range(10)[xp.asarray(4)] == 4


@pytest.mark.usefixtures("on_device")
def test_sixteen_bit_floats_compute_in_f32_and_round_once() -> None:
    x = xp.asarray([1.0, 256.0, 0.00390625], dtype=xp.bfloat16)
    assert xp.sum(x).dtype is xp.bfloat16
    # 257.0039 lies above the middle of 256 and 258; rounded after each step it would be 256.
    assert float(xp.sum(x)) == 258.0
    assert (x + xp.asarray([1.0], dtype=xp.float32)).dtype is xp.float32
    assert float(xp.asarray(1.0, dtype=xp.float16) / 3) == float(np.float16(1 / 3))


def test_every_operation_runs_in_the_sidecar(server: Server, on_device: Emulator) -> None:
    x = xp.asarray(DATA)
    _ = xp.linalg.inv(x @ x.T)[0] + 1
    on_device.synchronize()
    launched = server.devices[0].figures().launches
    assert {"matmul", "transpose", "inverse", "index", "add"} <= set(launched)


@pytest.mark.usefixtures("on_device")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_index_selects_what_numpy_selects(data: st.DataObject) -> None:
    x = np.arange(60.0).reshape(3, 4, 5)
    item = st.one_of(
        st.slices(3),
        st.just(None),
        st.integers(-3, 2),
        st.lists(st.integers(-3, 2), min_size=2, max_size=2).map(np.asarray),
    )
    key = data.draw(st.lists(item, max_size=4).filter(lambda k: sum(i is not None for i in k) <= 3))
    place = data.draw(st.integers(0, len(key)) | st.none())
    if place is not None:
        key.insert(place, Ellipsis)
    ours = tuple(xp.asarray(i) if isinstance(i, np.ndarray) else i for i in key)
    device = xp.asarray(x)
    found = device[ours].numpy()
    np.testing.assert_array_equal(found, x[tuple(key)])
    expected = x.copy()
    expected[tuple(key)] = -1
    device[ours] = -1
    np.testing.assert_array_equal(device.numpy(), expected)


def test_reconnects_when_the_sidecar_is_another(sidecar: Callable[..., Server]) -> None:
    for server in (sidecar(), sidecar()):
        with connect(server.config.socket, environment={}) as connected:
            session.use(connected)
            assert float(xp.sum(xp.asarray([1.0, 2.0]))) == 3.0


def test_is_recognised_by_array_api_compat(on_device: Emulator) -> None:
    compat = pytest.importorskip("array_api_compat", reason="array-api-compat is not installed")
    x = xp.asarray(DATA)
    assert compat.is_array_api_obj(x)
    assert isinstance(compat.array_namespace(x), ModuleType)
    assert compat.array_namespace(x) is xp
    assert compat.device(x) is on_device.devices[0]
