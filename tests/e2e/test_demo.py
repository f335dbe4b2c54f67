"""`supernode demo` as a user runs it: real processes, and nothing left afterwards."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def processes_of(marker: str) -> list[str]:
    """Command lines of living processes whose environment carries `marker`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """A state directory of this test's own; nothing that carries it may live on after the test.

    It is short, because paths of Unix sockets are.
    """
    with tempfile.TemporaryDirectory(prefix="sn-") as folder:
        yield os.environ | {"SUPERNODE_LOCAL_DIR": f"{folder}/s"}
        left = processes_that_stay(f"SUPERNODE_LOCAL_DIR={folder}/s")
        files = list(Path(folder).iterdir())
    assert not left
    assert not files


def processes_that_stay(marker: str) -> list[str]:
    """Processes that still live some seconds after everything should have ended."""
    deadline = time.monotonic() + 15
    while (left := processes_of(marker)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def demo(output: Path) -> list[str]:
    return [sys.executable, "-m", "supernode", "demo", "--output", str(output)]


@pytest.mark.timeout(300)
def test_every_promise_of_the_demo_holds(tmp_path: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        demo(tmp_path / "out"), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["held"] is True
    jobs = {job["job"]: job for job in report["jobs"]}
    assert jobs["gpt"]["state"] == jobs["wide"]["state"] == "Succeeded"
    assert jobs["gpt"]["lastLoss"] < report["unigramLoss"] < jobs["gpt"]["firstLoss"]
    assert len(report["digests"]) == 4
    assert "PREDICTED" in done.stdout


@pytest.mark.timeout(120)
@pytest.mark.parametrize("after", ["starting a local cluster", "gpt Running"])
def test_ctrl_c_tears_everything_down(tmp_path: Path, environment: dict[str, str], after: str) -> None:
    process = subprocess.Popen(
        demo(tmp_path / "out"), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if after in line:
            break
    else:
        pytest.fail(f"the demo ended before {after!r}:\n{''.join(lines)}")
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130, "".join(lines) + rest
    assert "interrupted: taking the local cluster down" in rest
