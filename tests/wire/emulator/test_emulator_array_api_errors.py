"""What wrong array code raises: the exceptions of Python that array libraries raise, whoever finds the fault."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import supernode.emulator.array_api as xp
from supernode.emulator.array_api import session
from supernode.emulator.server import Server
from supernode.errors import EmulatorError, KernelError


@pytest.fixture(scope="module", autouse=True)
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One sidecar for all; its namespace is as every program has it."""
    from supernode.chips import find_chip
    from supernode.emulator.client import connect
    from supernode.emulator.fabric import FabricConfig
    from supernode.emulator.server import ServerConfig

    chip = find_chip("hygon-bw1000")
    path = tmp_path_factory.mktemp("s") / "e.sock"
    server = Server(ServerConfig(chip, 1, path, FabricConfig(0, 1, 1, chip=chip), http_port=None))
    server.start()
    with connect(path, environment={}) as emulator:
        session.use(emulator)
        yield
    server.stop()


def six() -> Any:
    return xp.reshape(xp.arange(6, dtype=xp.float32), (2, 3))


def whole() -> Any:
    return xp.arange(4, dtype=xp.int64)


# What NumPy raises for the same words; where the standard leaves it open, array libraries agree on these.
WRONG: list[tuple[str, Callable[[], Any], type[Exception]]] = [
    ("reshape", lambda: xp.reshape(six(), (4, 2)), ValueError),
    ("reshape to a negative size", lambda: xp.reshape(six(), (-2, 3)), ValueError),
    ("reshape to no numbers", lambda: xp.reshape(six(), ("a",)), TypeError),
    ("two unknown sizes", lambda: xp.reshape(six(), (-1, -1)), ValueError),
    ("shapes that do not broadcast", lambda: six() + xp.ones((2, 4), dtype=xp.float32), ValueError),
    ("broadcast_to", lambda: xp.broadcast_to(six(), (2, 4)), ValueError),
    ("broadcast_arrays", lambda: xp.broadcast_arrays(six(), xp.ones((5,))), ValueError),
    ("matmul", lambda: six() @ six(), ValueError),
    ("matmul of numbers", lambda: xp.asarray(1.0) @ xp.asarray(2.0), ValueError),
    ("vecdot", lambda: xp.vecdot(six(), xp.ones((2, 4), dtype=xp.float32)), ValueError),
    ("tensordot", lambda: xp.tensordot(six(), six(), axes=1), ValueError),
    ("sum over an axis that is not there", lambda: xp.sum(six(), axis=2), IndexError),
    ("the same, as a value", lambda: xp.sum(six(), axis=2), ValueError),
    ("sum over an axis twice", lambda: xp.sum(six(), axis=(0, 0)), ValueError),
    ("cumulative_sum", lambda: xp.cumulative_sum(six(), axis=5), IndexError),
    ("sort", lambda: xp.sort(six(), axis=3), IndexError),
    ("expand_dims", lambda: xp.expand_dims(six(), axis=7), IndexError),
    ("squeeze", lambda: xp.squeeze(six(), axis=0), ValueError),
    ("permute_dims", lambda: xp.permute_dims(six(), (0, 0)), ValueError),
    ("permute_dims of too few", lambda: xp.permute_dims(six(), (0,)), ValueError),
    ("concat", lambda: xp.concat([six(), xp.ones((3, 2), dtype=xp.float32)]), ValueError),
    ("concat of nothing", lambda: xp.concat([]), ValueError),
    ("concat on an axis", lambda: xp.concat([six(), six()], axis=2), IndexError),
    ("stack", lambda: xp.stack([six(), xp.ones((2, 3), dtype=xp.int64)]), TypeError),
    ("stack of nothing", lambda: xp.stack([]), ValueError),
    ("stack of numbers", lambda: xp.stack([1.0, 2.0]), TypeError),
    ("sum in a word", lambda: xp.sum(six(), dtype="f64"), TypeError),
    ("asarray of a word", lambda: xp.asarray([1, 2], dtype="int8"), TypeError),
    ("full of another library's type", lambda: xp.full(2, 1, dtype=np.int8), TypeError),
    ("linspace of Python's type", lambda: xp.linspace(0, 1, 3, dtype=float), TypeError),
    ("stack of shapes", lambda: xp.stack([six(), xp.ones((3,), dtype=xp.float32)]), ValueError),
    ("roll", lambda: xp.roll(six(), (1, 2), axis=(0,)), ValueError),
    ("tile by negative", lambda: xp.tile(six(), (-1,)), ValueError),
    ("an index", lambda: six()[5], IndexError),
    ("too many indices", lambda: six()[0, 0, 0], IndexError),
    ("a float as index", lambda: six()[1.5], IndexError),
    ("a mask of another shape", lambda: six()[xp.ones((3, 3), dtype=xp.bool)], IndexError),
    ("take", lambda: xp.take(six(), whole(), axis=4), IndexError),
    ("take with floats", lambda: xp.take(six(), xp.ones(2), axis=0), TypeError),
    ("argmax of nothing", lambda: xp.argmax(xp.zeros((0,))), ValueError),
    ("max of nothing", lambda: xp.max(xp.zeros((0,))), ValueError),
    ("bits of floats", lambda: six() & six(), TypeError),
    ("sine of integers", lambda: xp.sin(whole()), TypeError),
    ("integers and floats", lambda: whole() + six()[0, 0], TypeError),
    ("a float into integers", lambda: whole() + 1.5, TypeError),
    ("a string", lambda: six() + "a", TypeError),
    ("zeros of a negative shape", lambda: xp.zeros((-1,)), ValueError),
    ("zeros of a shape in words", lambda: xp.zeros("a"), TypeError),
    ("zeros of no dtype", lambda: xp.zeros(3, dtype="float32"), TypeError),
    ("arange by nothing", lambda: xp.arange(0, 3, 0), (ValueError, ZeroDivisionError)),
    ("linspace of less than nothing", lambda: xp.linspace(0, 1, num=-1), ValueError),
    ("eye of less than nothing", lambda: xp.eye(-1), ValueError),
    ("ragged lists", lambda: xp.asarray([[1], [2, 3]]), ValueError),
    ("inverse of no square", lambda: xp.linalg.inv(six()), ValueError),
    ("cholesky of a vector", lambda: xp.linalg.cholesky(xp.ones(3)), ValueError),
    ("solve", lambda: xp.linalg.solve(xp.eye(2), xp.ones((3, 1))), ValueError),
    ("cross", lambda: xp.linalg.cross(xp.ones(4), xp.ones(4)), ValueError),
    ("qr in a mode", lambda: xp.linalg.qr(xp.eye(2), mode="raw"), ValueError),
    ("fft on an axis", lambda: xp.fft.fft(xp.ones(4), axis=3), IndexError),
    ("fft of a length", lambda: xp.fft.fft(xp.ones(4), n=0), ValueError),
    ("fft in a norm", lambda: xp.fft.fft(xp.ones(4), norm="none"), ValueError),
    ("astype to a word", lambda: xp.astype(six(), "float64"), TypeError),
    ("bool() of many", lambda: bool(six()), (TypeError, ValueError)),
    ("float() of many", lambda: float(six()), (TypeError, ValueError)),
    ("repeat", lambda: xp.repeat(six(), xp.asarray([1, 2, 3]), axis=0), ValueError),
    ("repeat by negative", lambda: xp.repeat(six(), -1, axis=0), ValueError),
    ("searchsorted in a matrix", lambda: xp.searchsorted(six(), xp.ones(2, dtype=xp.float32)), ValueError),
    ("where", lambda: xp.where(six() > 1, six(), xp.ones((4,), dtype=xp.float32)), ValueError),
    ("moveaxis", lambda: xp.moveaxis(six(), 0, 4), IndexError),
    ("unstack", lambda: xp.unstack(six(), axis=3), IndexError),
    ("diff", lambda: xp.diff(six(), axis=2), IndexError),
    ("a device", lambda: xp.zeros(2, device="cuda"), ValueError),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_what_is_wrong_is_an_exception_of_pythons(call: Callable[[], Any], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        call()
    assert float(xp.sum(six())) == 15  # and nothing is left of it


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: xp.linalg.inv(xp.zeros((2, 2))), ValueError),
        (lambda: xp.linalg.cholesky(-xp.eye(2)), ValueError),
        (lambda: xp.take(six(), xp.asarray([9]), axis=0), IndexError),
        (lambda: six()[xp.asarray([9]), 0], IndexError),
    ],
)
def test_what_the_data_makes_wrong_is_one_when_it_is_read(call: Callable[[], Any], kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        np.asarray(call())
    assert isinstance(caught.value, KernelError)
    assert isinstance(caught.value, EmulatorError)
    assert float(xp.sum(six())) == 15


def test_numpy_gets_a_copy() -> None:
    x = six()
    for found in (np.asarray(x), np.array(x, copy=True), np.asarray(x, dtype=np.int8)):
        assert found.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert np.asarray(x, dtype=np.int8).dtype == np.int8
    np.testing.assert_array_equal(x, np.arange(6).reshape(2, 3))
    with pytest.raises(ValueError, match="is a copy"):
        x.__array__(copy=False)
    with pytest.raises(TypeError):
        np.add(x, x)  # nothing leaves the device unasked
    with pytest.raises(TypeError):
        np.ones(3, np.float32) + x


def test_what_python_asks_of_objects() -> None:
    x = six()
    for other in (copy.copy(x), copy.deepcopy(x), copy.deepcopy({"x": x})["x"]):
        other[0, 0] = 9.0
        assert (float(other[0, 0]), float(x[0, 0]), other.device) == (9, 0, x.device)
    assert f"{x[1, 2]:.2f}" == "5.00"
    assert f"{x[1, 2]}" == repr(x[1, 2])
    with pytest.raises(TypeError, match="numpy"):
        pickle.dumps(x)


@pytest.mark.parametrize("name", ["int8", "int64", "uint8", "uint32", "uint64", "float8_e4m3fn", "bfloat16", "bool"])
def test_data_of_the_host_is_converted_as_data_of_the_device(name: str) -> None:
    dtype = getattr(xp, name)
    data = np.array([1e30, -1e30, np.nan, 1.9, -1.9, np.inf, 448.0, 3e9, 2.0**-10])
    wanted = xp.astype(xp.asarray(data), dtype).numpy().view(np.uint8).tolist()
    for given in (data, data.tolist(), data.astype(">f8")):
        assert xp.asarray(given, dtype=dtype).numpy().view(np.uint8).tolist() == wanted


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i2", ">u8", ">c16", ">f2"])
def test_the_other_byte_order(dtype: str) -> None:
    data = np.arange(5).astype(dtype)
    x = xp.asarray(data)
    assert x.numpy().tolist() == data.tolist()
    assert x.dtype is xp.asarray(data.astype(data.dtype.newbyteorder("="))).dtype


def test_an_assignment_that_does_not_fit() -> None:
    x = six()
    with pytest.raises(ValueError, match="do not broadcast"):
        x[0, :] = xp.ones(4, dtype=xp.float32)
    with pytest.raises(IndexError):
        x[7, 0] = 1.0
    with pytest.raises(TypeError):
        x[0, 0] = "a"
    assert float(xp.sum(x)) == 15
