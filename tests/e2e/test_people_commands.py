"""The commands for people on a running cluster, as users run them: two jobs of kind/examples, one of which waits."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from supernode.cli import main
from supernode.cluster.client import Client
from supernode.cluster.kinds import EVENTS, GROUPS, JOBS, POOLS
from supernode.emulator.trace_files import check

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "kind" / "examples"
BIN = Path(sys.executable).parent
# What the devices of each worker do, once.
WORK = (
    "from supernode.emulator.client import connect; e = connect(); "
    "e.group().all_reduce([d.full(1024, 1.0) for d in e.devices]); e.synchronize()"
)


class Done(NamedTuple):
    """What a command did."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Cluster:
    """A local cluster and the command line on it."""

    environment: dict[str, str]

    def local(self, *arguments: str) -> None:
        """`supernode local ...` as a process of its own."""
        command = [sys.executable, "-m", "supernode", "local", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr

    def run(self, *arguments: str, **environment: str) -> Done:
        """A command in this process: starting one each time would be most of the time."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (self.environment | environment).items():
                patch.setenv(name, value)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(arguments)
        return Done(code, out.getvalue(), err.getvalue())

    def text(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.text(*arguments, "-o", "json"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Job `gpt` runs (for long enough), job `wide` waits for it."""
    with tempfile.TemporaryDirectory(prefix="sn", dir="/tmp") as folder:
        root = Path(folder)
        environment = {**os.environ, "SUPERNODE_LOCAL_DIR": f"{folder}/d", "COLUMNS": "100"}
        environment["KUBECONFIG"] = f"{folder}/d/p/kubeconfig"
        environment.pop("NO_COLOR", None)
        environment["TERM"] = "xterm"
        cluster = Cluster(environment)
        try:
            cluster.local("up", "--detach", "--name", "p")
            apply(root, environment["KUBECONFIG"])
            deadline = time.monotonic() + 60
            while (found := [state(cluster, "gpt"), state(cluster, "wide")]) != ["Running", "Waiting"]:
                assert time.monotonic() < deadline, found
                time.sleep(0.2)
            yield cluster
        finally:
            cluster.local("down", "--name", "p")


def state(cluster: Cluster, job: str) -> str:
    return next((row["state"] for row in cluster.json("top")["jobs"] if row["job"] == f"default/{job}"), "")


async def placed(client: Client) -> None:
    """Wait until the first job holds its devices."""
    async with asyncio.timeout(30):
        while not ((await client.get(JOBS, "gpt", "default")).get("status") or {}).get("placement"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def apply(folder: Path, kubeconfig: str) -> None:
    """The examples, with a program that trains nothing but ends only when it is told to."""

    def objects(name: str) -> list[dict[str, Any]]:
        return list(yaml.safe_load_all((EXAMPLES / name).read_text()))

    async def create() -> None:
        client = await Client.connect(kubeconfig)
        try:
            for pool in objects("10-pools.yaml"):
                await client.create(POOLS, pool)
            await client.create(GROUPS, objects("20-group.yaml")[0])
            for name in ("30-job-gpt.yaml", "40-job-wide.yaml"):
                job = objects(name)[0]
                container = job["spec"]["template"]["spec"]["containers"][0]
                container["command"] = ["sh", "-c"]
                container["image"] = "python"
                hello = "printf 'rank %s\\n\\033[2Jone\\n' $SUPERNODE_RANK"
                code = f"{hello}; python -c '{WORK}'; while [ ! -e {folder}/end ]; do sleep 0.2; done; echo bye"
                container["args"] = [code]
                await client.create(JOBS, job, "default")
                if name.startswith("30"):
                    await placed(client)
        finally:
            await client.close()

    asyncio.run(create())


def test_status_shows_who_leads_pools_groups_and_jobs(cluster: Cluster) -> None:
    text = cluster.text("status")
    assert re.search(r"operator  \S+ leads, renewed \d+s ago", text)
    assert re.search(r"^dcu-bw1000 +hygon-bw1000 +Emulated +4 +8 +4 +4 +0 +yes$", text, re.MULTILINE)
    assert re.search(r"^dcu-bw1000 +scalex/spine +4 of 8 +0% +spine-0$", text, re.MULTILINE)
    assert re.search(r"^dcu-bw1000 +scalex/node +2 of 2 +0% +spine-0/sn-1/dcu-[23]$", text, re.MULTILINE)
    assert re.search(r"^scalex +4 +spine 1, supernode 2 +yes$", text, re.MULTILINE)
    assert "jobs      2: 1 Waiting, 1 Running" in text
    assert "default/gpt holds 4" in text
    assert cluster.json("status")["jobs"]["states"] == {"Waiting": 1, "Running": 1}


def test_why_tells_of_both_jobs(cluster: Cluster) -> None:
    waits = cluster.text("why", "wide")
    assert "default/wide is Waiting (InsufficientAccelerators)" in waits
    assert "supernode  spine-0/sn-1  4 of 4  2" in waits
    assert "held by: default/gpt 4" in waits
    runs = cluster.text("why", "default/gpt")
    assert "runs in: pool dcu-bw1000, all in supernode spine-0/sn-0" in runs
    assert "also waiting for these pools:" in runs
    assert yaml.safe_load(cluster.text("why", "gpt", "-o", "yaml"))["placement"]["domain"] == "spine-0/sn-0"


def test_the_log_tells_each_jobs_life_with_its_name_and_the_cycle(cluster: Cluster) -> None:
    log = Path(cluster.environment["SUPERNODE_LOCAL_DIR"]) / "p" / "operator.log"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(line.keys() >= {"time", "level", "logger", "message"} for line in lines)
    about = [line for line in lines if line["logger"] == "supernode.handlers.tell" or "default/gpt" in line["message"]]
    assert [line for line in about if not line.keys() >= {"job", "cycle"}] == []
    life = [line["message"].partition(":")[0] for line in about if line["job"] == "default/gpt"]
    assert life[:2] == ["placed", "Starting -> Running"]
    assert any(line["message"].startswith("waits (") for line in about if line["job"] == "default/wide")


def test_events_tell_a_life_in_order_and_once(cluster: Cluster) -> None:
    async def read() -> list[dict[str, Any]]:
        client = await Client.connect(cluster.environment["KUBECONFIG"])
        try:
            return list((await client.list_page(EVENTS, "default"))["items"])
        finally:
            await client.close()

    found = [event for event in asyncio.run(read()) if event["involvedObject"]["name"] == "gpt"]
    assert [event["reason"] for event in sorted(found, key=lambda event: event["metadata"]["name"])][:2] == [
        "Placed",
        "Running",
    ]
    assert all(event["count"] == 1 and len(event["message"].splitlines()) == 1 for event in found)
    assert len({event["message"] for event in found}) == len(found)


def test_tree_and_ranks_agree(cluster: Cluster) -> None:
    picture = cluster.text("tree", "scalex")
    assert "    |   |-- dcu-0  aa  default/gpt rank 0\n" in picture
    assert picture.isascii()
    lines = cluster.text("ranks", "gpt").splitlines()
    assert lines[0].split() == ["RANK", "NODE", "SPINE", "SUPERNODE", "DEVICES", "PHASE", "READY", "POD"]
    assert lines[1].split() == ["0", "dcu-0", "spine-0", "sn-0", "0-1", "Running", "yes", "gpt-worker-0"]
    assert cluster.json("ranks", "wide")["workers"] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("why", "gtp"), 'supernode why: no job "gtp" in namespace default; did you mean gpt?'),
        (("ranks", "gpt", "-n", "kube-system"), "but there is default/gpt"),
        (("tree", "scale"), 'no group "scale"; did you mean scalex?'),
        (("trace", "wide"), "job default/wide is Waiting and has no pods: needs 4 workers"),
        (("trace", "gpt", "--rank", "2"), "its ranks are 0 to 1"),
        (("logs", "wide"), "job default/wide is Waiting and has no pods: needs 4 workers"),
        (("logs", "gpt", "-c", "trainr"), "did you mean trainer"),
        (("top", "--kubeconfig", "/nowhere"), "no kubeconfig at /nowhere"),
    ],
)
def test_errors_are_one_line_that_helps(cluster: Cluster, arguments: tuple[str, ...], words: str) -> None:
    done = cluster.run(*arguments)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert words in done.stderr


