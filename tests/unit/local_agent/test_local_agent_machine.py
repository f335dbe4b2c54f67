"""What touches this machine: addresses, volumes, the state directory, marked processes."""

from __future__ import annotations

import asyncio
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supernode.errors import LocalError
from supernode.local.agent.addresses import AddressBlock, pod_owner
from supernode.local.agent.environment import ConfigError
from supernode.local.agent.execute import execute
from supernode.local.agent.sandbox import Launch
from supernode.local.agent.substitute import PathMap
from supernode.local.agent.supervise import Warden
from supernode.local.agent.volumes import VolumeContext, make_volumes, memory_root, mounts_of, remove
from supernode.local.agent.warden import MARK_VARIABLE, kill_marked, marked_processes
from supernode.local.engines.envtest import find_assets, new_service_account_key
from supernode.local.state_directory import Record, StateDirectory

Object = dict[str, Any]


def test_two_clusters_never_share_an_address() -> None:
    first, second = AddressBlock("same"), AddressBlock("same")
    try:
        assert first.prefix != second.prefix
        assert first.address("a") == first.address("a") != first.address("b")
        assert first.address("a").startswith(first.prefix)
    finally:
        first.close()
        second.close()


def test_an_address_is_stable_by_name_and_reused_late() -> None:
    block = AddressBlock("x")
    try:
        named = block.address(pod_owner("ns", "w-0", "job", "uid1"))
        assert block.address(pod_owner("ns", "w-0", "job", "uid2")) == named
        assert block.address(pod_owner("ns", "w-0", None, "uid1")) != named
        block.release(pod_owner("ns", "w-0", "job", ""))
        assert block.address("fresh") != named
    finally:
        block.close()


def a_context(directory: Path, **objects: Object) -> VolumeContext:
    async def lookup(kind: str, name: str) -> Object | None:
        return {**objects[name], "kind": kind} if name in objects else None

    async def token(account: str, audience: str, seconds: int) -> str:
        return f"token-{account}-{audience}-{seconds}"

    return VolumeContext(directory, directory / "m", lookup, token, lambda text: text.replace("NAME", "ADDRESS"), {})


def a_pod(*volumes: Object) -> Object:
    meta = {"name": "p", "namespace": "n", "labels": {"a": "b"}}
    return {"metadata": meta, "spec": {"containers": [], "volumes": list(volumes)}}


