"""Planted faults, at least one for each promise: the checks find each, in the words of the promise, in few seeds."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.soak.bugs import BUGS

pytestmark = pytest.mark.timeout(600)

# Fault -> the promise that it breaks, and where to begin so that it is found soon.
PLANTED = {
    "two-leaders": (r"writes .* while", 1),
    "no-guard": (r"writes .* while", 2),
    "ending-is-over": (r"job run twice: .* while pods of attempt", 1),
    "restarting-is-free": (r"a device in two hands", 1),
    "finalizer-stays": (r"a finalizer is stuck", 3),
    "finalizer-too-early": (r"orphan pods: job .* is gone before", 3),
    "nobody-sweeps": (r"orphan: pod", 2),
    "half-a-gang": (r"half a gang", 3),
    "no-quota": (r"quota exceeded", 1),
    "no-second-try": (r"job lost: failed after", 1),
    "one-is-enough": (r"job lost: it has succeeded, but", 1),
    "lost-from-the-queue": (r"job lost: after", 1),
    "attempts-begin-again": (r"an attempt is forgotten", 1),
    "ended-runs-again": (r"job run twice: Succeeded became", 1),
    "stale-events": (r"can't be held|two hands", 15),
    "unread-lists": (r"is gone before|can't be held|without a claim", 1),
    "blind-writes": (r"run twice|forgotten|can't be held|two hands", 45),
    "ignored-conflicts": (r"without a claim", 5),
    "nobody-asks-first": (r"stopped in vain", 1),
}
MOST = 400  # schedules: whatever moves them (timing of the operator) may put the telling one later


def test_every_fault_that_can_be_planted_is() -> None:
    assert PLANTED.keys() == BUGS.keys()


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_fault_is_found(bug: str) -> None:
    words, first = PLANTED[bug]
    arguments = ["--bug", bug, "--first", str(first), "--count", str(MOST), "--until", words]
    done = subprocess.run([sys.executable, "-m", "tests.soak", *arguments], capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].startswith("seed ")
