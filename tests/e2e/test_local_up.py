"""`supernode local`: up, status, down; Ctrl-C and SIGKILL; nothing is ever left behind, by the process table."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supernode.local.agent.warden import marked_processes
from supernode.local.client import Connection, KubeClient

BARE = ("--no-operator", "--cluster")
ONE_NODE = "{apiVersion: v1, kind: Node, metadata: {name: only}, status: {capacity: {cpu: '4'}}}\n"
ENGINES = ["embedded", pytest.param("envtest", marks=pytest.mark.envtest)]


class Machine:
    """A directory for clusters, and the command line on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "d"
        self.environment = {**os.environ, "SUPERNODE_LOCAL_DIR": str(self.root)}
        self.file = folder / "nodes.yaml"
        self.file.write_text(ONE_NODE)

    def local(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "supernode", "local", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)

    def up(self, name: str, *flags: str) -> Path:
        done = self.local("up", "--detach", "--name", name, *BARE, str(self.file), *flags)
        assert done.returncode == 0, done.stdout + done.stderr
        path = self.root / name / "kubeconfig"
        assert f"export KUBECONFIG={path}" in done.stdout
        return path

    def foreground(self, name: str, *flags: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "supernode", "local", "up", "--name", name, *BARE, str(self.file), *flags]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def status(self) -> list[dict[str, object]]:
        done = self.local("status", "-o", "json")
        found: list[dict[str, object]] = json.loads(done.stdout)
        return found

    def processes(self, name: str) -> list[int]:
        """Everything that belongs to a cluster, the process that runs it not included."""
        return marked_processes(str(self.root / name))


@pytest.fixture
def machine() -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="sn", dir="/tmp") as folder:
        machine = Machine(Path(folder))
        yield machine
        for entry in machine.status():
            machine.local("down", "--name", str(entry["name"]))
        assert not machine.root.exists()


def until(check: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def run_pod(kubeconfig: Path, script: str) -> None:
    """Run a pod and wait until it is ready."""

    async def run() -> None:
        async with KubeClient(Connection.from_kubeconfig(kubeconfig)) as client:
            container = {"name": "c", "image": "python", "command": ["sh", "-c", script]}
            spec = {"nodeName": "only", "containers": [container], "automountServiceAccountToken": False}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}
            async with asyncio.timeout(30):
                while not (await client.get("/api/v1/namespaces/default/serviceaccounts")).get("items"):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                await client.create("/api/v1/namespaces/default/pods", pod)
                path = "/api/v1/namespaces/default/pods/p"
                while (await client.get(path)).get("status", {}).get("phase") != "Running":  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

    asyncio.run(run())


# Ignores SIGTERM and has a child in a session of its own.
STUBBORN = "trap '' TERM; setsid sleep 600 & while :; do sleep 0.1; done"


