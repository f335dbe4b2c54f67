"""The sidecar and its clients as processes: signals, deaths, `exec`, the HTTP port, the termination message."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from supernode.emulator.client import connect
from supernode.emulator.metrics import METRICS
from supernode.errors import EmulatorError, OutOfDeviceMemoryError

Start = Callable[..., tuple["subprocess.Popen[str]", str]]


def until(true: Callable[[], Any], what: str) -> Any:
    """Wait for something that another process does."""
    for _ in range(600):
        found = true()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"never happened: {what}")


@pytest.fixture
def start(directory: Path) -> Iterator[Start]:
    """Starts a sidecar process; gives it and the URL of its HTTP port once it is ready."""
    started: list[subprocess.Popen[str]] = []

    def run(*flags: str, **variables: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "supernode", "emulator", "--chip", "hygon-bw1000", "--devices", "2"]
        command += ["--socket", str(directory / "e.sock"), "--http-port", "0", "--fabric-port", "0", *flags]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **variables}
        )
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"HTTP on (\S+)", line)
        assert found, line + process.stdout.read()
        return process, f"http://{found[1]}"

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def get(url: str) -> str:
    with urllib.request.urlopen(url) as answer:
        text: str = answer.read().decode()
        return text


def test_life_of_a_sidecar(start: Start, directory: Path) -> None:
    log = directory / "termination"
    process, url = start("--termination-log", str(log))
    assert get(f"{url}/healthz") == get(f"{url}/readyz") == "ok\n"
    with connect(directory / "e.sock", environment={}) as emulator:
        device = emulator.devices[1]
        x = device.launch("matmul", device.full((8, 8), 1.0), device.full((8, 8), 2.0))
        emulator.group().all_reduce([emulator.devices[0].zeros(4), device.zeros(4)])
        emulator.report(1, loss=5.0, tokens=10)
        emulator.report(2, loss=4.0, tokens=20, digest="abc")
        assert x.numpy()[0, 0] == 16
        metrics = get(f"{url}/metrics")
    for name, figure in METRICS.items():
        shown = f"{name}_total" if figure.kind == "counter" else name
        assert f"# HELP {shown} " in metrics or f"# HELP {name} " in metrics
    assert 'supernode_emulator_kernels_launched_total{device="1",kernel="matmul"} 1.0' in metrics
    assert 'supernode_emulator_collectives_total{device="0",kind="all_reduce"} 1.0' in metrics
    assert "supernode_training_loss 4.0" in metrics
    assert json.loads(get(f"{url}/progress"))["step"] == 2
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(f"{url}/other")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    final = json.loads(log.read_text())
    assert (final["step"], final["firstLoss"], final["loss"], final["digest"]) == (2, 5.0, 4.0, "abc")
    assert len(log.read_bytes()) <= 4096
    assert not (directory / "e.sock").exists()


def test_sigterm_with_a_client_inside(start: Start, directory: Path) -> None:
    process, _ = start()
    with connect(directory / "e.sock", environment={}) as emulator:
        emulator.devices[0].full(3, 1.0).numpy()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        with pytest.raises(EmulatorError, match="is gone"):
            emulator.devices[0].full(3, 1.0).numpy()


def test_a_killed_sidecar_is_an_error_and_can_be_started_again(start: Start, directory: Path) -> None:
    process, _ = start()
    with connect(directory / "e.sock", environment={}) as emulator:
        x = emulator.devices[0].full(3, 1.0)
        assert x.numpy()[0] == 1
        process.kill()
        process.wait()
        with pytest.raises(EmulatorError, match=r"is gone.*all its arrays are lost"):
            x.numpy()
        with pytest.raises(EmulatorError, match="cannot be used"):
            emulator.synchronize()
    start()  # the socket that was left behind is in nobody's way
    with connect(directory / "e.sock", environment={}) as emulator:
        assert emulator.devices[0].full(3, 1.0).numpy()[0] == 1


def test_two_sidecars_do_not_share_a_socket(start: Start, directory: Path) -> None:
    start()
    command = [sys.executable, "-m", "supernode", "emulator", "--chip", "hygon-bw1000", "--http-port", "0"]
    second = subprocess.run(
        [*command, "--socket", str(directory / "e.sock")], capture_output=True, text=True, timeout=60
    )
    assert second.returncode == 1
    assert "another emulator already listens" in second.stderr
    with connect(directory / "e.sock", environment={}) as emulator:
        assert emulator.devices[0].full(3, 1.0).numpy()[0] == 1


CLIENT = """
import sys, time
import numpy as np
from supernode.emulator import client
emulator = client.connect()
held = [device.zeros(1 << 20) for device in emulator.devices for _ in range(4)]
shared = [emulator.devices[0].array(np.ones(n, np.float32)) for n in (1 << 16, 1 << 21)]  # a segment; a file of its own
emulator.connection.request("file", 99, 1 << 20, descriptors=1)  # a file that is never written
kept = shared[1].numpy()
stream = emulator.devices[0].stream()
emulator.synchronize()
print("held", flush=True)
if sys.argv[1] == "busy":
    x = emulator.devices[0].full((512, 512), 1.0)
    while True:
        x = emulator.devices[0].launch("matmul", x, x)