def test_no_cluster_is_one_line(cluster: Cluster, tmp_path: Path) -> None:
    config = yaml.safe_load(Path(cluster.environment["KUBECONFIG"]).read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    done = cluster.run("status", KUBECONFIG=str(tmp_path / "config"))
    assert done.returncode == 1
    assert done.stderr.startswith("supernode status: no answer from the cluster at https://127.0.0.1:9: ")
    assert len(done.stderr.splitlines()) == 1
    (tmp_path / "config").write_text("a: [")
    done = cluster.run("top", KUBECONFIG=str(tmp_path / "config"))
    assert done.stderr.startswith("supernode top: the Kubernetes configuration cannot be used: while parsing")
    assert len(done.stderr.splitlines()) == 1


def test_on_a_terminal_it_has_colours_fits_and_is_clean(cluster: Cluster) -> None:
    text = on_terminal(cluster, ["why", "wide"], columns=60)
    assert "\x1b[33mWaiting\x1b[0m" in text
    plain = re.sub(r"\x1b\[\d+m", "", text)
    assert "\x1b" not in plain
    assert max(map(len, plain.split("\n"))) <= 60


def test_top_on_a_terminal_renews_itself_and_leaves_the_screen_as_it_was(cluster: Cluster) -> None:
    text = on_terminal(cluster, ["top", "--interval", "0.2"], columns=100, frames=3)
    assert text.startswith("\x1b[?1049h")
    assert text.count("default/gpt") >= 3
    assert text.endswith("\x1b[?25h\x1b[?1049l")


def on_terminal(cluster: Cluster, arguments: list[str], *, columns: int, frames: int = 0) -> str:
    """What a command writes to a terminal; with `frames` it is ended by SIGINT after so many."""
    ours, other = pty.openpty()
    variables = cluster.environment | {"COLUMNS": str(columns), "LINES": "40"}
    command = [sys.executable, "-m", "supernode", *arguments]
    process = subprocess.Popen(command, env=variables, stdin=other, stdout=other, stderr=other)
    os.close(other)
    seen = b""
    deadline = time.monotonic() + 30
    stopped = False
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            seen += piece
        if frames and not stopped and seen.count(b"\x1b[J") >= frames:
            process.send_signal(signal.SIGINT)
            stopped = True
    process.wait(10)
    os.close(ours)
    assert process.returncode == (130 if frames else 0), seen
    return seen.decode().replace("\r\n", "\n")


def test_kubectl_finds_the_plugin(cluster: Cluster) -> None:
    assets = os.environ.get("KUBEBUILDER_ASSETS", "")
    kubectl = shutil.which("kubectl", path=assets) or shutil.which("kubectl")
    if kubectl is None or not (BIN / "kubectl-supernode").exists():
        pytest.skip("needs kubectl: set KUBEBUILDER_ASSETS")
    environment = cluster.environment | {"PATH": os.pathsep.join([str(BIN), os.environ["PATH"]])}
    done = subprocess.run(
        [kubectl, "supernode", "why", "wide"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("default/wide is Waiting")
    done = subprocess.run([kubectl, "supernode", "--help"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("usage: kubectl supernode ")


def test_trace_has_the_work_of_all_devices_of_the_job(cluster: Cluster, tmp_path: Path) -> None:
    out = tmp_path / "gpt.json"
    deadline = time.monotonic() + 60
    while True:
        told = cluster.json("trace", "gpt", "--file", str(out))
        if [device["events"] for device in told["devices"]] == [2, 2, 2, 2]:
            break
        assert time.monotonic() < deadline, told
        time.sleep(0.2)
    assert (told["job"], told["file"], told["missing"]) == ("default/gpt", str(out), [])
    trace = json.loads(out.read_text())
    check(trace, "trace")
    done = {(e["pid"], e["name"]): e for e in trace["traceEvents"] if e["ph"] == "X"}
    assert sorted(done) == sorted((rank, name) for rank in range(4) for name in ("all_reduce", "full"))
    ends = {event["ts"] + event["dur"] for (_, name), event in done.items() if name == "all_reduce"}
    assert max(ends) - min(ends) < 1e-3
    assert {source["from"] for source in trace["otherData"]["sources"]} == {"gpt-worker-0", "gpt-worker-1"}
    table = cluster.text("trace", "gpt", "--file", str(out), "--rank", "1").splitlines()
    assert table[0].split() == ["RANK", "TIME", "KERNELS", "COPIES", "COLLECTIVES", "EVENTS", "DROPPED"]
    assert [line.split()[0] for line in table[1:-1]] == ["2", "3"]
    assert table[-1].startswith(f"wrote {out}")
    assert json.loads(cluster.text("trace", "gpt", "--file", "-"))["traceEvents"] == trace["traceEvents"]


def test_logs_of_all_ranks_and_followed_to_the_end(cluster: Cluster) -> None:
    """It lets the workers end: what stands below needs no running job."""
    assert cluster.text("logs", "gpt").splitlines() == [
        "[0] rank 0",
        "[0] \\x1b[2Jone",
        "[1] rank 1",
        "[1] \\x1b[2Jone",
    ]
    assert cluster.text("logs", "gpt", "--rank", "1", "--tail", "1") == "[1] \\x1b[2Jone\n"
    lines = [json.loads(line) for line in cluster.text("logs", "gpt", "--rank", "0", "-o", "json").splitlines()]
    assert lines[1] == {"rank": 0, "pod": "gpt-worker-0", "container": "trainer", "line": "\x1b[2Jone"}
    assert "[0] " in cluster.text("logs", "gpt", "-c", "supernode-emulator", "--rank", "0")
    follower = subprocess.Popen(
        [sys.executable, "-m", "supernode", "logs", "-f", "gpt"],
        env=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout is not None
    first = [follower.stdout.readline() for _ in range(4)]
    (Path(cluster.environment["SUPERNODE_LOCAL_DIR"]).parent / "end").touch()
    rest, errors = follower.communicate(timeout=30)
    assert (follower.returncode, errors) == (0, "")
    assert sorted(line.strip() for line in first) == ["[0] \\x1b[2Jone", "[0] rank 0", "[1] \\x1b[2Jone", "[1] rank 1"]
    assert sorted(rest.splitlines()) == ["[0] bye", "[1] bye"]
    reader = cluster.run("logs", "gpt", "--rank", "9")
    assert "its ranks are 0 to 1" in reader.stderr
    late = cluster.run("trace", "gpt", "--file", "/dev/null")
    assert (late.returncode, late.stdout) == (1, "")
    assert "rank 0: no trace: it has ended, and its emulator with it; ask while the job runs" in late.stderr


def test_a_reader_that_leaves_early_is_no_error(cluster: Cluster) -> None:
    command = [sys.executable, "-m", "supernode", "logs", "-f", "gpt"]
    process = subprocess.Popen(command, env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(30) == 0
    process.stderr.close()
