"""Mistakes that programs make with the client: an error at the call, in words, and the connection goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from supernode.emulator.client import Emulator, connect
from supernode.emulator.server import Server
from supernode.errors import InputError, KernelError, SupernodeError


@pytest.mark.parametrize(
    ("mistake", "kind", "words"),
    [
        (lambda d, x: d.launch("nope", x), KernelError, "no kernel is called 'nope'"),
        (lambda d, x: d.launch("add"), TypeError, "got 0 inputs"),
        (lambda d, x: d.launch("add", x, x, colour=1), TypeError, "unknown attribute colour"),
        (lambda d, x: d.launch("add", x, np.ones(4)), TypeError, r"arrays of this device, not \(Array, ndarray\)"),
        (lambda d, x: d.launch("add", x, [1.0]), TypeError, r"not \(Array, list\); use device.array"),
        (lambda d, x: d.launch("add", x, None), TypeError, r"not \(Array, NoneType\)"),
        (lambda d, x: d.launch("add", x, d.zeros(5)), ValueError, "do not broadcast"),
        (lambda d, x: d.launch("matmul", x, x), ValueError, "two axes"),
        (lambda d, x: d.launch("sum", x, axis=3), IndexError, "axis 3 is not in an array with 1 axes"),
        (lambda d, x: d.array(["a"]), TypeError, "no dtype"),
        (lambda d, x: d.array([1], dtype="f128"), TypeError, "no dtype 'f128'"),
        (lambda d, x: d.full(-1, 1.0), ValueError, "negative size"),
        (lambda d, x: d.full(3, 300, dtype="i8"), ValueError, "300 does not fit i8"),
        (lambda d, x: x.reshape(3), ValueError, "cannot be reshaped"),
        (lambda d, x: x.item(), ValueError, "one element"),
        (lambda d, x: x.to("cpu"), TypeError, "'cpu' is none of .* copies to the host"),
        (lambda d, x: d.emulator.report("a"), InputError, "step must be a whole number"),
        (lambda d, x: d.emulator.report(1, loss="low"), InputError, "loss must be a number"),
        (lambda d, x: d.emulator.report(1, tokens=1.5), InputError, "tokens must be a whole number"),
        (lambda d, x: d.emulator.report(1, figure=object()), InputError, "each a number or text"),
    ],
)
def test_a_mistake_is_told_at_the_call(
    emulator: Emulator, mistake: Callable[[Any, Any], Any], kind: type[Exception], words: str
) -> None:
    device = emulator.devices[0]
    x = device.full(4, 2.0)
    with pytest.raises(kind, match=words) as caught:
        mistake(device, x)
    assert isinstance(caught.value, SupernodeError)
    assert device.launch("add", x, 1.0).numpy().tolist() == [3, 3, 3, 3]
    assert device.launch("add", x, np.float32(1)).numpy().tolist() == [3, 3, 3, 3]


def test_a_device_of_another_connection_is_none_to_copy_to(server: Server, emulator: Emulator) -> None:
    x = emulator.devices[0].full(4, 2.0)
    with connect(server.config.socket, environment={}) as other, pytest.raises(TypeError, match="is none of"):
        x.to(other.devices[1])
    assert x.to(emulator.devices[1]).numpy().tolist() == [2, 2, 2, 2]


def test_a_loss_may_be_an_array(server: Server, emulator: Emulator) -> None:
    import supernode.emulator.array_api as xp
    from supernode.emulator.array_api import session

    session.use(emulator)
    emulator.report(np.int64(3), loss=xp.mean(xp.asarray([1.0, 2.0])), tokens=np.int32(5))
    emulator.synchronize()
    shown = server.progress.snapshot()
    assert (shown["step"], shown["loss"], shown["tokens"]) == (3, 1.5, 5)