if sys.argv[1] == "waiting":
    emulator.group().recv(emulator.devices[0], (4,), source=1).numpy()
time.sleep(600)
"""


@pytest.mark.parametrize("doing", ["idle", "busy", "waiting"])
def test_a_killed_client_frees_its_memory(start: Start, directory: Path, doing: str) -> None:
    process, url = start("--fabric-timeout", "60")
    open_files = sorted(Path(f"/proc/{process.pid}/fd").iterdir()) if sys.platform == "linux" else []
    variables = {**os.environ, "SUPERNODE_EMULATOR_SOCKET": str(directory / "e.sock")}
    command = [sys.executable, "-c", CLIENT, doing]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "held\n"
        with connect(directory / "e.sock", environment={}) as emulator:
            assert emulator.devices[1].memory().in_use == 4 * (1 << 22)
            client.kill()
            client.wait()
            until(lambda: sum(d.memory().in_use for d in emulator.devices) == 0, "memory of the dead client freed")
            assert emulator.devices[0].full(2, 1.0).numpy()[0] == 1
    until(lambda: "supernode_emulator_clients 0.0" in get(f"{url}/metrics") or doing == "waiting", "client gone")
    # No file and no memory file is left: in the socket's directory, in shared memory, or open in the sidecar.
    assert [path.name for path in directory.iterdir()] == ["e.sock"]
    if open_files and doing != "waiting":
        until(lambda: sorted(Path(f"/proc/{process.pid}/fd").iterdir()) == open_files, "descriptors closed")


PROGRAM = """
import sys
import numpy as np
from supernode.emulator import client

def resident(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))

def state(device):
    return [device.launch("copy", device.zeros(4096)) for _ in range(4)]

with client.connect() as emulator:
    device, group = emulator.devices[0], emulator.group()
    param, master, m, v = state(device)
    rng = np.random.default_rng(1)
    figures = []
    for step in range(1, 10001):
        x = device.array(rng.standard_normal((32, 128), dtype=np.float32))
        y = device.launch("gelu", device.launch("matmul", x, param.reshape(128, 32)))
        loss = device.launch("mean", device.launch("square", y))
        grad = device.launch("matmul", x, y, transpose_a=True).reshape(4096)
        pair = [grad, emulator.devices[1].zeros(4096)]
        group.all_reduce(pair)
        device.launch("adamw", param, grad, master, m, v, learning_rate=1e-3 / step, step=step)
        event = device.record()
        if step % 10 == 0:
            device.array(np.full(1 << 20, float(step), np.float32)).numpy()
        emulator.report(step=step, loss=loss.item(), tokens=step)
        assert event.seconds > 0
        if step in (1000, 10000):
            del x, y, loss, grad, pair
            use = device.memory()
            figures.append((resident(sys.argv[1]), resident("self"), use.in_use, use.reserved, use.allocations))