async def test_volumes_of_every_kind(tmp_path: Path) -> None:
    context = a_context(tmp_path, cm={"data": {"f": "to NAME"}}, s={"data": {"k": "aHVzaA=="}})
    downward = {"items": [{"path": "d/labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}
    token = {"serviceAccountToken": {"path": "token", "expirationSeconds": 600, "audience": "x"}}
    found = await make_volumes(
        a_pod(
            {"name": "e", "emptyDir": {}},
            {"name": "m", "emptyDir": {"medium": "Memory"}},
            {"name": "c", "configMap": {"name": "cm", "items": [{"key": "f", "path": "x/y", "mode": 0o400}]}},
            {"name": "s", "secret": {"secretName": "s"}},
            {"name": "d", "downwardAPI": downward},
            {"name": "p", "projected": {"sources": [token, {"configMap": {"name": "cm"}}, {"downwardAPI": downward}]}},
            {"name": "o", "secret": {"secretName": "nope", "optional": True}},
            {"name": "h", "hostPath": {"path": "/usr"}},
        ),
        context,
    )
    assert found["m"].is_relative_to(tmp_path / "m")
    assert (found["c"] / "x/y").read_text() == "to ADDRESS"
    assert (found["c"] / "x/y").stat().st_mode & 0o777 == 0o400
    assert (found["s"] / "k").read_text() == "hush"
    assert (found["d"] / "d/labels").read_text() == 'a="b"'
    assert (found["p"] / "token").read_text() == "token-default-x-600"
    assert (found["p"] / "f").exists()
    assert list(found["o"].iterdir()) == []
    assert found["h"] == Path("/usr")
    remove(tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        ({"configMap": {"name": "nope"}}, 'configmap "nope" not found'),
        ({"configMap": {"name": "cm", "items": [{"key": "zz", "path": "a"}]}}, "zz"),
        ({"configMap": {"name": "cm", "items": [{"key": "f", "path": "../../x"}]}}, "leaves its volume"),
        ({"nfs": {"server": "x"}}, "nfs"),
    ],
)
async def test_a_volume_that_cannot_be_made_says_why(tmp_path: Path, volume: Object, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        await make_volumes(a_pod({"name": "v", **volume}), a_context(tmp_path, cm={"data": {"f": "x"}}))


def test_sub_paths_stay_in_their_volume(tmp_path: Path) -> None:
    mounts = [{"name": "v", "mountPath": "/d", "subPathExpr": "a/$(N)"}]
    assert mounts_of({"name": "c", "volumeMounts": mounts}, {"v": tmp_path}, {"N": "x"}) == {"/d": f"{tmp_path}/a/x"}
    mounts = [{"name": "v", "mountPath": "/d", "subPath": "../x"}]
    with pytest.raises(ConfigError, match="leaves its volume"):
        mounts_of({"name": "c", "volumeMounts": mounts}, {"v": tmp_path}, {})


def test_memory_volumes_have_a_place(tmp_path: Path) -> None:
    assert memory_root(tmp_path, "x") in (Path("/dev/shm/x"), tmp_path / "m")


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a short path, as a state directory needs."""
    with tempfile.TemporaryDirectory(prefix="sn", dir="/tmp") as folder:
        yield Path(folder)


def test_a_cluster_runs_once_and_a_killed_ones_remains_go(short: Path) -> None:
    first = StateDirectory("a", short / "r")
    first.acquire()
    record = Record("a", os.getpid(), "embedded", "http://x", "k", 5, "T", True, "o", "l", "ready")
    first.write(record)
    assert first.path.stat().st_mode & 0o077 == first.memory.stat().st_mode & 0o077 == 0
    second = StateDirectory("a", short / "r")
    assert second.running()
    assert second.read() == record
    with pytest.raises(LocalError, match=r"already running \(process \d+, http://x\).*local down --name a"):
        second.acquire()
    (first.path / "p" / "x").mkdir(parents=True)
    first.clear()
    assert [entry.name for entry in first.path.iterdir()] == ["lock"]
    first.remove()
    assert not (short / "r").exists()
    assert not first.memory.exists()
    assert not second.running()


@pytest.mark.parametrize("name", ["", "A", "-a", "a/b", "x" * 33])
def test_cluster_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(LocalError, match="cluster name"):
        StateDirectory(name, tmp_path)


def test_a_directory_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="SUPERNODE_LOCAL_DIR"):
        StateDirectory("a", tmp_path / ("x" * 60))


async def test_the_warden_kills_what_is_left_even_what_left_its_group(tmp_path: Path) -> None:
    mark = str(tmp_path)
    warden = Warden(mark)
    await warden.start()
    # The child makes a session of its own and ignores SIGTERM, as a badly behaved program would.
    script = "(trap '' TERM; exec setsid sleep 600) & (trap '' TERM; sleep 600)"
    with (tmp_path / "out").open("wb") as out:
        process = await warden.spawn(
            ["/bin/sh", "-c", script],
            environment={"PATH": os.environ["PATH"]},
            directory=tmp_path,
            output=out.fileno(),
            label="uid/c",
        )
    while len(marked_processes(f"{mark}#uid/c")) < 3:  # noqa: ASYNC110 - other processes set no event
        await asyncio.sleep(0.02)
    assert marked_processes(f"{mark}#uid") == marked_processes(mark)
    assert marked_processes(f"{mark}#ui") == []
    await warden.stop()
    assert marked_processes(mark) == []
    assert await process.wait() == -9


def test_only_marked_processes_are_killed(tmp_path: Path) -> None:
    ours, others = (
        subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], env={MARK_VARIABLE: f"{tmp_path}{tail}"}
        )
        for tail in ("#x", "-other")
    )
    try:
        while not marked_processes(str(tmp_path)):
            pass
        assert kill_marked(str(tmp_path)) == [ours.pid]
        assert others.poll() is None
    finally:
        for process in (ours, others):
            process.kill()
            process.wait()


def test_envtest_without_its_programs_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    with pytest.raises(LocalError, match="KUBEBUILDER_ASSETS is not set"):
        find_assets()
    (tmp_path / "etcd").touch()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    with pytest.raises(LocalError, match="lacks kube-apiserver;"):
        find_assets()


def test_service_account_keys_are_fresh_pem() -> None:
    first, second = new_service_account_key(), new_service_account_key()
    assert first != second
    assert first.startswith("-----BEGIN EC PRIVATE KEY-----\n")


async def test_a_command_in_a_container_can_be_cancelled_at_any_moment(tmp_path: Path) -> None:
    warden = Warden(str(tmp_path))
    await warden.start()
    environment = {"PATH": os.environ["PATH"]}
    launch = Launch(["true"], environment, tmp_path, PathMap({}), str)

    async def forever() -> None:
        while True:
            assert await execute(["true"], launch, warden, label="u/c", seconds=5) == (0, "")

    moments = random.Random(1)
    for _ in range(100):
        task = asyncio.create_task(forever())
        await asyncio.sleep(moments.uniform(0, 0.01))
        task.cancel()
        async with asyncio.timeout(10):
            assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)
    assert await execute(["sh", "-c", "echo x; sleep 9"], launch, warden, label="u/c", seconds=0.2) == (None, "x\n")
    assert (await execute(["/no/such"], launch, warden, label="u/c", seconds=1))[0] == 126
    await warden.stop()
    assert marked_processes(str(tmp_path)) == []


async def test_a_cancellation_is_not_lost_when_the_command_ends_in_the_same_moment(tmp_path: Path) -> None:
    class Ended:
        """A process that ends when the test says so."""

        def __init__(self, pid: int) -> None:
            self.pid = pid
            self.end: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def wait(self) -> int:
            return await asyncio.shield(self.end)

    class Staged(Warden):
        async def spawn(self, *arguments: Any, **options: Any) -> Any:
            real = await asyncio.create_subprocess_exec("true")
            await real.wait()
            self.process = Ended(real.pid)
            spawned.set()
            return self.process

    spawned = asyncio.Event()
    warden = Staged(str(tmp_path))
    launch = Launch(["true"], {}, tmp_path, PathMap({}), str)
    task = asyncio.create_task(execute(["true"], launch, warden, label="u/c", seconds=5))
    await spawned.wait()
    await asyncio.sleep(0.01)
    warden.process.end.set_result(0)
    await asyncio.sleep(0)
    task.cancel()
    assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)