@pytest.mark.parametrize("engine", ENGINES)
def test_up_status_down(machine: Machine, engine: str) -> None:
    kubeconfig = machine.up("a", "--engine", engine)
    assert kubeconfig.stat().st_mode & 0o077 == 0
    assert (machine.root / "a").stat().st_mode & 0o077 == 0
    run_pod(kubeconfig, STUBBORN)
    (found,) = machine.status()
    assert (found["name"], found["state"], found["engine"]) == ("a", "ready", engine)
    assert found["nodes"] == {"total": 1, "ready": 1}
    assert found["pods"] == {"total": 1, "running": 1}
    assert found["operator"] == {"state": "absent", "log": ""}
    table = machine.local("status").stdout
    assert "NAME" in table
    assert str(found["url"]) in table
    again = machine.local("up", "--detach", "--name", "a", "--no-operator")
    assert again.returncode == 1
    assert "already running" in again.stdout + again.stderr
    pid = int(str(found["pid"]))
    down = machine.local("down", "--name", "a")
    assert (down.returncode, down.stdout) == (0, 'cluster "a" is down\n')
    assert machine.processes("a") == []
    stat = Path(f"/proc/{pid}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"
    assert not machine.root.exists()
    assert machine.local("down", "--name", "a").stdout == 'cluster "a" was not running\n'


@pytest.mark.parametrize("engine", ENGINES)
def test_sigkill_of_the_cluster_leaves_no_process_and_the_next_up_works(machine: Machine, engine: str) -> None:
    run_pod(machine.up("a", "--engine", engine), STUBBORN)
    assert len(machine.processes("a")) >= 3
    (found,) = machine.status()
    os.kill(int(str(found["pid"])), signal.SIGKILL)
    until(lambda: not machine.processes("a"))
    assert machine.status()[0]["state"] == "dead"
    run_pod(machine.up("a"), "sleep 600")
    machine.local("down", "--name", "a")
    assert machine.processes("a") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_takes_the_foreground_cluster_down(machine: Machine, number: signal.Signals) -> None:
    process = machine.foreground("a")
    assert process.stdout is not None
    lines = []
    while not lines or "Ctrl-C" not in lines[-1]:
        lines.append(process.stdout.readline())
    assert any(line.startswith("export KUBECONFIG=") for line in lines)
    run_pod(machine.root / "a" / "kubeconfig", STUBBORN)
    process.send_signal(number)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0, rest
    assert "taking the cluster down" in rest
    assert machine.processes("a") == []
    assert not machine.root.exists()


def test_a_signal_while_it_starts_leaves_nothing(machine: Machine) -> None:
    process = machine.foreground("a")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert machine.processes("a") == []
    assert not machine.root.exists()


def test_two_clusters_side_by_side(machine: Machine) -> None:
    extra = machine.folder / "extra" / "config"
    machine.up("a")
    done = machine.local("up", "--detach", "--name", "b", *BARE, str(machine.file), "--kubeconfig", str(extra))
    assert f"export KUBECONFIG={extra}" in done.stdout
    run_pod(machine.root / "a" / "kubeconfig", "sleep 600")
    run_pod(extra, "sleep 600")
    assert [entry["name"] for entry in machine.status()] == ["a", "b"]
    machine.local("down", "--name", "b")
    assert not extra.exists()
    assert [entry["state"] for entry in machine.status()] == ["ready"]
    machine.local("down", "--name", "a")


def test_a_kubeconfig_of_somebody_else_is_not_overwritten(machine: Machine) -> None:
    mine = machine.folder / "config"
    mine.write_text("contexts: [{name: production}]\n")
    done = machine.local("up", "--detach", "--name", "a", *BARE, str(machine.file), "--kubeconfig", str(mine))
    assert done.returncode == 1
    assert f"{mine} is a kubeconfig for something else" in done.stdout + done.stderr
    assert "production" in mine.read_text()
    assert not machine.root.exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--cluster", "/no/such/file"), "cannot read the cluster file /no/such/file"),
        (("--image", "x"), "NAME=COMMAND"),
        (("--name", "Not_A_Name"), "cluster name 'Not_A_Name'"),
    ],
)
def test_wrong_arguments_are_one_line(machine: Machine, flags: tuple[str, ...], words: str) -> None:
    done = machine.local("up", "--no-operator", *flags)
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_operator_leads_when_up_returns(machine: Machine) -> None:
    done = machine.local("up", "--detach", "--name", "o")
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = machine.status()
    assert str(found["operator"]["state"]).startswith("led by")  # type: ignore[index]
    log = Path(str(found["operator"]["log"]))  # type: ignore[index]
    assert log.is_file()
    # It is started again when it ends.
    first = [pid for pid in machine.processes("o") if b"operator" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(first[0], signal.SIGKILL)
    until(lambda: any(b"operator" in _command(pid) for pid in machine.processes("o") if pid not in first))
    machine.local("down", "--name", "o")
    assert machine.processes("o") == []


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