print(*(b - a for a, b in zip(*figures)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_training_steps_leave_nothing_behind(start: Start, directory: Path) -> None:
    process, _ = start(SUPERNODE_TRACE_EVENTS="256")  # or the traces grow until they have their 16,384 each
    variables = {**os.environ, "SUPERNODE_EMULATOR_SOCKET": str(directory / "e.sock"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, str(process.pid)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    sidecar, client, *device = map(int, done.stdout.split())
    assert device == [0, 0, 0]
    # KiB between step 1,000 and step 10,000: 3.6 GiB went through the socket's files meanwhile.
    assert sidecar < 4096
    assert client < 4096


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_memory_goes_back_to_the_machine(start: Start, directory: Path) -> None:
    process, _ = start()

    def resident() -> int:
        text = Path(f"/proc/{process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS")) >> 10

    with connect(directory / "e.sock", environment={}) as emulator:
        device = emulator.devices[0]
        before = resident()
        x = device.full((64 << 20) // 4, 1.0)
        y = device.launch("add", x, 2.0)
        assert y.part(7, (2,)).numpy().tolist() == [3, 3]
        assert resident() >= before + 128
        del x, y
        assert device.empty_cache() >= 128 << 20
        assert resident() < before + 32
        x = device.full((64 << 20) // 4, 1.0)
        assert x.part(7, (2,)).numpy().tolist() == [1, 1]
    until(lambda: resident() < before + 32, "memory of a client that left")


def test_a_share_of_a_card_by_variables(start: Start, directory: Path) -> None:
    start(SUPERNODE_DEVICE_CORES="40", SUPERNODE_DEVICE_MEMORY_MIB="512")
    with connect(directory / "e.sock", environment={}) as emulator:
        for device in emulator.devices:
            assert device.memory().limit == device.properties["memoryBytes"] == 512 << 20
            assert device.properties["cores"] == 40
        emulator.devices[0].zeros((600 << 20) // 4)
        with pytest.raises(OutOfDeviceMemoryError, match=r"hygon-bw1000, 40 % of it.*but of 512 MiB client 1 uses"):
            emulator.synchronize()


def test_a_sidecar_may_stop_and_start_as_often_as_it_likes(start: Start, directory: Path) -> None:
    for turn in range(3):
        process, _ = start()
        with connect(directory / "e.sock", environment={}) as emulator:
            assert emulator.devices[0].full(3, float(turn)).numpy()[0] == turn
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert list(directory.iterdir()) == []


def test_variables_are_enough(start: Start, directory: Path) -> None:
    """As in a pod: no flags but those that a test needs."""
    chip = {"name": "own", "memoryGiB": 2, "memoryGBps": 100, "tflops": {"f32": 1}}
    process, url = start(
        "--chip", json.dumps(chip), SUPERNODE_RANK="0", SUPERNODE_WORKERS="1", SUPERNODE_POD_IP="127.0.0.5"
    )
    assert url.startswith("http://127.0.0.5:")
    with connect(directory / "e.sock", environment={}) as emulator:
        assert emulator.devices[0].chip == "own"
        assert emulator.devices[0].memory().limit == 2 << 30
    assert process.poll() is None


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--chip", ""], "which chip?"),
        (["--chip", "nonesuch"], "no chip 'nonesuch'"),
        (["--chip", "{"], "--chip: not JSON"),
        (["--devices", "0"], "--devices: must be a whole number from 1 to 64"),
        (["--cores", "0"], "--cores: must be a whole number from 1 to 100"),
        (["--memory-mib", "65537"], "--memory-mib: must be a whole number from 1 to 65536"),
        (["--rank", "3"], "--rank: must be a whole number from 0 to 0"),
        (["--fabric-timeout", "soon"], "--fabric-timeout"),
        (["--workers", "2"], "secret"),
        (["--socket", "/" + "x" * 120], "longer than 100 bytes"),
    ],
)
def test_wrong_settings_are_named(flags: list[str], words: str, directory: Path) -> None:
    command = [sys.executable, "-m", "supernode", "emulator", "--chip", "hygon-bw1000", "--http-port", "0"]
    command += ["--socket", str(directory / "e.sock"), "--fabric-port", "0", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def run_exec(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "supernode", "emulator", "exec", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_exec() -> None:
    program = (
        "from supernode.emulator import client; e = client.connect();"
        "print(len(e.devices), e.devices[0].chip, e.devices[1].full(2, 3.0).numpy().tolist(), e.connection.path)"
    )
    done = run_exec("--chip", "hygon-bw1000", "--devices", "2", "--", sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr
    count, chip, *values, path = done.stdout.split()
    assert (count, chip, "".join(values)) == ("2", "hygon-bw1000", "[3.0,3.0]")
    assert not Path(path).parent.exists()
    assert run_exec("--chip", "hygon-bw1000", "--", sys.executable, "-c", "raise SystemExit(7)").returncode == 7
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert run_exec("--chip", "hygon-bw1000", "--", sys.executable, "-c", killed).returncode == 137
    assert run_exec("--chip", "hygon-bw1000", "--", "/no/such/program").returncode == 127
    assert "no command" in run_exec("--chip", "hygon-bw1000").stderr


def test_exec_keeps_the_devices_that_the_caller_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "from supernode.emulator import client; print([d.properties['ordinal'] for d in client.connect().devices])"
    )
    arguments = ("--chip", "hygon-bw1000", "--devices", "3", "--", sys.executable, "-c", program)
    monkeypatch.delenv("SUPERNODE_EMULATOR_SOCKET", raising=False)
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "2,0")
    assert run_exec(*arguments).stdout == "[2, 0]\n"
    # Beside a sidecar the variable speaks of that one's devices.
    monkeypatch.setenv("SUPERNODE_EMULATOR_SOCKET", "/another/e.sock")
    assert run_exec(*arguments).stdout == "[0, 1, 2]\n"


def test_exec_passes_sigterm_on(directory: Path) -> None:
    program = (
        "import signal, sys, time; signal.signal(15, lambda *a: sys.exit(9));print('up', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-m", "supernode", "emulator", "exec", "--chip", "hygon-bw1000", "--"]
    with subprocess.Popen([*command, sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 9


def test_exec_does_not_change_the_commands_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    names = "('OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS', 'OMP_NUM_THREADS')"
    program = f"import os; print([os.environ.get(n) for n in {names}])"
    done = run_exec("--chip", "hygon-bw1000", "--devices", "2", "--", sys.executable, "-c", program)
    assert done.stdout == "[None, None, '3']\n"


def test_kernel_table_is_printed() -> None:
    done = subprocess.run([sys.executable, "-m", "supernode", "emulator", "kernels"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "matmul(a, b, [bias], transpose_a=False" in done.stdout
