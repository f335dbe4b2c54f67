"""A sidecar that cannot start leaves no thread, port or file behind; one that is busy is not pushed away."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from supernode.chips import find_chip
from supernode.emulator.client import connect
from supernode.emulator.fabric import FabricConfig
from supernode.emulator.listening import listen
from supernode.emulator.onnx_backend import sidecar as onnx_sidecar
from supernode.emulator.server import Server, ServerConfig
from supernode.errors import EmulatorError, InputError

CHIP = find_chip("hygon-bw1000")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_start_that_fails_undoes_what_it_began(sidecar: Callable[..., Server]) -> None:
    taken = sidecar(1)
    before, port = threading.active_count(), free_port()
    fabric = FabricConfig(0, 1, 1, chip=CHIP)
    second = Server(ServerConfig(CHIP, 1, taken.config.socket, fabric, http_port=port))
    with pytest.raises(EmulatorError, match="another emulator already listens"):
        second.start()
    assert threading.active_count() == before
    with socket.socket() as again, pytest.raises(ConnectionRefusedError):
        again.connect(("127.0.0.1", port))
    with connect(taken.config.socket, environment={}) as emulator:
        assert emulator.devices[0].full(2, 1.0).numpy().tolist() == [1, 1]


def test_a_sidecar_that_is_too_busy_to_answer_keeps_its_socket(directory: Path) -> None:
    path = directory / "busy.sock"
    busy = listen(path, 0o600, 0)
    waiting = []
    try:
        # Until the kernel lets no more wait: then connecting takes for ever, or says "try again".
        for _ in range(8):
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            client.setblocking(False)
            waiting.append(client)
            if client.connect_ex(str(path)):
                break
        else:
            pytest.skip("this machine lets everybody wait")
        with pytest.raises(EmulatorError, match="another emulator already listens"):
            listen(path, 0o600, 0)
        assert path.exists()
    finally:
        for client in waiting:
            client.close()
        busy.close()
    # Once it has gone, what it left behind is replaced.
    listen(path, 0o600, 1).close()


def test_a_client_for_whom_there_is_no_thread_hears_of_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(EmulatorError, match="cannot serve another client now: can't start new thread"):
            connect(server.config.socket, environment={})
    with connect(server.config.socket, environment={}) as emulator:
        assert emulator.devices[0].full(2, 1.0).numpy().tolist() == [1, 1]


def test_a_models_sidecar_that_cannot_start_leaves_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_sidecar, "_SHARED_MEMORY", tmp_path)
    with pytest.raises(InputError, match="cannot have 0 bytes of memory"):
        onnx_sidecar.find_device(chip="hygon-bw1000", memory_bytes=0)
    assert list(tmp_path.iterdir()) == []
    before = threading.active_count()
    with monkeypatch.context() as patched:
        patched.setattr(onnx_sidecar, "connect", lambda *_, **__: (_ for _ in ()).throw(EmulatorError("no")))
        with pytest.raises(EmulatorError, match="no"):
            onnx_sidecar.find_device(chip="hygon-bw1000", memory_bytes=1 << 22)
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == before


BARE = """
import importlib.abc, sys

class Only(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        top = name.partition(".")[0]
        if top not in {"supernode", "numpy", "ml_dtypes", "prometheus_client", *sys.stdlib_module_names}:
            raise ImportError(f"{name} is not in the sidecar's image")

sys.meta_path.insert(0, Only())
from supernode.cli import main
program = "import supernode.emulator.array_api as xp; print(float(xp.sum(xp.ones(4))))"
command = ["emulator", "exec", "--chip", "hygon-bw1000", "--devices", "2", "--", sys.executable, "-c", program]
sys.exit(main(command))
"""


def test_the_sidecar_needs_three_packages() -> None:
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "4.0\n"), done.stderr
