"""Which device a model gets: the sidecar of the surroundings, or one of this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from onnx import helper

from supernode import names
from supernode.chips import find_chip
from supernode.emulator import onnx_backend
from supernode.emulator.fabric import FabricConfig
from supernode.emulator.server import Server, ServerConfig

NODE = helper.make_node("Relu", ["x"], ["y"])
X = np.array([-1, 2], np.float32)


@pytest.fixture
def sidecar(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A sidecar with two A100s, of which the variable tells."""
    chip = find_chip("nvidia-a100-80g-sxm")
    with TemporaryDirectory(prefix="sn-") as folder:
        path = Path(folder) / "emulator.sock"
        fabric = FabricConfig(rank=0, workers=1, devices_per_worker=2, chip=chip)
        server = Server(ServerConfig(chip, 2, path, fabric, http_port=None))
        server.start()
        monkeypatch.setenv(names.ENV_SOCKET, str(path))
        yield server
        server.stop()


def test_the_variable_names_the_sidecar(sidecar: Server) -> None:
    for index in (0, 1):
        assert onnx_backend.run_node(NODE, [X], f"HCU:{index}")[0].tolist() == [0, 2]
        assert sidecar.devices[index].figures().launches == {"relu": 1}
    assert onnx_backend.find_device(1).chip == "nvidia-a100-80g-sxm"


def test_a_chip_by_name_gets_a_sidecar_of_its_own(sidecar: Server) -> None:
    device = onnx_backend.find_device(chip="hygon-bw1000")
    assert (device.chip, device.emulator.local_devices) == ("hygon-bw1000", 1)
    assert device is onnx_backend.find_device(chip="hygon-bw1000")
    small = onnx_backend.find_device(chip="hygon-bw1000", memory_bytes=1 << 20)
    assert small.memory().limit == 1 << 20
    assert small is not device


def test_without_a_variable_the_chip_is_that_of_the_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert onnx_backend.find_device().chip == "hygon-bw1000"
    monkeypatch.setenv(names.ENV_CHIP, "nvidia-a100-80g-sxm")
    assert onnx_backend.find_device().chip == "nvidia-a100-80g-sxm"


def test_a_sidecar_that_is_gone_is_found_again(sidecar: Server) -> None:
    onnx_backend.run_node(NODE, [X])
    onnx_backend.find_device().emulator.close()
    assert onnx_backend.run_node(NODE, [X])[0].tolist() == [0, 2]


def test_runs_of_several_threads_do_not_mix() -> None:
    nodes = [helper.make_node("Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(20)]
    value = [helper.make_value_info("v20", helper.make_tensor_type_proto(1, [4]))]
    graph = helper.make_graph(nodes, "chain", [helper.make_tensor_value_info("v0", 1, [4])], value)
    prepared = onnx_backend.prepare(helper.make_model(graph))
    wrong = []

    def work(number: int) -> None:
        for _ in range(20):
            (y,) = prepared.run([np.full(4, number, np.float32)])
            if y.tolist() != [number] * 4:
                wrong.append(y)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
