"""Seeded schedules in every test run, the check's own check, and that a seed is the same run every time."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

COUNT = os.environ.get("SUPERNODE_SOAK", "50")

pytestmark = pytest.mark.timeout(900)


def soak(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tests.soak", *arguments], capture_output=True, text=True, timeout=850)


def test_the_promises_hold_in_seeded_schedules() -> None:
    done = soak("--count", COUNT)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_a_seed_is_the_same_run_every_time() -> None:
    first, second = soak("--seed", "1"), soak("--seed", "1")
    traces = [re.findall(r"trace ([0-9a-f]+)", done.stdout) for done in (first, second)]
    assert traces[0] == traces[1] != []


# Where to begin, so that it is found soon; and in which words.
PLANTED = {
    "two-leaders": (1, "while operator-"),
    "ending-is-over": (1, "is gone before|run twice"),
    "finalizer-stays": (1, "a device in two hands|finalizer is stuck"),
    "finalizer-too-early": (2, "is gone before"),
    "half-a-gang": (2, "half a gang"),
    "no-quota": (12, "quota exceeded"),
    "stale-events": (2, "can't be held|run twice|two hands"),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_fault_is_found(bug: str) -> None:
    first, words = PLANTED[bug]
    done = soak("--bug", bug, "--first", str(first), "--count", "60", "--stop")
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
    assert re.search(words, done.stdout), done.stdout[-2000:]
    assert "again: make soak SEED=" in done.stdout
